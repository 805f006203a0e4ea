"""Setups: everything static about an optimisation, which keys its compiled programs."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvi._types import Data
from jaxvi.families import Family
from jaxvi.noise import Fresh, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers import (
    Ascent,
    ConjugateModel,
    ConjugateProblem,
    Defaults,
    HasDefaults,
    HasPreparation,
    HasRequirements,
    Problem,
    Solver,
    Stochastic,
    default_family,
)
from jaxvi.target import Target


@dataclass(frozen=True)
class Setup:
    """Everything static about an optimisation: target, family, objective, solver and noise.

    It holds functions and plain numbers, no arrays, and compares by value: pass it as a static
    argument or close over it, and equal setups share compiled programs. `problem(data)` is what a
    solver's `init` and `step` take; `draw(key, step, dtype)` is the base noise of a step, of shape
    (objective.num_draws, size of the family's noise). `make_setup` fills in what is left out.

    Example:
        >>> setup = jaxvi.engine.Setup(
        ...     target, jaxvi.MeanField(), jaxvi.ELBO(), jaxvi.Stochastic(), jaxvi.Fresh()
        ... )
        >>> phi = setup.family.init(key, target.dim)
        >>> noise = setup.draw(key, 0, target.dtype())
        >>> setup.problem(None).loss(phi, noise).bound.shape
        ()
    """

    target: Target
    family: Family
    objective: Objective
    solver: Solver
    noise: NoiseSource

    def check(self) -> None:
        """Raise before tracing where the parts don't fit each other."""
        self.objective.check(self.family)
        self.noise.check(self.family, self.objective.num_draws)
        if isinstance(self.solver, HasRequirements):
            self.solver.check(self.family, self.objective, self.noise, self.target.dim)

    def prepared(self, data: Data, dtype: jnp.dtype) -> "Setup":
        """The setup with its solver prepared for the problem, such as by the Hessian's sparsity."""
        if not isinstance(self.solver, HasPreparation):
            return self
        return replace(self, solver=self.solver.prepare(self.problem(data), dtype))

    def problem(self, data: Data) -> Problem:
        """The problem with these data: bound, loss and log density, as functions for the solver."""
        return Problem(self.target, self.family, self.objective, data)

    @property
    def shared(self) -> bool:
        """Whether all lanes are given the same noise."""
        return self.noise.shared

    def draw(self, key: Key[Array, ""], step: int | Int[Array, ""], dtype: jnp.dtype) -> Array:
        """The base noise of a step, one row a draw."""
        num, dim = self.objective.num_draws, self.target.dim
        return self.noise.draw(key, step, self.family, num, dim, dtype)


@dataclass(frozen=True)
class ConjugateSetup:
    """The setup of a conjugate model, whose bound and updates are formulas without noise."""

    model: ConjugateModel
    solver: Solver

    @property
    def shared(self) -> bool:
        """Whether lanes share their noise: they do, since there is none."""
        return True

    def draw(self, key: Key[Array, ""], step: int | Int[Array, ""], dtype: jnp.dtype) -> Array:
        """An empty array: coordinate ascent takes no noise."""
        return jnp.zeros((0, 0), dtype)

    def problem(self, data: Ascent) -> ConjugateProblem:
        """The problem with these data, for the solver."""
        return ConjugateProblem(self.model, data)


AnySetup: TypeAlias = Setup | ConjugateSetup


def make_setup(
    target: Target,
    family: Any = None,
    objective: Any = None,
    solver: Any = None,
    noise: Any = None,
) -> Setup:
    """A setup of these parts; where one is None, the default that suits the solver.

    `jaxvi.run` makes its setup so, and then calls `setup.check()`, which raises where the parts
    don't fit each other.

    Args:
        target: the log density.
        family: the variational family; by default dense up to dimension 100, else mean field.
        objective: `ELBO()` for most solvers.
        solver: `Stochastic()` by default.
        noise: `Fresh()` for most solvers.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, solver=jaxvi.NaturalGradient())
        >>> setup.check()
        >>> setup.family
        FullRank(init_scale=0.1)
    """
    solver = Stochastic() if solver is None else solver
    if isinstance(solver, HasDefaults):
        default = solver.defaults(family, target.dim)
    else:
        default = Defaults(default_family(target.dim), ELBO(), Fresh())
    return Setup(
        target,
        default.family if family is None else family,
        default.objective if objective is None else objective,
        solver,
        default.noise if noise is None else noise,
    )
