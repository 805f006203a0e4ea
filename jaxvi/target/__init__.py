"""The target: a log density and its supports as one function of unconstrained coordinates."""

from jaxvi.target._batched import hessian_products as hessian_products
from jaxvi.target._batched import log_probs as log_probs
from jaxvi.target._batched import value_and_gradient as value_and_gradient
from jaxvi.target._batched import values_and_gradients as values_and_gradients
from jaxvi.target._likelihood import check_additive as check_additive
from jaxvi.target._likelihood import num_rows as num_rows
from jaxvi.target._pullback import pullback, push
from jaxvi.target._target import Target

__all__ = ["Target", "pullback", "push"]
