"""Which results the model of a long study sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl.declaration import Choice, Float, Int, Space
from automl.search.density import promising
from automl.search.encoding import Encoding
from automl.search.local import (
    FEWEST_FAILURES,
    FIRST_SIDE,
    LARGEST_SIDE,
    MOST_ROWS,
    REGION_ROWS,
    SMALLEST_SIDE,
    SUCCESSES,
    Track,
    box,
    everywhere,
    focus,
    follow,
    looks_everywhere,
    near,
    rank,
    visible,
)
from automl.search.observations import Observations
from automl.search.proposal import Request, propose


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
    spread = [
        np.abs(z[rows] - best).max()
        for rows in (near(z, loss, loss.argmin(), MOST_ROWS), everywhere(loss, np.random.default_rng(0)))
    ]
    assert spread[0] < 0.5 < spread[1]


def test_the_choice_depends_on_the_randomness_alone(z, loss):
    first, again = (visible(z, loss, np.random.default_rng(3))[0] for _ in range(2))
    assert first.tolist() == again.tolist()


# -- the region ---------------------------------------------------------------------------------------------------


def track_of(losses: list[float], where: list[float], start: int = 1) -> Track:
    """The region after these results in one number."""
    x = np.array(where, dtype=float)[:, None]
    return follow(x, np.array(losses, dtype=float), np.array([False]), start)


def test_failures_on_end_halve_the_side():
    assert track_of([0.0] + [1.0] * (FEWEST_FAILURES - 1), [0.5] * FEWEST_FAILURES).side == FIRST_SIDE
    assert track_of([0.0] + [1.0] * FEWEST_FAILURES, [0.5] * (FEWEST_FAILURES + 1)).side == FIRST_SIDE / 2
    assert track_of([0.0] + [1.0] * 2 * FEWEST_FAILURES, [0.5] * (2 * FEWEST_FAILURES + 1)).side == FIRST_SIDE / 4


def test_successes_on_end_double_the_side_up_to_the_largest_and_move_the_centre():
    found = track_of([-float(i) for i in range(SUCCESSES + 1)], [0.5 + 0.01 * i for i in range(SUCCESSES + 1)])
    assert found == Track(SUCCESSES, min(2 * FIRST_SIDE, LARGEST_SIDE))
    many = 4 * SUCCESSES + 1
    assert track_of([-float(i) for i in range(many)], [0.5] * many).side == LARGEST_SIDE


def test_a_success_ends_a_row_of_failures():
    losses = [0.0, *[1.0] * (FEWEST_FAILURES - 1), -1.0, *[1.0] * (FEWEST_FAILURES - 1)]
    assert track_of(losses, [0.5] * len(losses)).side == FIRST_SIDE


def test_a_gain_that_is_next_to_nothing_moves_the_centre_but_is_a_failure():
    losses = [0.0, *[1.0] * (FEWEST_FAILURES - 1), -1e-9]
    assert track_of(losses, [0.5] * len(losses)) == Track(len(losses) - 1, FIRST_SIDE / 2)


def test_what_was_tried_outside_is_no_failure_of_the_region():
    losses = [0.0] + [1.0] * 5 * FEWEST_FAILURES
    assert track_of(losses, [0.1] + [0.9] * (len(losses) - 1)) == Track(0, FIRST_SIDE)


def test_a_better_point_outside_takes_the_region_along():
    losses = [0.0, *[1.0] * FEWEST_FAILURES, -1.0]
    assert track_of(losses, [0.1] * (len(losses) - 1) + [0.9]) == Track(len(losses) - 1, FIRST_SIDE)


def test_a_region_that_gained_nothing_begins_anew_at_the_best_point_elsewhere():
    halvings = int(np.ceil(np.log2(FIRST_SIDE / SMALLEST_SIDE)))
    losses = [0.0, 0.2, 0.1, *[1.0] * FEWEST_FAILURES * halvings]
    where = [0.5, 0.9, 0.55, *[0.5] * (len(losses) - 3)]  # the second best is too near to be worth it
    assert track_of(losses, where, start=3) == Track(1, FIRST_SIDE)


def study(n: int, d: int = 3) -> Observations:
    """Random points of a bowl in numbers and a choice."""
    space = Space({**{f"x{i}": Float(0, 1) for i in range(d - 1)}, "c": Choice("a", "b", "c")})
    encoding = Encoding.of(space)
    x = encoding.snap(np.random.default_rng(1).random((n, d)))
    values = ((x[:, :-1] - 0.3) ** 2).sum(axis=1) + (x[:, -1] > 0.4)
    nothing = np.empty((0, d))
    return Observations(
        encoding, x, values[:, None], np.empty((n, 0)), (), np.full(n, np.nan), failed=nothing, pending=nothing
    )


def test_the_model_of_a_region_sees_the_best_of_what_is_near_in_the_unit_cube_of_its_features():
    o = study(2000)
    seen = focus(o)
    assert seen is not None
    shown = seen.observations
    assert len(shown.x) == REGION_ROWS
    assert o.values.min() in shown.values
    centre = o.x[o.values.argmin()]
    assert np.abs(shown.x - centre)[:, :-1].max() < 0.5 * np.abs(o.x - centre)[:, :-1].max()
    assert np.median(shown.values) < np.quantile(o.values, 0.2)
    z = shown.encoding.features(shown.x)
    assert z.min() >= -1e-9
    assert z.max() <= 1.0 + 1e-9
    again = focus(o)
    assert again is not None
    assert np.array_equal(again.observations.x, shown.x)


def test_a_short_study_and_one_of_few_points_have_no_region():
    assert focus(study(MOST_ROWS)) is None
    o = study(300)
    assert focus(replace(o, x=o.x[np.arange(300) % 100])) is None


def test_what_breaks_a_constraint_ranks_behind_all_that_breaks_none():
    o = replace(
        study(4), values=np.array([[5.0], [1.0], [2.0], [np.inf]]), slack=np.array([[0.0], [2.0], [1.0], [-1.0]])
    )
    assert np.argsort(rank(o), kind="stable").tolist() == [0, 3, 2, 1]


def test_the_box_is_in_the_cube_and_a_whole_number_can_move_in_it():
    encoding = Encoding.of(Space({"x": Float(0, 1), "k": Int(1, 10), "c": Choice("a", "b")}))
    centre = encoding.snap(np.array([[0.02, 0.5, 0.2]]))[0]
    region = box(encoding, centre, 0.1)
    assert region.low == pytest.approx([0.0, centre[1] - 0.1, 0.0])
    assert region.high == pytest.approx([0.07, centre[1] + 0.1, 1.0])


def test_less_than_half_of_the_suggestions_leave_the_region_alone():
    alone = [looks_everywhere(0, number) for number in range(400)]
    assert 0.2 < np.mean(alone) < 0.4
    assert alone == [looks_everywhere(0, number) for number in range(400)]


def test_suggestions_of_a_long_study_stay_in_the_region_or_are_where_good_points_are_dense():
    o = study(300)
    seen = focus(o)
    assert seen is not None
    arms = set()
    for number in range(300, 312):
        found = propose(o, Request(number=number, seed=0))
        arms.add(found.why["arm"])
        if found.why["arm"] == "region":
            assert ((seen.region.low <= found.x) & (found.x <= seen.region.high)).all()
    assert arms == {"region", "density"}


def test_a_density_is_high_where_good_points_are_and_others_are_not():
    o = study(600)
    drawn = promising(o, rank(o), seed=0, number=600)
    assert np.abs(drawn[:5, :-1] - 0.3).mean() < 0.5 * np.abs(o.x[:, :-1] - 0.3).mean()
    assert (drawn[:5, -1] < 0.4).all()
    assert np.array_equal(drawn, promising(o, rank(o), seed=0, number=600), equal_nan=True)
