"""Block by block: the repeated parts of two models, each compared on what it really received."""
