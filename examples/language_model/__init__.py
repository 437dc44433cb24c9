"""A language model in both backends: SmolLM2's trained weights, and Austen's novels learned from nothing."""
