"""Whether a scheduled search is worth going on with, and whether it has found something better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.search.forecast import Forecast, chance_of, forecast

VALUES = st.lists(st.floats(-10.0, 10.0), min_size=10, max_size=40).map(np.array)


@given(VALUES, st.floats(1e-3, 1.0), st.integers(1, 100), st.floats(0.01, 5.0), st.none() | st.floats(0.01, 5.0))
def test_the_chance_of_another_gain_is_what_a_forecast_of_it_would_say(
    values: np.ndarray, promise: float, trials: int, margin: float, asked: float | None
) -> None:
    known = forecast(values, promise, 20, asked)
    wanted = forecast(values, promise, trials, margin)
    assert known is not None
    assert wanted is not None
    if 1e-6 < known.p_margin < 1.0 - 1e-6:
        assert chance_of(values, known, asked, trials, margin) == pytest.approx(wanted.p_margin, rel=1e-6)


def test_more_trials_have_more_of_a_chance_and_a_larger_gain_less() -> None:
    values = np.array([3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 1.3, 1.4, 1.2, 1.1, 1.1, 1.2])
    known = forecast(values, 0.01)
    assert known is not None
    assert chance_of(values, known, None, known.trials) == pytest.approx(known.p_margin)
    assert chance_of(values, known, None, 5 * known.trials) > known.p_margin
    assert chance_of(values, known, None, known.trials, margin=1.0) < known.p_margin


def test_what_is_certain_stays_so() -> None:
    values = np.arange(12.0)
    for chance in (0.0, 1.0):
        assert chance_of(values, Forecast(20, 0.0, 0.0, chance), None, 100, 0.5) == chance
