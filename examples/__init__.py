"""Examples: what attention is used for, on real data, in both backends, from the same bits."""
