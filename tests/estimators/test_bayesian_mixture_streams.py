"""Mixtures of rows that come in blocks."""

import pickle

import numpy as np
import pytest
from programs import rest_long
from test_bayesian_mixture import COVARIANCES, BayesianGaussianMixture, clusters, unconverged

# sums over blocks are those of tests/estimators/test_bayesian_mixture.py, there in all forms
some_covariances = pytest.mark.parametrize(
    "covariance", rest_long(COVARIANCES, lambda covariance: covariance in ("full", "tied"))
)
CHOICES = {"n_components": 4, "random_state": 0, "max_iter": 500}


def blocks(x: np.ndarray, rows: int = 500):
    return [x[first : first + rows] for first in range(0, len(x), rows)]


@some_covariances
def test_blocks_that_can_be_had_again_give_the_full_datas_answer(covariance):
    x = clusters(num=6_000, seed=2)
    choices = {**CHOICES, "covariance_type": covariance, "tol": 1e-4}
    whole = BayesianGaussianMixture(**choices).fit(x)
    parts = BayesianGaussianMixture(**choices).fit(blocks(x, 700))
    assert parts.converged_
    assert parts.lower_bound_ == pytest.approx(whole.lower_bound_, rel=1e-5)
    order = np.argsort(parts.means_[:, 0]), np.argsort(whole.means_[:, 0])
    np.testing.assert_allclose(parts.means_[order[0]], whole.means_[order[1]], atol=0.02)
    np.testing.assert_allclose(parts.covariance_prior_, whole.covariance_prior_, rtol=1e-9)


@unconverged
@some_covariances
def test_one_pass_comes_near(covariance):
    x = clusters(num=20_000, seed=3)
    choices = {**CHOICES, "covariance_type": covariance}
    whole = BayesianGaussianMixture(**choices).fit(x)
    once = BayesianGaussianMixture(**choices).fit(iter(blocks(x)))
    assert once.n_steps_ == 39
    assert once.score(x) == pytest.approx(whole.score(x), abs=0.01)
    by_hand = BayesianGaussianMixture(**choices)
    for block in blocks(x):
        by_hand.partial_fit(block)
    np.testing.assert_array_equal(by_hand.means_, once.means_)


def test_a_stream_is_kept_by_pickling():
    x = clusters(num=2_000)
    mixture = BayesianGaussianMixture(**CHOICES).partial_fit(x[:1_000])
    again = pickle.loads(pickle.dumps(mixture)).partial_fit(x[1_000:])
    mixture.partial_fit(x[1_000:])
    np.testing.assert_array_equal(again.means_, mixture.means_)


def test_bad_streams_are_refused():
    x = clusters()
    with pytest.raises(ValueError, match="at least one block"):
        BayesianGaussianMixture().fit(iter([]))
    with pytest.raises(ValueError, match="at least n_components = 40"):
        BayesianGaussianMixture(n_components=40).partial_fit(x[:20])
    with pytest.raises(ValueError, match="features"):
        BayesianGaussianMixture(**CHOICES).fit(iter([x, x[:, :2]]))
    with pytest.raises(ValueError, match="NaN"):
        BayesianGaussianMixture(**CHOICES).partial_fit(np.where(x > 5.0, np.nan, x))
