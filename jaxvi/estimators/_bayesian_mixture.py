"""Variational Bayesian Gaussian mixture with scikit-learn's interface, batched over restarts."""

import contextlib
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.mixture
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxvi._status import Status
from jaxvi.diagnostics import agreement
from jaxvi.estimators import _streaming
from jaxvi.estimators._coordinate_ascent import Ascended, ascend, in_groups, labels, log_joint
from jaxvi.estimators._initialisation import Starter
from jaxvi.estimators._row_layout import Layout, as_data, layout, padded_blocks, scatter
from jaxvi.models import ConjugateGaussianMixture, MixtureData, MixturePhi, MixturePrior

_FLOATS = (np.float64, np.float32)
_MAX_BATCH_NUMBERS = 2**26  # that all lanes of a batch hold together


class BayesianGaussianMixture(sklearn.mixture.BayesianGaussianMixture):
    r"""Variational Bayesian Gaussian mixture: a drop-in for scikit-learn's, on any accelerator.

    Constructor, attributes, methods and conventions are those of
    `sklearn.mixture.BayesianGaussianMixture`; the same responsibilities give the same bounds and
    parameters. Restarts (`n_init`) are lanes of one compiled batch, a step is two matrix products
    over all components, and a small change in the number of rows compiles nothing anew.

    Model: $x_n \sim \sum_k \pi_k N(m_k, \Lambda_k^{-1})$, a Normal-Wishart prior on every
    $(m_k, \Lambda_k)$, a Dirichlet prior or a stick-breaking one on $\pi$; coordinate ascent on
    the bound (Bishop 2006, section 10.2; Blei and Jordan 2006). Bounds are scikit-learn's: in
    nats, summed over rows, constants left out. Precision is that of X: float64 or float32.

    With the same `random_state`, restarts begin where scikit-learn's do. Where there are more than
    10, k-means for all of them is one program, from the same random numbers: only ties, rounding
    and clusters that become empty can make a difference.

    Args:
        n_components: mixture components.
        covariance_type: "full", "tied", "diag" or "spherical".
        tol: change of the bound, in nats, below which a restart has converged.
        reg_covar: added to the diagonal of components' covariances.
        max_iter: steps at most; with an iterable, passes over it.
        n_init: restarts; the one with the largest bound is kept.
        init_params: "kmeans", "k-means++", "random" or "random_from_data".
        weight_concentration_prior_type: "dirichlet_process" or "dirichlet_distribution".
        weight_concentration_prior: concentration; None is 1 / n_components.
        mean_precision_prior: None is 1.
        mean_prior: shape (n_features,); None is the mean of X.
        degrees_of_freedom_prior: None is n_features.
        covariance_prior: shape as the covariance type has it; None is the covariance of X.
        random_state: seed or generator.
        warm_start: begin where the last fit ended.
        verbose: 1 prints restarts and steps, 2 prints times and changes too.
        verbose_interval: steps between two lines.
        max_lanes: restarts in one batch; None is as many as take about half a GiB.
        device: a `jax.Device`, or a platform such as "gpu"; None is JAX's default.
        learning_decay: kappa of the rates (tau + t)^-kappa of stochastic steps.
        learning_offset: tau of the same.
        total_samples: number of rows of the whole stream; None is the number seen so far.

    Attributes, besides scikit-learn's:
        restart_bounds_: every restart's bound; not finite where it failed.
        agreement_: distinct optima by their bounds, and how many restarts ended in each.
        n_steps_: stochastic steps taken, after `partial_fit` or an iterable.

    Raises:
        ValueError: as scikit-learn's, and if the covariances of every restart are ill-defined.

    Example:
        >>> from jaxvi.estimators import BayesianGaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]])
        >>> mixture = BayesianGaussianMixture(n_components=2, random_state=42).fit(X)
        >>> mixture.means_.round(1)
        array([[2.5, 2.3],
               [8.5, 4.5]])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **sklearn.mixture.BayesianGaussianMixture._parameter_constraints,
        "max_lanes": [None, Interval(Integral, 1, None, closed="left")],
        "device": "no_validation",
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="left")],
        "total_samples": [None, Interval(Real, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,  # `fit` looks at the values, as scikit-learn has it
        n_components: Any = 1,
        covariance_type: Any = "full",
        tol: Any = 1e-3,
        reg_covar: Any = 1e-6,
        max_iter: Any = 100,
        n_init: Any = 1,
        init_params: Any = "kmeans",
        weight_concentration_prior_type: Any = "dirichlet_process",
        weight_concentration_prior: Any = None,
        mean_precision_prior: Any = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: Any = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: Any = False,
        verbose: Any = 0,
        verbose_interval: Any = 10,
        max_lanes: Any = None,
        device: Any = None,
        learning_decay: Any = 0.7,
        learning_offset: Any = 10.0,
        total_samples: Any = None,
    ) -> None:
        super().__init__(
            n_components=n_components,
            covariance_type=covariance_type,
            tol=tol,
            reg_covar=reg_covar,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weight_concentration_prior_type=weight_concentration_prior_type,
            weight_concentration_prior=weight_concentration_prior,
            mean_precision_prior=mean_precision_prior,
            mean_prior=mean_prior,
            degrees_of_freedom_prior=degrees_of_freedom_prior,
            covariance_prior=covariance_prior,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
        )
        self.max_lanes = max_lanes
        self.device = device
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.total_samples = total_samples

    def fit(self, X: Any, y: Any = None) -> "BayesianGaussianMixture":
        """Fit to rows, or to an iterable of blocks of rows, which need not fit in memory together.

        A one-shot iterator is passed over once, with stochastic steps (Hoffman et al. 2013). An
        iterable that can be started again, such as a list of arrays, is passed over first for its
        moments, then with stochastic steps, then with exact ones until `tol` or `max_iter`. Memory
        is that of one block and the parameters.

        Args:
            X: (n_samples, n_features), or an iterable of such.
            y: ignored.
        """
        if _streaming.is_stream(X):
            self._validate_params()
            return _streaming.fit(self, X)
        self.fit_predict(X, y)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the most probable component of every row; see `fit`."""
        self._validate_params()
        x = self._rows(X, reset=True)
        if len(x) < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {len(x)}"
            )
        self._check_parameters(x)
        self.__dict__.pop("_stream", None)
        return self._fit_rows(x)

    def _fit_rows(self, x: Float[np.ndarray, "rows dim"]) -> np.ndarray:
        """Run all restarts on these rows with the checked priors; returns their labels."""
        with self._place(x.dtype):
            centre, place = x.mean(axis=0, dtype=np.float64).astype(x.dtype), self._layout(x)
            prior = self._prior(centre, x.dtype)
            data = as_data(x, centre, prior, place, tied=self.covariance_type == "tied")
            run = self._run(x, centre, data)
            self._keep(run, centre, x.dtype)
            return self._labels(data, centre, len(x))

    def partial_fit(self, X: Any, y: Any = None) -> "BayesianGaussianMixture":
        """Take a stochastic step on one more block of rows; the first block is fitted as a whole.

        Priors that are None come from the first block. The rate of step t is
        `(learning_offset + t) ** -learning_decay`.

        Args:
            X: (n_samples, n_features).
            y: ignored.
        """
        self._validate_params()
        return _streaming.step(self, X)

    def _rows(self, X: Any, reset: bool) -> Float[np.ndarray, "rows dim"]:
        return validate_data(
            self, X, dtype=_FLOATS, ensure_min_samples=2 if reset else 1, reset=reset
        )

    def _checkcovariance_prior_parameter(self, X: Any) -> None:
        """Set `covariance_prior_`; scikit-learn computes all four kinds of default, this one."""
        if self.covariance_prior is not None:
            super()._checkcovariance_prior_parameter(X)
            return
        matrix = self.covariance_type in ("full", "tied")
        found = scatter(X, full=matrix) / max(len(X) - 1, 1)
        self.covariance_prior_ = found.mean() if self.covariance_type == "spherical" else found

    def _layout(self, x: Float[np.ndarray, "rows dim"]) -> Layout:
        dim = x.shape[1]
        return layout(len(x), dim * (dim + 3) // 2 if self.covariance_type == "full" else 2 * dim)

    @property
    def _model(self) -> ConjugateGaussianMixture:
        sticks = self.weight_concentration_prior_type == "dirichlet_process"
        return ConjugateGaussianMixture(int(self.n_components), self.covariance_type, sticks)

    @contextlib.contextmanager
    def _place(self, dtype: Any) -> Iterator[None]:
        """A context with JAX in the precision of the data and on the chosen device."""
        device = self.device
        if isinstance(device, str):
            device = jax.devices(device)[0]
        with jax.enable_x64(dtype == np.float64), jax.default_device(device):
            yield

    def _prior(self, centre: Float[np.ndarray, "dim"], dtype: Any) -> Any:
        mean = np.asarray(self.mean_prior_, np.float64) - centre
        parts: Any = (
            self.weight_concentration_prior_,
            self.mean_precision_prior_,
            mean,
            self.degrees_of_freedom_prior_,
            self.covariance_prior_,
            self.reg_covar,
        )
        return MixturePrior(*(jax.tree.map(lambda part: np.asarray(part, dtype), parts)))

    def _run(
        self, x: Float[np.ndarray, "rows dim"], centre: Float[np.ndarray, "dim"], data: MixtureData
    ) -> Ascended:
        """Run all restarts, or with `warm_start` one from where the last fit ended."""
        if self.warm_start and hasattr(self, "converged_"):
            phis = jax.tree.map(lambda leaf: leaf[None], self._phi(centre, x.dtype))
            bounds = np.asarray([self.lower_bound_], x.dtype)
            return ascend(self._model, data, phis, bounds, self.tol, self.max_iter)
        rng = check_random_state(self.random_state)
        start = Starter(self._model, x, data, centre, self.init_params, self.n_init, rng)
        lanes = self.max_lanes or self._usual_lanes(data)
        return in_groups(self._model, data, start, self.n_init, lanes, self.tol, self.max_iter)

    def _usual_lanes(self, data: MixtureData) -> int:
        _, dim, rows = data.x.shape
        each = self.n_components * (rows + dim * dim)
        return max(1, _MAX_BATCH_NUMBERS // each)

    def _keep(self, run: Ascended, centre: Float[np.ndarray, "dim"], dtype: Any) -> None:
        """Set the fitted attributes to those of the best restart."""
        if np.isin(run.status, (Status.NO_START, Status.NOT_FINITE)).all():
            better = "" if dtype == np.float64 else ", or pass float64 data"
            raise ValueError(
                "Fitting the mixture model failed because some components have ill-defined "
                "empirical covariance in every restart (a single row, or rows that coincide, can "
                f"be the cause): try fewer components, a larger reg_covar, other units{better}."
            )
        best = run.best if self.max_iter > 0 else len(run.bounds) - 1
        _print_progress(self, run)
        self._set_phi(run.phi(best), centre, dtype)
        self.converged_ = bool(run.status[best] == Status.CONVERGED)
        self.n_iter_ = int(run.steps[best])
        self.lower_bound_ = float(run.bounds[best])
        self.lower_bounds_ = [float(bound) for bound in run.trace[: self.n_iter_, best]]
        self.restart_bounds_ = np.asarray(run.bounds)
        self.agreement_ = agreement(self.restart_bounds_, np.zeros(len(run.bounds)))
        if not self.converged_ and self.max_iter > 0:
            why = "was interrupted" if run.interrupted else "did not converge"
            warnings.warn(
                f"The best restart {why}: its bound still changed by more than tol="
                f"{self.tol:g}; raise max_iter or tol, or look for rows that coincide.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _set_phi(self, phi: MixturePhi, centre: Float[np.ndarray, "dim"], dtype: Any) -> None:
        one, other = phi.weight_concentration
        weights = (one, other) if self._model.sticks else one
        means = (phi.means.astype(np.float64) + centre).astype(dtype)
        dof = phi.degrees_of_freedom[()]
        self._set_parameters(
            (weights, phi.mean_precision, means, dof, phi.covariances, phi.precisions_cholesky)
        )
        for name in ("weights_", "precisions_"):  # which scikit-learn computes in float64
            setattr(self, name, np.asarray(getattr(self, name), dtype))

    def _phi(self, centre: Float[np.ndarray, "dim"], dtype: Any) -> Any:
        """The variational parameters, from the fitted attributes."""
        weights = self.weight_concentration_
        if not self._model.sticks:
            weights = (weights, np.zeros_like(weights))
        phi = MixturePhi(
            tuple(weights),
            self.mean_precision_,
            np.asarray(self.means_, np.float64) - centre,
            self.degrees_of_freedom_,
            self.covariances_,
            self.precisions_cholesky_,
        )
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), phi)

    def _labels(
        self, data: MixtureData, centre: Float[np.ndarray, "dim"], num_rows: int
    ) -> np.ndarray:
        found = labels(self._phi(centre, data.x.dtype), data.x, model=self._model)
        return np.asarray(found).reshape(-1)[:num_rows].astype(np.int64)

    def _estimate_weighted_log_prob(self, X: Any, xp: Any = None) -> np.ndarray:
        """E_q[log p(x, component)], (n_samples, n_components); scikit-learn's methods call it."""
        check_is_fitted(self)
        dtype = self.means_.dtype
        x = np.asarray(X, dtype)
        centre = np.asarray(self.weights_ @ self.means_, dtype)
        place = self._layout(x)
        with self._place(dtype):
            blocks = padded_blocks(x - centre[None], place)
            found = log_joint(self._phi(centre, dtype), jnp.asarray(blocks), model=self._model)
        found = np.asarray(found).transpose(0, 2, 1).reshape(-1, self.n_components)
        return found[: len(x)]


def _print_progress(mixture: BayesianGaussianMixture, run: Ascended) -> None:
    """Print what scikit-learn does, after all restarts; times are shares of the whole run."""
    if not mixture.verbose:
        return
    each = run.seconds / max(int(run.steps.sum()), 1)
    for lane, steps in enumerate(run.steps):
        print(f"Initialization {lane}")
        bounds = run.trace[:steps, lane]
        changes = np.diff(bounds, prepend=-np.inf)
        for step in range(mixture.verbose_interval, steps + 1, mixture.verbose_interval):
            line = f"  Iteration {step}"
            if mixture.verbose >= 2:
                lapse = each * mixture.verbose_interval
                line += f"\t time lapse {lapse:.5f}s\t ll change {changes[step - 1]:.5f}"
            print(line)
        ended = "converged" if run.status[lane] == Status.CONVERGED else "did not converge"
        line = f"Initialization {ended}."
        if mixture.verbose >= 2:
            line += f" time lapse {each * steps:.5f}s\t lower bound {run.bounds[lane]:.5f}."
        print(line)
