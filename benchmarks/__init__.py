"""Benchmarks of attention: our kernels and other libraries, timed in turn in one process; wrong results get no time.

    time  = median over rounds of (A B C, B C A, C A B, ...)       ratio = median over rounds of time(A) / time(B)
    timed => checked: output and gradients of the very call that is timed agree with the float64 oracle

cases            one call, by sizes, mask, dtype and program        suites        cases by device
adapters         an implementation as data                          programs      an implementation on a case, ready to call
implementations  every kernel of both backends, and "auto"          peers_*       other libraries, one small adapter each
correctness      the oracle's budget, on rows of the timed call     accuracy      errors against float64
timing           turns, rotated inputs, medians, quartiles, ratios  peaks         GEMM and bandwidth of this machine, measured
memory           extra memory, each in a process of its own         modules       layers of few tokens: overhead per call
startup          compile and import times                           measure       suites into rows
requirements     requirements on time and memory, as data           comparisons, requirement_checks    whether they are met
results          rows as JSON, one schema                           tables, plots, compare             output for people
running          a call of the command line                         machine       device, versions, load

`python -m benchmarks --help`, or `attention bench --help`.
"""
