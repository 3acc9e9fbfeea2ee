"""A study as samplers and pruners see it."""

from __future__ import annotations

import copy
import random
import time

import optuna
import pytest
from optuna.trial import TrialState

from automl.declaration import Choice, Float, Int, Space
from automl.errors import InvalidInput
from automl.search import History, Suggestion, suggest, to_distributions
from automl.search.history import STUDY_ATTRS, Draft, blank_trial
from tests.unit.search.trials import MIXED, NUMBERS, frozen, search, spread

SPACE = Space({"x": Float(0, 1)})


def point(x, **attrs):
    json = {"x": optuna.distributions.distribution_to_json(optuna.distributions.FloatDistribution(0, 1))}
    return Suggestion({"x": x}, json, attrs)


def test_trials_may_arrive_in_any_order_and_in_parts():
    trials = search("random", MIXED, spread, 20)
    whole = History(["minimize"], "study", MIXED)
    whole.update(trials)
    parts = History(["minimize"], "study", MIXED)
    shuffled = random.Random(0).sample(trials, 20)
    for i in range(0, 20, 3):
        parts.update(shuffled[i : i + 3])
    assert parts.study().trials == whole.study().trials
    assert [t.number for t in parts.study().trials] == list(range(20))


def test_a_trial_that_comes_again_replaces_itself():
    history = History(["minimize"], "study", SPACE)
    history.update([frozen(0, point(0.5), state=TrialState.RUNNING)])
    history.update([frozen(0, point(0.5), values=[2])])
    (trial,) = history.study().trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)
    assert history.study().best_params == {"x": 0.5}


def test_what_is_handed_in_again_is_shown_as_the_same_object():
    """Samplers know by that what they have read already."""
    history = History(["minimize"], "study", SPACE)
    trials = [frozen(0, point(0.5), values=[2]), frozen(1, point(0.2), state=TrialState.RUNNING)]
    history.update(trials)
    before = list(history.study().get_trials(deepcopy=False))
    history.update([trials[0], frozen(1, point(0.2), values=[3])])
    after = list(history.study().get_trials(deepcopy=False))
    assert after[0] is before[0]
    assert after[1] is not before[1] and after[1].value == 3


def test_a_waiting_suggestion_is_shown_as_running_and_one_that_is_not_ready_stays_hidden():
    history = History(["minimize"], "study", SPACE)
    history.update([frozen(0, point(0.5), state=TrialState.WAITING), frozen(3, state=TrialState.WAITING)])
    ready, *hidden = history.study().trials
    assert (ready.state, ready.params) == (TrialState.RUNNING, {"x": 0.5})
    assert [(t.number, t.state, t.params) for t in hidden] == [(n, TrialState.WAITING, {}) for n in (1, 2, 3)]


def test_a_result_that_is_not_a_number_is_a_failed_trial():
    history = History(["minimize"], "study", SPACE)
    history.update([frozen(0, point(0.1), values=[float("nan")]), frozen(1, point(0.2), values=[1.0])])
    assert [t.state for t in history.study().trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert history.n_finished == 1
    assert history.study().best_value == 1.0


def test_a_widened_space_makes_one_joint_model_of_old_and_new_trials():
    old = Space({"x": Float(0, 1), "o": Choice("a", "b"), "gone": Int(1, 3)})
    trials = search("random", old, spread, 5)
    wide = Space({"x": Float(0, 5), "o": Choice("a", "b", "c")})
    history = History(["minimize"], "study", wide)
    history.update(trials)
    assert all(t.distributions == to_distributions(wide) for t in history.study().trials)
    assert optuna.search_space.intersection_search_space(history.study().trials).keys() == {"x", "o"}
    assert "gone" in trials[0].params  # the caller's own is untouched


def test_what_is_handed_in_is_not_changed():
    trials = [frozen(0, point(0.5), state=TrialState.WAITING), frozen(1, point(0.2), values=[3])]
    before = copy.deepcopy(trials)
    history = History(["minimize"], "study", SPACE)
    history.update(trials)
    suggest(history, 2, "tpe", 0)
    assert trials == before


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.create_new_study([]),
        lambda s: s.delete_study(0),
        lambda s: s.set_study_user_attr(0, "k", 1),
        lambda s: s.set_study_system_attr(0, "k", 1),
        lambda s: s.create_new_trial(0),
        lambda s: s.set_trial_param(0, "x", 0.5, optuna.distributions.FloatDistribution(0, 1)),
        lambda s: s.set_trial_state_values(0, TrialState.COMPLETE, [1.0]),
        lambda s: s.set_trial_intermediate_value(0, 1, 1.0),
        lambda s: s.set_trial_user_attr(0, "k", 1),
        lambda s: s.set_trial_system_attr(0, "k", 1),
    ],
)
def test_nothing_can_be_written(write):
    history = History(["minimize"], "study", SPACE)
    history.update([frozen(0, point(0.5), state=TrialState.RUNNING)])
    before = history.study().trials
    with pytest.raises(InvalidInput, match="read-only"):
        write(history)
    assert history.study().trials == before


def test_a_draft_takes_notes_on_its_own_trial_and_on_the_study_only():
    history = History(["minimize"], "study", SPACE)
    history.update([frozen(0, point(0.5, **{STUDY_ATTRS: {"count": 1}}), values=[1.0])])
    draft = Draft(history, blank_trial(1, TrialState.RUNNING))
    draft.set_trial_system_attr(1, "note", "mine")
    draft.set_study_system_attr(0, "other", 2)
    assert draft.get_trial(1).system_attrs == {"note": "mine"}
    assert draft.get_study_system_attrs(0) == {"count": 1, "other": 2}
    assert history.get_study_system_attrs(0) == {"count": 1}
    assert history.get_n_trials(0) == 1
    with pytest.raises(InvalidInput, match="trial 0"):
        draft.set_trial_system_attr(0, "note", "not mine")


def test_optuna_reads_it_as_any_study():
    history = History(["minimize", "maximize"], "pair")
    loaded = optuna.load_study(study_name="pair", storage=history, sampler=optuna.samplers.RandomSampler(seed=0))
    assert [d.name for d in loaded.directions] == ["MINIMIZE", "MAXIMIZE"]
    (summary,) = optuna.get_all_study_summaries(history)
    assert summary.study_name == "pair"
    assert history.get_study_name_from_id(0) == "pair"
    assert history.get_study_user_attrs(0) == {}
    for unknown in (lambda: history.get_all_trials(1), lambda: history.get_trial(0)):
        with pytest.raises(KeyError):
            unknown()
    with pytest.raises(KeyError):
        history.get_study_id_from_name("other")


def test_an_unknown_direction_is_refused():
    with pytest.raises(InvalidInput, match="'minimize' or 'maximize'"):
        History(["max"], "study")


def test_ten_thousand_trials_are_listed_in_about_a_millisecond():
    history = History(["minimize"], "study", NUMBERS)
    suggestion = suggest(history, 0, "random", 0)
    history.update(frozen(n, suggestion, values=[float(n)]) for n in range(10_000))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        trials = history.get_all_trials(0, deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        best = min(best, time.perf_counter() - start)
    assert len(trials) == 10_000
    assert best < 5e-3  # five times the aim, for a busy machine
