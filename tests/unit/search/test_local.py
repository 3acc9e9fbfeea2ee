"""Which results the model of a long study sees."""

from __future__ import annotations

import numpy as np
import pytest

from automl.search.local import MOST_ROWS, everywhere, near, visible


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(0).random((1000, 2))


@pytest.fixture
def loss(z) -> np.ndarray:
    return ((z - [0.2, 0.7]) ** 2).sum(axis=1)


def test_a_short_study_is_seen_whole(z, loss):
    rows, arm = visible(z[:MOST_ROWS], loss[:MOST_ROWS], np.random.default_rng(0))
    assert arm == "model"
    assert rows.tolist() == list(range(MOST_ROWS))


def test_what_is_seen_is_bounded_holds_the_best_and_keeps_the_order(z, loss):
    arms = set()
    for seed in range(20):
        rows, arm = visible(z, loss, np.random.default_rng(seed))
        arms.add(arm)
        assert len(rows) == MOST_ROWS
        assert (np.diff(rows) > 0).all()
        assert loss.argmin() in rows
    assert arms == {"local", "global"}


def test_the_neighbourhood_is_near_and_the_whole_is_not(z, loss):
    best = z[loss.argmin()]
    spread = [np.abs(z[rows] - best).max() for rows in (near(z, loss), everywhere(loss, np.random.default_rng(0)))]
    assert spread[0] < 0.5 < spread[1]


def test_the_choice_depends_on_the_randomness_alone(z, loss):
    first, again = (visible(z, loss, np.random.default_rng(3))[0] for _ in range(2))
    assert first.tolist() == again.tolist()
