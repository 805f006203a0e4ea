"""The Bayesian Gaussian mixture is scikit-learn's: same checks, same tests, same numbers."""

import inspect
import itertools
import pickle
import warnings

import jax
import numpy as np
import pytest
import sklearn.mixture
from programs import rest_long
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture.tests import test_bayesian_mixture as theirs
from sklearn.mixture.tests import test_mixture as theirs_of_both
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxvi.estimators import BayesianGaussianMixture
from jaxvi.estimators._row_layout import layout

pytestmark = pytest.mark.usefixtures("compiled_quickly")
Theirs = sklearn.mixture.BayesianGaussianMixture
COVARIANCES = ("full", "tied", "diag", "spherical")
PRIORS = ("dirichlet_process", "dirichlet_distribution")
INITS = ("kmeans", "k-means++", "random", "random_from_data")
each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)
each_prior = pytest.mark.parametrize("prior", PRIORS)
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
# they test functions of scikit-learn's own module, which no class has
PRIVATE = ("test_log_dirichlet_norm", "test_log_wishart_norm")


def clusters(num: int = 300, dim: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = 4.0 * rng.standard_normal((4, dim))
    shapes = rng.standard_normal((4, dim, dim))
    rows = [
        m + rng.standard_normal((num // 4, dim)) @ s for m, s in zip(means, shapes, strict=True)
    ]
    return rng.permutation(np.concatenate(rows))


def both(x: np.ndarray, **choices) -> tuple[BayesianGaussianMixture, Theirs]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return BayesianGaussianMixture(**choices).fit(x), Theirs(**choices).fit(x)


def assert_same(ours: BayesianGaussianMixture, other: Theirs, tolerance: float = 1e-8) -> None:
    def close(one, two):
        # bounds of tied covariances are arrays of one number there
        one, two = np.squeeze(np.asarray(one, float)), np.squeeze(np.asarray(two, float))
        assert one.shape == two.shape
        scale = max(1.0, np.abs(two).max())
        assert np.abs(one - two).max() <= tolerance * scale

    assert ours.n_iter_ == other.n_iter_
    assert ours.converged_ == other.converged_
    close(ours.lower_bound_, other.lower_bound_)
    close(ours.lower_bounds_, other.lower_bounds_)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        close(getattr(ours, name), getattr(other, name))
    for name in ("mean_precision_", "degrees_of_freedom_", "weight_concentration_"):
        close(getattr(ours, name), getattr(other, name))
    for name in ("mean_prior_", "covariance_prior_", "mean_precision_prior_"):
        close(getattr(ours, name), getattr(other, name))


@parametrize_with_checks([BayesianGaussianMixture()])
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


def own_tests():
    """Those of scikit-learn, with the values that they are parametrised by."""
    for name, function in inspect.getmembers(theirs, inspect.isfunction):
        if not name.startswith("test_") or name in PRIVATE:
            continue
        marks = getattr(function, "pytestmark", [])
        rows = [mark.args for mark in marks if mark.name == "parametrize"]
        if not rows:
            yield pytest.param(function, {}, id=name)
            continue
        ((names, values),) = rows
        for row in values:
            arguments = dict(zip(names.split(", "), row, strict=True))
            yield pytest.param(function, arguments, id=f"{name}-{row}")


@unconverged
@pytest.mark.parametrize(("function", "arguments"), list(own_tests()))
def test_scikit_learn_own_tests_pass(function, arguments, monkeypatch):
    monkeypatch.setattr(theirs, "BayesianGaussianMixture", BayesianGaussianMixture)
    function(**arguments)


@unconverged
def test_scikit_learn_tests_of_all_mixtures_pass():
    theirs_of_both.test_gaussian_mixture_n_iter(BayesianGaussianMixture())
    theirs_of_both.test_mixture_n_components_greater_than_n_samples_error(BayesianGaussianMixture())


def test_the_constructor_is_scikit_learns_and_more():
    ours, other = (inspect.signature(cls).parameters for cls in (BayesianGaussianMixture, Theirs))
    assert list(ours)[: len(other)] == list(other)
    assert all(ours[name].default == other[name].default for name in other)


@each_covariance
@each_prior
def test_same_start_same_numbers(covariance, prior, long):
    x = clusters()
    for init in INITS if long or prior == PRIORS[0] else INITS[:1]:  # starts know no priors
        choices = {
            "n_components": 6,
            "covariance_type": covariance,
            "weight_concentration_prior_type": prior,
            "init_params": init,
            "random_state": 3,
            "max_iter": 40,
        }
        ours, other = both(x, **choices)
        assert_same(ours, other)
        assert (ours.predict(x) == other.predict(x)).all()
        np.testing.assert_allclose(ours.score_samples(x), other.score_samples(x), atol=1e-8)
        np.testing.assert_allclose(ours.predict_proba(x), other.predict_proba(x), atol=1e-8)
        for one, two in zip(ours.sample(20), other.sample(20), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


@each_covariance
def test_restarts_are_those_of_scikit_learn(covariance, long):
    x = clusters(seed=1)
    choices = {"n_components": 5, "covariance_type": covariance, "n_init": 4, "random_state": 0}
    choices["max_iter"] = 1_000
    ours, other = both(x, init_params="random", **choices)
    assert_same(ours, other)
    assert ours.restart_bounds_.shape == (4,)
    assert ours.restart_bounds_.max() == ours.lower_bound_
    assert ours.agreement_.sizes.sum() == 4
    if long or covariance == "full":  # taking turns knows nothing of covariances
        few = BayesianGaussianMixture(init_params="random", max_lanes=3, **choices).fit(x)
        np.testing.assert_allclose(few.restart_bounds_, ours.restart_bounds_, rtol=1e-10)


@unconverged
@each_covariance
@each_prior
def test_bound_never_falls(covariance, prior, long):
    # each dimension is a program of its own: without --long another one for each prior
    for seed in range(3) if long else [PRIORS.index(prior)]:
        x = clusters(num=160, dim=1 + seed, seed=seed)
        mixture = BayesianGaussianMixture(
            n_components=6,
            covariance_type=covariance,
            weight_concentration_prior_type=prior,
            init_params="random",
            n_init=3,
            max_iter=200,
            tol=1e-7,
            reg_covar=0.0,
            random_state=seed,
        ).fit(x)
        bounds = np.asarray(mixture.lower_bounds_)
        assert len(bounds) > 5
        assert (np.diff(bounds) > -1e-9 * np.abs(bounds[1:])).all()


@pytest.mark.parametrize("init", ["kmeans", "k-means++"])
def test_many_restarts_begin_together_where_scikit_learns_do(init):
    x, choices = load_iris().data, {"n_components": 4, "init_params": init, "max_iter": 500}
    ours = BayesianGaussianMixture(n_init=24, random_state=0, **choices).fit(x)
    rng = np.random.RandomState(0)
    bounds = [Theirs(random_state=rng, **choices).fit(x).lower_bound_ for _ in range(24)]
    # where a row is as near to one centre as to another, rounding decides
    np.testing.assert_allclose(ours.restart_bounds_, bounds, rtol=1e-5)
    again = BayesianGaussianMixture(n_init=24, random_state=0, **choices).fit(x)
    np.testing.assert_array_equal(ours.restart_bounds_, again.restart_bounds_)


CASES = {
    "one column": (clusters(dim=1), {"n_components": 3}),
    "wide": (np.random.default_rng(0).standard_normal((260, 200)), {"n_components": 2}),
    "one component": (clusters(), {"n_components": 1}),
    "constant column": (np.c_[clusters(), np.ones(300)], {"n_components": 3}),
    "duplicates": (np.repeat(clusters(num=12), 20, axis=0), {"n_components": 4}),
    "tiny": (1e-8 * clusters(), {"n_components": 3, "reg_covar": 0.0}),
    "two rows": (np.array([[0.0, 1.0], [1.0, 0.0]]), {"n_components": 2}),
}


def usual(case):
    """All data with full covariances, and those that break others with all."""
    name, covariance = case
    return covariance == "full" or name in ("constant column", "two rows")


@pytest.mark.parametrize(
    "case", rest_long(itertools.product(CASES, COVARIANCES), usual), ids="-".join
)
def test_hard_data_give_scikit_learns_answer(case):
    name, covariance = case
    x, choices = CASES[name]
    choices = {"covariance_type": covariance, "random_state": 0, **choices}
    ours, other = both(x, **choices)
    assert_same(ours, other, 1e-6)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@each_covariance
def test_more_components_than_distinct_rows(covariance):
    x = np.repeat(np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), 10, axis=0)
    ours, other = both(x, n_components=6, covariance_type=covariance, random_state=0)
    assert np.isfinite(ours.means_).all()
    assert np.isfinite(ours.lower_bound_)
    assert ours.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-6)


@each_covariance
def test_a_huge_offset_costs_no_digits(covariance):
    """scikit-learn's squares about the origin lose all of theirs there."""
    x = clusters()
    choices = {"n_components": 4, "covariance_type": covariance, "random_state": 0}
    choices["max_iter"] = 1_000
    near = BayesianGaussianMixture(**choices).fit(x)
    far = BayesianGaussianMixture(**choices).fit(x + 1e8)
    assert far.lower_bound_ == pytest.approx(near.lower_bound_, abs=1e-3)
    np.testing.assert_allclose(far.means_ - 1e8, near.means_, atol=1e-5)
    np.testing.assert_allclose(far.covariances_, near.covariances_, atol=1e-5)
    assert (far.predict(x + 1e8) == near.predict(x)).mean() > 0.999


@each_covariance
@pytest.mark.parametrize("change", [(0.0, 1.0), (100.0, 1.0), (0.0, 1e-3)])
def test_float32_stays_and_is_right(covariance, change):
    offset, scale = change
    x = clusters() * scale + offset
    choices = {"n_components": 4, "covariance_type": covariance, "random_state": 0, "tol": 1e-2}
    choices |= {"reg_covar": 0.0, "max_iter": 1_000}
    wide = BayesianGaussianMixture(**choices).fit(x)
    narrow = BayesianGaussianMixture(**choices).fit(x.astype(np.float32))
    for name in ("means_", "covariances_", "weights_", "precisions_cholesky_"):
        assert getattr(narrow, name).dtype == np.float32
    np.testing.assert_allclose(narrow.weights_, wide.weights_, atol=5e-3)
    np.testing.assert_allclose((narrow.means_ - wide.means_) / scale, 0.0, atol=2e-2)
    assert (narrow.predict(x.astype(np.float32)) == wide.predict(x)).mean() > 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_as_scikit_learn_does(bad):
    x = clusters()
    x[3, 1] = bad
    for cls in (BayesianGaussianMixture, Theirs):
        with pytest.raises(ValueError, match="Input X contains"):
            cls(n_components=2).fit(x)


def test_ill_defined_covariances_are_told():
    x = np.zeros((20, 2))
    for cls in (BayesianGaussianMixture, Theirs):
        with pytest.raises(ValueError, match="ill-defined empirical covariance"):
            cls(n_components=1, reg_covar=0.0).fit(x)


def test_bad_choices_are_refused():
    x = clusters()
    with pytest.raises(ValueError, match="max_lanes"):
        BayesianGaussianMixture(max_lanes=0).fit(x)
    with pytest.raises(ValueError, match="learning_decay"):
        BayesianGaussianMixture(learning_decay=0.2).fit(x)
    with pytest.raises(ValueError, match="covariance_type"):
        BayesianGaussianMixture(covariance_type="round").fit(x)


def test_pickles_and_arrays_of_numpy():
    x = clusters()
    mixture = BayesianGaussianMixture(n_components=3, n_init=2, random_state=0).fit(x)
    fitted = {name: value for name, value in vars(mixture).items() if name.endswith("_")}
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fitted))
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.predict_proba(x), mixture.predict_proba(x))


@unconverged
def test_warm_start_goes_on():
    x = clusters()
    choices = {"n_components": 4, "random_state": 0, "init_params": "random", "tol": 1e-6}
    whole = BayesianGaussianMixture(max_iter=30, **choices).fit(x)
    steps = BayesianGaussianMixture(max_iter=10, warm_start=True, **choices)
    for _ in range(3):
        steps.fit(x)
    assert steps.lower_bound_ == pytest.approx(whole.lower_bound_, rel=1e-10)


def test_max_iter_zero_is_the_start():
    ours, other = both(clusters(), n_components=4, max_iter=0, random_state=0)
    assert ours.n_iter_ == 0
    assert ours.lower_bounds_ == []
    np.testing.assert_allclose(ours.means_, other.means_, atol=1e-10)


def test_verbose_prints_what_scikit_learn_prints(capsys):
    x = clusters()
    said = []
    for cls in (BayesianGaussianMixture, Theirs):
        cls(
            n_components=4, n_init=2, verbose=1, verbose_interval=5, random_state=0, max_iter=300
        ).fit(x)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    BayesianGaussianMixture(n_components=4, verbose=2, random_state=0, max_iter=300).fit(x)
    assert "ll change" in capsys.readouterr().out


def test_frames_pipelines_and_searches():
    pandas = pytest.importorskip("pandas")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = pandas.DataFrame(clusters(), columns=["a", "b", "c"])
    mixture = BayesianGaussianMixture(n_components=3, random_state=0).fit(frame)
    assert list(mixture.feature_names_in_) == ["a", "b", "c"]
    pipe = make_pipeline(StandardScaler(), BayesianGaussianMixture(random_state=0, max_iter=300))
    search = GridSearchCV(pipe, {"bayesiangaussianmixture__n_components": [1, 4]}, cv=2)
    assert search.fit(frame).best_params_ == {"bayesiangaussianmixture__n_components": 4}


def test_few_layouts_serve_all_numbers_of_rows():
    assert len({layout(num, 20) for num in range(1, 5_000)}) < 80
    for num in (1, 15, 150, 1_000, 99_999, 1_000_000):
        assert num <= layout(num, 20).padded <= max(1.13 * num + 16, 16)
