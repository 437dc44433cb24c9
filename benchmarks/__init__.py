"""Benchmarks: how long attention takes, ours and everybody else's, in one process and in turn; what is wrong has no time.

    time  = median over rounds of (A B C, B C A, C A B, ...)       ratio = median over rounds of time(A) / time(B)
    timed => judged: output and gradients of the very call that is timed agree with the float64 oracle

cases      one call, by sizes, mask, dtype and program          suites     cases worth asking about, by device
adapters   how an entrant is said
entrants   every kernel of both backends, and "auto"               peers_*    what others offer, one small adapter each
judge      the oracle's budget, on rows of the timed call       programs   a case and an entrant, ready to be called
timing     turns, rotated inputs, medians, quartiles, ratios    peaks      GEMM and bandwidth of this machine, measured
accuracy   errors against float64
memory     extra memory, each in a process of its own           modules    layers of few tokens: what a call costs
startup    compile and import times                             measure    suites into rows
bounds     what must hold, as data                              holds, contests             whether it does
results    rows as JSON, one schema                             tables, plots, compare      for people
running    a call of the command line                           machine    what numbers depend on

`python -m benchmarks --help`, or `attention bench --help`.
"""
