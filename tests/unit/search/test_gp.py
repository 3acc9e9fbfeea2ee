"""The Gaussian process against the textbook formulas, finite differences and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern

from automl.search import gp

GROUP = np.array([0, 1, 1, 2])
THETA = np.array([-0.4, 0.2, 0.5, -1.0, -2.0, 0.3, -3.0])


@pytest.fixture
def data() -> gp.Data:
    rng = np.random.default_rng(1)
    z = rng.random((12, 4))
    y = np.sin(5.0 * z[:, 0]) + z[:, 1] ** 2 + 0.1 * rng.standard_normal(12)
    return gp.Data(z, (y - y.mean()) / y.std(), GROUP, np.where(np.arange(12) % 3, 1.0, 4.0))


def scaled(z: np.ndarray) -> np.ndarray:
    return (z - 0.5) / np.exp(THETA[GROUP])


def reference(data: gp.Data) -> GaussianProcessRegressor:
    """The same model in scikit-learn, over scaled features; jitter and noise on the diagonal."""
    product = DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
    trend = ConstantKernel(np.exp(-1.0)) * product + ConstantKernel(np.exp(-2.0)) * product**2
    kernel = trend + ConstantKernel(np.exp(0.3)) * Matern(1.0, nu=2.5)
    noise = np.exp(-3.0) / data.repeats + 1e-6
    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(scaled(data.z), data.y)


def test_the_posterior_is_that_of_scikit_learn(data):
    z = np.random.default_rng(2).random((7, 4))
    mean, sd = gp.GaussianProcess(data, THETA[None]).predict(z)
    expected_mean, expected_sd = reference(data).predict(scaled(z), return_std=True)
    np.testing.assert_allclose(mean[0], expected_mean, rtol=1e-7)
    np.testing.assert_allclose(sd[0], expected_sd, rtol=1e-6)


def test_the_likelihood_is_that_of_scikit_learn_up_to_a_constant(data):
    flat = gp.Prior(stiffness=0.0, noise_rate=0.0)
    loss, _ = gp.negative_log_posterior(THETA, data, flat)
    prior, _ = flat.penalty(THETA)
    constant = 0.5 * len(data.y) * np.log(2.0 * np.pi)
    assert -(loss - prior) - constant == pytest.approx(reference(data).log_marginal_likelihood_value_, rel=1e-9)


def test_the_gradient_of_the_loss_is_that_of_its_differences(data):
    prior = gp.Prior(centre=0.3)
    expected = approx_fprime(THETA, lambda theta: gp.negative_log_posterior(theta, data, prior)[0], 1e-7)
    np.testing.assert_allclose(gp.negative_log_posterior(THETA, data, prior)[1], expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_mean_and_deviation_are_those_of_their_differences(data):
    draws = np.stack([THETA, THETA + 0.2])
    for posterior in (gp.GaussianProcess(data, draws), gp.GaussianProcess(data, draws).given(data.z[:2] + 0.1)):
        z = np.random.default_rng(3).random((1, 4))
        found = posterior.predict_with_gradient(z)
        step = 1e-6 * np.eye(4)
        above, below = posterior.predict(z + step), posterior.predict(z - step)
        for of in range(2):
            expected = (above[of] - below[of]) / 2e-6
            np.testing.assert_allclose(found[2 + of][:, 0], expected, rtol=1e-4, atol=1e-5)


def test_pending_points_leave_the_mean_and_take_the_uncertainty_that_a_result_would_take(data):
    posterior = gp.GaussianProcess(data, THETA[None])
    pending = np.random.default_rng(4).random((3, 4))
    given = posterior.given(pending)
    z = np.concatenate([pending + 0.01, np.random.default_rng(5).random((4, 4))])
    np.testing.assert_allclose(given.predict(z)[0], posterior.predict(z)[0], rtol=1e-9)
    told = gp.Data(
        np.concatenate([data.z, pending]),
        np.concatenate([data.y, np.zeros(3)]),
        GROUP,
        np.concatenate([data.repeats, np.ones(3)]),
    )
    np.testing.assert_allclose(given.predict(z)[1], gp.GaussianProcess(told, THETA[None]).predict(z)[1], rtol=1e-6)
    assert (given.predict(pending)[1] < 0.6 * posterior.predict(pending)[1]).all()
    np.testing.assert_allclose(given.fitted[:, 12:], posterior.predict(pending)[0])


def test_a_fit_finds_which_parameter_matters():
    rng = np.random.default_rng(0)
    z = rng.random((40, 3))
    y = np.sin(6.0 * z[:, 1])
    data = gp.Data(z, (y - y.mean()) / y.std(), np.arange(3), np.ones(40))
    theta = gp.fit(data, gp.Prior(), gp.Prior().start(3), 50)
    assert theta[1] < theta[0] - 1.0
    assert theta[1] < theta[2] - 1.0
    assert theta[-1] < -5.0


def test_draws_spread_where_the_data_say_little(data):
    prior = gp.Prior()
    theta = gp.fit(data, prior, prior.start(3), 50)
    draws = gp.draw(theta, data, prior, 200, np.random.default_rng(0))
    assert draws.shape == (200, 7)
    assert np.abs(draws.mean(axis=0) - theta).max() < 0.5
    many = gp.Data(np.tile(data.z, (8, 1)), np.tile(data.y, 8), GROUP, np.tile(data.repeats, 8))
    certain = gp.draw(gp.fit(many, prior, theta, 50), many, prior, 200, np.random.default_rng(0))
    assert certain[:, -1].std() < 0.5 * draws[:, -1].std()


def test_more_measurements_of_a_point_count_more():
    z = np.array([[0.5], [0.5]])
    data = gp.Data(z, np.array([1.0, -1.0]), np.array([0]), np.array([9.0, 1.0]))
    theta = np.array([0.0, -8.0, -8.0, 0.0, 0.0])
    mean, _ = gp.GaussianProcess(data, theta[None]).predict(z[:1])
    assert mean[0, 0] == pytest.approx(0.8 / (1.0 + 0.1), rel=0.01)  # weights 9 : 1, shrunk by a noise of 1 / 10
