"""Mutations: the catalogue of known mistakes, and how each is applied."""
