"""Benchmarks: how long every kernel takes on the named cases; a kernel that is not right has no time.

time = median over rounds of (A, B, C, A, B, C, ...)        ratio = time / time of torch's `reference`

`make bench`, or `python -m benchmarks --help`.
"""
