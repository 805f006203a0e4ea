"""Measurements of jaxvi, beside its peers where there are any: `python -m benchmarks NAME`."""
