"""Compare two models block by block, each block on the inputs that it receives in its model."""
