"""Measurements: run as modules from the repository root, for example `python -m benchmarks.step`."""
