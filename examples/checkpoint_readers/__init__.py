"""Readers of other programs' weight files, for the examples that run trained models: CTranslate2, Marian, GGUF."""
