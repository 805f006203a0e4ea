"""Weights from their logarithms, on the host, without overflow."""

import numpy as np
from jaxtyping import Float


def relative_weights(log_weights: Float[np.ndarray, "size"]) -> Float[np.ndarray, "size"]:
    """Weights relative to the largest one."""
    return np.exp(log_weights - log_weights.max())


def softmax(log_weights: Float[np.ndarray, "size"]) -> Float[np.ndarray, "size"]:
    """Weights normalised to a sum of one."""
    weights = relative_weights(log_weights)
    return weights / weights.sum()
