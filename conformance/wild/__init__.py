"""Pairs of programs, as different people write them: a PyTorch module and its port to JAX, with known mistakes.

They were written without a look at the rules by which this package finds and names mistakes, so that they test those rules
and not the other way round. Each file of `seen` is one pair of one family (a U-Net, a GRU, a loss, ...) and defines:

    inputs()        the NumPy inputs of both programs, from a seed: a tuple (positional) or a dict (by name)
    torch_side()    the torch.nn.Module, with seeded random parameters, norm weights, biases and running statistics
    jax_side()      the JAX program: an nnx.Module, (linen_module, variables), (function, parameters) or a callable pytree
    LOADED          True: jax_side() holds the torch side's values already, by the file's own conversion.
                    False: it has random values of its own, and convert() says what the true ones are
    SINGLE          True where a part of either side computes in float32 always, so that float64 shows no more
    convert(module) the JAX program with the values of that torch module (only where LOADED is False)
    MISTAKES        3 to 5 dicts: name (plain English), side ("torch" or "jax"), old and new (the text that is replaced,
                    which occurs once in the file before MISTAKES), line (where `old` begins, counted from 1)

A mistake is planted by replacing `old` by `new` in the text of the file and importing the result.
`python -m conformance.wild.check` verifies all of that with plain torch and JAX: the right pair agrees to rounding in float32
and float64, gradients of the inputs included, and each mistake changes outputs, or gradients where it leaves the outputs alone,
by more than 1e-4 of their size.

`unseen` holds the pairs of the latest round: first run when the rules were finished, and tests like those of `seen` since then.

`published` holds ports out of packages, of which `packages.imported` plants the mistakes: there an entry of MISTAKES has a
"module", the dotted name of the module in whose source text `old` stands and `line` is counted.
"""
