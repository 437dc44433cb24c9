"""Contracts from configs: where one side is a transformers model, its config says what the attention of the other must be."""
