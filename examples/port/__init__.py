"""A port with one mistake, for `attention compare` to find: GELU by erf in PyTorch, by tanh in Flax.

attention compare examples/port/model_torch.py:Block examples/port/model_jax.py:Block --inputs 2,7,24 --values first
"""
