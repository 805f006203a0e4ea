"""Normalizing flows of the package flowjax as variational families."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._types import Scalar
from jaxvi.families import Affine, Family, FixedArray, NormalNoiseFamily, Transformed


class FlowjaxParams(NamedTuple):
    """The floating arrays of a flowjax distribution, in the order of its leaves."""

    arrays: tuple[Float[Array, "..."], ...]


@dataclass(frozen=True)
class FlowjaxFamily(NormalNoiseFamily):
    """A flow of flowjax as a family: its arrays are learned, the rest of it is fixed.

    Made by `jaxvi.interop.flowjax`, inside an affine map that sets location and scale.
    """

    dim: int
    structure: Any = field(repr=False)  # structure of the distribution's pytree
    constants: tuple[Any, ...] = field(repr=False)  # leaves, None where an array is learned
    arrays: tuple[FixedArray, ...] = field(repr=False)  # initial values of the learned ones

    def noise_size(self, dim: int) -> int:
        """One normal a coordinate; a ValueError where the flow's dimension is not `dim`."""
        if dim != self.dim:
            raise ValueError(
                f"flowjax: expected a flow of dimension {dim}, the target's; got {self.dim}; try "
                f"base_dist=Normal(jnp.zeros({dim}))."
            )
        return dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> FlowjaxParams:
        """The flow's arrays as given, in the dtype of `start`; the affine map takes its value."""
        self.noise_size(dim)
        dtype = jnp.zeros(()).dtype if start is None else start.dtype
        return FlowjaxParams(tuple(array.as_array(dtype) for array in self.arrays))

    def transform(self, phi: FlowjaxParams, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """z from noise, by the flow's bijection."""
        return self._distribution(phi).bijection.transform(noise)

    def transform_and_log_prob(
        self, phi: FlowjaxParams, noise: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """z and log q(z) from noise, by the bijection's log-determinant and without an inverse."""
        flow = self._distribution(phi)
        z, log_det = flow.bijection.transform_and_log_det(noise)
        return z, flow.base_dist.log_prob(noise) - log_det

    def log_prob(self, phi: FlowjaxParams, z: Float[Array, "dim"]) -> Scalar:
        """log q(z), by the flow's inverse; raises where flowjax has none."""
        return self._distribution(phi).log_prob(z)

    def _distribution(self, phi: FlowjaxParams) -> Any:
        import paramax

        learned = iter(phi.arrays)
        leaves = [
            next(learned)
            if leaf is None
            else leaf.as_array()
            if isinstance(leaf, FixedArray)
            else leaf
            for leaf in self.constants
        ]
        return paramax.unwrap(jax.tree.unflatten(self.structure, leaves))


def flowjax(
    distribution: Any, *, affine: Literal["full", "diagonal"] = "full", init_scale: float = 0.1
) -> Family:
    """A variational family from a flow of flowjax, inside a learned affine map z = m + L x.

    All floating arrays of the flow are learned, starting from their present values; what flowjax
    marks as not trainable stays. The affine map begins at a restart's start, scaled by
    `init_scale`. Families of one flow object are equal and share compiled programs. Flows made
    twice with the same arguments often are not, since flowjax may keep functions in them that
    compare by identity. Fitting needs draws with their densities, which are fast for flows made
    with `invert=False`; the density of a given z needs the inverse, which some flows compute by
    iteration or not at all. Needs the package flowjax: pip install 'jaxvi[flows]'.

    Args:
        distribution: a flowjax distribution that transforms standard normals, as
            `masked_autoregressive_flow`, `coupling_flow` or `block_neural_autoregressive_flow`
            make from base_dist=Normal(jnp.zeros(dim)); unconditional, of shape (dim,).
        affine: "full" or "diagonal" L.
        init_scale: L at the start is this times the identity.

    Returns:
        A family for targets of that dimension.

    Raises:
        ImportError: flowjax is not installed.
        TypeError: not a transformed distribution on standard normals, or a conditional one.

    Example:
        >>> from flowjax import distributions, flows
        >>> base = distributions.Normal(jnp.zeros(4))
        >>> flow = flows.coupling_flow(key, base_dist=base, invert=False, flow_layers=2)
        >>> fit = jaxvi.fit(key, target, jaxvi.interop.flowjax(flow), num_restarts=2)
    """
    merged = _on_standard_normals(distribution)
    leaves, structure = jax.tree.flatten(merged)
    learned = [_is_floating(leaf) for leaf in leaves]
    constants = [
        None if floating else FixedArray(leaf) if _is_array(leaf) else leaf
        for leaf, floating in zip(leaves, learned, strict=True)
    ]
    arrays = [FixedArray(leaf) for leaf, floating in zip(leaves, learned, strict=True) if floating]
    inner = FlowjaxFamily(merged.shape[0], structure, tuple(constants), tuple(arrays))
    return Transformed(inner, Affine(learned=True, structure=affine, init_scale=init_scale))


def _on_standard_normals(distribution: Any) -> Any:
    """The distribution as a single bijection of standard normals; raises where it is none."""
    try:
        from flowjax.distributions import AbstractTransformed, StandardNormal
    except ImportError as error:
        raise ImportError(
            "flowjax: expected the package flowjax to be installed; got no such module; try pip "
            "install 'jaxvi[flows]'."
        ) from error
    transformed = isinstance(distribution, AbstractTransformed)
    merged = distribution.merge_transforms() if transformed else distribution
    if not (transformed and isinstance(merged.base_dist, StandardNormal)):
        base = f" of {type(merged.base_dist).__name__}" if transformed else ""
        raise TypeError(
            "flowjax: expected a distribution that transforms standard normals; got "
            f"{type(distribution).__name__}{base}; try a flow with base_dist=Normal(jnp.zeros(3))."
        )
    if len(merged.shape) != 1 or merged.cond_shape is not None:
        raise TypeError(
            "flowjax: expected an unconditional distribution of shape (dim,); got shape "
            f"{merged.shape} and cond_shape {merged.cond_shape}; try cond_dim=None."
        )
    return merged


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_floating(leaf: Any) -> bool:
    return _is_array(leaf) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
