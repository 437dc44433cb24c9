"""Contracts from configs: the config of a transformers model gives the contract of the attention of its port."""
