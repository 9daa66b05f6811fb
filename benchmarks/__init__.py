"""Benchmarks: not part of the package; `python -m benchmarks.engines` from the top of the checkout."""
