"""Several bounded minimisations at once."""

from __future__ import annotations

import numpy as np
import pytest

from automl.search.lbfgs import minimise

SCALES = np.array([[1.0, 100.0], [3.0, 0.1], [1.0, 1.0]])
CENTRES = np.array([[0.3, 0.6], [0.5, 0.5], [0.9, 1.7]])


def bowls(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    away = x - CENTRES
    return (SCALES * away * away).sum(axis=1), 2.0 * SCALES * away


def test_each_search_finds_its_own_minimum_inside_the_bounds():
    x, loss = minimise(bowls, np.full((3, 2), 0.1), np.zeros(2), np.ones(2), 60)
    best = np.clip(CENTRES, 0.0, 1.0)
    assert loss == pytest.approx(bowls(best)[0], abs=2e-3)
    assert x[2, 1] == 1.0  # at the bound that the slope points out of


def test_no_loss_is_larger_than_at_the_start_however_few_the_evaluations():
    def wild(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sin(40.0 * x).sum(axis=1), 40.0 * np.cos(40.0 * x)

    start = np.random.default_rng(0).random((8, 3))
    for evaluations in (1, 2, 5, 30):
        assert (minimise(wild, start, np.zeros(3), np.ones(3), evaluations)[1] <= wild(start)[0]).all()


def test_a_step_to_where_nothing_is_known_is_refused():
    def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x[:, 0] < 0.5, np.nan, x[:, 0]), np.ones_like(x)

    x, loss = minimise(cliff, np.array([[0.9]]), np.zeros(1), np.ones(1), 30)
    assert np.isfinite(loss).all()
    assert 0.5 <= x[0, 0] < 0.9
