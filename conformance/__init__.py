"""Conformance: what others wrote down about attention, asked of this library and of its peers.

`python -m conformance onnx` runs ONNX's own operator tests through both backends and prints the table that README shows.
"""
