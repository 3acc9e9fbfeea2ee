"""The race of the best trials: what runs tell, whose turn is next, when it is over."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl.core import Attr, FailureKind
from automl.declaration import Candidate, Direction, Race
from automl.search.race import (
    FAILED_TOO_OFTEN,
    FIRST_RUNS,
    MARGIN,
    Runs,
    Verdict,
    estimates,
    judge,
    runs_of,
    turn,
)

NAMES = (28, 7, 3, 41, 12)


def of(*values: tuple[float, ...]) -> list[Runs]:
    return [Runs(item) for item in values]


def next_of(runs: list[Runs], direction: Direction = "min", sure: float = 0.95) -> int | None:
    return turn(runs, direction, sure, NAMES).candidate


def judged(runs: list[Runs], direction: Direction = "min") -> Verdict:
    found = judge(runs, direction)
    assert found is not None
    return found


def race(truth: list[float], noise: float, seed: int, *, trials: int = 25, workers: int = 1) -> list[Runs]:
    """A whole race with normal noise, `workers` runs at a time."""
    random = np.random.default_rng(seed)
    values: list[list[float]] = [[] for _ in truth]
    pending: list[int] = []
    made = 0
    while True:
        runs = [Runs(tuple(v), 0, pending.count(i)) for i, v in enumerate(values)]
        candidate = next_of(runs) if len(pending) < workers and made < trials else None
        if candidate is not None:
            pending.append(candidate)
            made += 1
        elif pending:
            ended = pending.pop(0)
            values[ended].append(truth[ended] + noise * random.normal())
        else:
            return runs


# -- what runs tell -------------------------------------------------------------------------------------------------


def test_nothing_is_known_before_a_candidate_has_run_twice() -> None:
    assert judge(of((1.0,), (2.0,)), "min") is None
    assert judge(of((), ()), "min") is None
    assert judge(of((1.0, 1.1), (2.0,)), "min") is not None


def test_the_chances_to_be_the_best_add_up_and_the_clearly_best_one_has_nearly_all() -> None:
    verdict = judged(of((0.0, 0.1, 0.2), (5.0, 5.1, 4.9), (9.0, 9.1)))
    assert sum(s.p_best for s in verdict.standings if s is not None) == pytest.approx(1.0)
    assert verdict.leader == 0 and verdict.p_best > 0.99
    assert judged(of((0.0, 0.1, 0.2), (5.0, 5.1, 4.9), (9.0, 9.1)), "max").leader == 2


def test_means_are_drawn_towards_each_other_the_more_so_the_noisier_they_are() -> None:
    drawn = []
    for noise in (4.0, 1.0, 0.1):
        low, *_, high = judged(of(*((mean - noise, mean + noise) for mean in (-1.0, 0.0, 1.0)))).standings
        assert low is not None and high is not None
        drawn.append(1.0 - (high.mean - low.mean) / 2.0)
    assert drawn[0] > drawn[1] + 0.05 > drawn[2] + 0.3
    assert abs(drawn[2]) < 0.1


def test_an_interval_narrows_with_runs_and_holds_the_mean() -> None:
    random = np.random.default_rng(3)
    widths = []
    for n in (3, 12, 48):
        standing = judged(of(tuple(random.normal(size=n)), tuple(1 + random.normal(size=n)))).standings[0]
        assert standing is not None
        assert standing.low < standing.mean < standing.high
        widths.append(standing.high - standing.low)
    assert widths[0] > 1.4 * widths[1] > 1.4 * 1.4 * widths[2]


def test_two_runs_of_one_candidate_say_little() -> None:
    standing = judged(of((1.0, 1.2))).standings[0]
    assert standing is not None
    assert standing.high - standing.low > 1.2  # Student's t with one degree of freedom: 2.54


def test_for_many_runs_an_interval_is_that_of_students_t() -> None:
    from scipy.stats import t

    values = np.random.default_rng(1).normal(5.0, 2.0, size=12)
    standing = judged(of(tuple(values))).standings[0]
    low, high = t.interval(0.95, 11, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(12))
    assert standing is not None
    assert (standing.mean, standing.low, standing.high) == pytest.approx((values.mean(), low, high), abs=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = []
    for seed in range(60):
        truth = list(np.random.default_rng([5, seed]).normal(size=5))
        verdict = judged(race(truth, 1.0, seed, trials=15))
        standing = verdict.standings[verdict.leader]
        assert standing is not None
        held.append(standing.low <= truth[verdict.leader] <= standing.high)
    assert np.mean(held) >= 0.88  # 0.95 is expected; without shrinkage the leader's is 0.86


def test_larger_is_better_is_the_mirror_image() -> None:
    runs = of((1.0, 1.5), (2.0, 2.2, 2.1), (0.5, 0.6))
    mirrored = of(*(tuple(-value for value in item.values) for item in runs))
    small, large = judged(runs), judged(mirrored, "max")
    assert next_of(runs) == next_of(mirrored, "max")
    for one, other in zip(small.standings, large.standings, strict=True):
        assert one is not None and other is not None
        assert astuple(one) == pytest.approx((-other.mean, other.sd, -other.high, -other.low, other.p_best))


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 1e6)])
def test_units_do_not_matter(scale: float, shift: float) -> None:
    runs = of((1.0, 1.5), (1.25, 1.375), (0.5, 0.75))
    other = of(*(tuple(shift + scale * value for value in item.values) for item in runs))
    assert next_of(runs) == next_of(other)
    assert judged(runs).p_best == pytest.approx(judged(other).p_best, abs=1e-3)


def test_the_same_runs_give_the_same_answer() -> None:
    runs = race([0.0, 0.2, 0.4, 0.5, 0.6], 1.0, 1, trials=12)
    assert judge(runs, "min") == judge(list(runs), "min")


# -- whose turn it is -----------------------------------------------------------------------------------------------


def test_each_candidate_runs_twice_first_in_the_order_of_what_the_search_saw() -> None:
    runs = [Runs() for _ in NAMES]
    order = []
    for _ in range(FIRST_RUNS * len(runs)):
        candidate = next_of(runs)
        assert candidate is not None
        order.append(candidate)
        runs[candidate] = Runs(pending=runs[candidate].pending + 1)
    assert order == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_a_hopeless_candidate_is_spared_its_second_run() -> None:
    runs = of((0.0, 0.1), (0.05, 0.02), (0.1, 0.15), (99.0,))
    assert next_of(runs) != 3
    assert next_of(of((0.0, 0.1), (0.05, 0.02), (0.1, 0.15), (0.3,))) == 3


def test_after_the_first_runs_those_run_that_are_hard_to_tell_apart() -> None:
    runs = of((0.0, 0.2), (0.05, 0.25), (3.0, 3.2), (5.0, 5.2), (4.0, 4.2))
    for _ in range(10):
        candidate = next_of(runs)
        assert candidate in (0, 1)
        assert candidate is not None
        runs[candidate] = Runs(runs[candidate].values + runs[candidate].values[:1])


def test_pending_runs_count_so_that_many_workers_do_not_all_run_the_same() -> None:
    runs = of((0.0, 0.5), (0.1, 0.6), (0.2, 0.7))
    given = []
    for _ in range(24):
        candidate = next_of(runs)
        assert candidate is not None
        given.append(candidate)
        runs[candidate] = Runs(runs[candidate].values, 0, runs[candidate].pending + 1)
    assert set(given[:4]) == {0, 1}  # the two that are the hardest to tell apart
    assert set(given) == {0, 1, 2}  # but not for ever


def test_a_lone_candidate_runs_until_its_interval_means_something() -> None:
    values: tuple[float, ...] = ()
    while next_of([Runs(values)]) is not None:
        values += (float(np.sin(len(values))),)
    assert len(values) == 5


# -- the end --------------------------------------------------------------------------------------------------------


def test_the_race_is_over_when_one_is_the_best_with_the_probability_that_was_asked_for() -> None:
    runs = of((0.0, 0.2, 0.1), (0.15, 0.3, 0.3), (0.5, 0.6))
    p = judged(runs).p_best
    assert 0.8 < p < 0.98
    over = turn(runs, "min", p - 0.001, NAMES)
    assert over.candidate is None
    assert over.reason == f"trial 28 is the best with P = {p:.2f}"
    assert next_of(runs, sure=0.999) is not None


def test_the_race_is_over_when_nobody_else_is_better_by_more_than_is_worth_mentioning() -> None:
    random = np.random.default_rng(2)
    equal = of(*(tuple(float(v) for v in random.permutation(np.linspace(-1, 1, 400))) for _ in range(2)))
    verdict = judged(equal)
    assert verdict.p_best < 0.95
    over = turn(equal, "min", 0.95, NAMES)
    assert over.candidate is None
    assert f"by more than {MARGIN:g} of the noise" in over.reason


def test_where_the_seed_does_not_matter_two_runs_of_each_are_exact_and_enough() -> None:
    runs = of((0.5, 0.5), (0.25, 0.25), (0.75,))
    assert next_of(runs) == 2  # not over: the third may yet show a noise
    over = turn(of((0.5, 0.5), (0.25, 0.25), (0.75, 0.75)), "min", 0.95, NAMES)
    assert (over.candidate, over.reason.partition(":")[0]) == (None, "trial 7 is the best")
    verdict = judged(of((0.1 + 0.2, 0.1 + 0.2), (0.25, 0.25)))
    assert [astuple(s) for s in verdict.standings if s is not None] == [
        (0.1 + 0.2, 0.0, 0.1 + 0.2, 0.1 + 0.2, 0.0),
        (0.25, 0.0, 0.25, 0.25, 1.0),
    ]


def test_where_the_seed_does_not_matter_runs_that_are_under_way_are_no_trouble() -> None:
    runs = (Runs((0.5, 0.5)), Runs((0.25,), pending=1), Runs((0.75,), pending=1))
    assert next_of(runs) == 0  # each of them will have two runs, none says more than another


def test_exact_values_that_are_equal_are_both_the_best() -> None:
    verdict = judged(of((0.5, 0.5), (0.5, 0.5), (0.75, 0.75)))
    assert [s.p_best for s in verdict.standings if s is not None] == [1.0, 1.0, 0.0]
    assert verdict.leader == 0  # as the search saw it


def test_one_pair_of_equal_values_is_no_proof_that_there_is_no_noise() -> None:
    assert next_of(of((0.5, 0.5), (0.25, 0.26))) is not None


def test_a_clear_case_ends_early_and_a_close_one_later() -> None:
    clear, close = race([0.0, 5.0, 6.0, 7.0, 8.0], 1.0, 0), race([0.0, 0.3, 0.3, 0.4, 0.5], 1.0, 0)
    spent = [sum(len(item.values) for item in runs) for runs in (clear, close)]
    assert spent[0] <= 14 < spent[1]


def test_several_workers_come_to_the_same_end_with_few_runs_more() -> None:
    alone, together = (race([0.0, 3.0, 6.0, 7.0, 8.0], 1.0, 4, workers=workers) for workers in (1, 4))
    assert judged(alone).leader == judged(together).leader == 0
    assert sum(len(r.values) for r in together) <= sum(len(r.values) for r in alone) + 4


# -- failures -------------------------------------------------------------------------------------------------------


def test_a_candidate_that_fails_drops_out() -> None:
    runs = [Runs(failed=FAILED_TOO_OFTEN), Runs((1.0, 1.1)), Runs((1.05, 1.2))]
    assert next_of(runs) in (1, 2)
    verdict = judged(runs)
    assert verdict.standings[0] is None and verdict.leader in (1, 2)


def test_one_failure_among_runs_that_work_is_no_end() -> None:
    assert next_of([Runs((1.0,), failed=1), Runs((1.0, 1.1))]) == 0


def test_where_every_candidate_fails_the_race_is_over() -> None:
    over = turn([Runs(failed=FAILED_TOO_OFTEN)] * 2, "min", 0.95, NAMES)
    assert (over.candidate, over.reason) == (None, "every candidate fails")


# -- from trials ----------------------------------------------------------------------------------------------------

RACE = Race((Candidate(28, {}, 0.1), Candidate(7, {}, 0.2)), 0.95, held_out=True)


def trial(
    number: int, candidate: int | None, state: TrialState, value: float | None = None, **attrs: Any
) -> FrozenTrial:
    system_attrs = attrs if candidate is None else {Attr.CANDIDATE: candidate, **attrs}
    made = create_trial(state=state, value=value, system_attrs=system_attrs)
    made.number = number
    return made


def test_trials_are_counted_by_what_became_of_them() -> None:
    def failed(kind: str) -> dict[str, Any]:
        return {Attr.FAILURE_KIND.value: kind}

    trials = [
        trial(0, 28, TrialState.COMPLETE, 0.5),
        trial(1, 28, TrialState.RUNNING),
        trial(2, 28, TrialState.WAITING),
        trial(3, 7, TrialState.FAIL, **failed(FailureKind.ERROR)),
        trial(4, 7, TrialState.FAIL, **failed("cancelled")),
        trial(5, 7, TrialState.FAIL, **failed("invalid")),
        trial(6, 7, TrialState.PRUNED, 9.0),
        trial(7, 7, TrialState.COMPLETE, float("inf")),
        trial(8, None, TrialState.COMPLETE, 0.0),
        trial(9, 99, TrialState.COMPLETE, 0.0),
    ]
    assert runs_of(RACE, trials) == (Runs((0.5,), 0, 2), Runs((), 3, 0))
    assert runs_of(RACE, trials, but=2) == (Runs((0.5,), 0, 1), Runs((), 3, 0))


def test_estimates_tell_the_lucky_value_and_the_honest_one() -> None:
    values = {28: (0.4, 0.5, 0.6), 7: (0.2, 0.25, 0.3)}
    pairs = [(number, value) for number, found in values.items() for value in found]
    trials = [trial(i, number, TrialState.COMPLETE, value) for i, (number, value) in enumerate(pairs)]
    found = estimates(RACE, trials, "min")
    assert list(found) == [28, 7]
    assert found[28].observed == 0.1 and found[28].value == pytest.approx(0.5, abs=0.06)
    assert found[28].low < found[28].value < found[28].high
    assert found[7].p_best > 0.9 and found[7].runs == 3 and found[7].held_out
    assert estimates(RACE, trials[:1], "min") == {}
    assert all(type(number) is float for number in astuple(found[7])[:5])


def test_a_candidate_that_has_not_run_has_no_estimate() -> None:
    trials = [trial(i, 28, TrialState.COMPLETE, value) for i, value in enumerate((0.4, 0.5))]
    assert list(estimates(RACE, trials, "min")) == [28]
