"""Deterministic optimisation: L-BFGS, Newton's method, trust regions."""
