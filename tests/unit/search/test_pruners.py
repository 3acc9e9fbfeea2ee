"""Pruners by name, and their answer over a history."""

from __future__ import annotations

import math
import random
import warnings

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from automl.declaration import Fidelity
from automl.errors import InvalidInput
from automl.search import History, make_pruner, should_prune
from automl.search.pruners import WithinFidelity
from tests.unit.search.trials import frozen

EPOCHS = Fidelity("epoch", min=1, max=27)
ONE = ("minimize",)
TWO = ("minimize", "maximize")


@pytest.fixture(scope="module", autouse=True)
def _quiet_optuna():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


def test_auto_is_hyperband_with_a_fidelity_the_median_rule_without_and_none_for_several_metrics():
    assert isinstance(make_pruner("auto", EPOCHS, ONE).pruner, HyperbandPruner)
    assert isinstance(make_pruner("auto", None, ONE), MedianPruner)
    assert isinstance(make_pruner("auto", EPOCHS, TWO), NopPruner)


@pytest.mark.parametrize(
    ("choice", "kind"), [("median", MedianPruner), ("hyperband", HyperbandPruner), ("asha", SuccessiveHalvingPruner)]
)
def test_every_name_means_its_pruner_within_the_fidelity(choice, kind):
    pruner = make_pruner(choice, EPOCHS, ONE)
    assert isinstance(pruner, WithinFidelity)
    assert isinstance(pruner.pruner, kind)


def test_none_prunes_nothing_and_an_object_is_taken_as_it_is():
    assert isinstance(make_pruner("none", EPOCHS, TWO), NopPruner)
    own = MedianPruner()
    assert make_pruner(own, None, ONE) is own
    assert isinstance(make_pruner("median", None, ONE), MedianPruner)


@pytest.mark.parametrize(
    ("choice", "fidelity", "directions", "message"),
    [
        ("best", EPOCHS, ONE, "use one of auto, none"),
        ("hyperband", None, ONE, "needs the steps"),
        ("asha", None, ONE, "needs the steps"),
        ("median", EPOCHS, TWO, "for one metric"),
        (MedianPruner(), EPOCHS, TWO, "for one metric"),
    ],
)
def test_a_pruner_that_cannot_work_is_refused(choice, fidelity, directions, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        make_pruner(choice, fidelity, directions)
    assert caught.value.field == "pruner"


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # by the live study
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    "pruner",
    [
        HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
        HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=2, bootstrap_count=1),
        SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        SuccessiveHalvingPruner(min_resource=2, reduction_factor=2, min_early_stopping_rate=1, bootstrap_count=2),
        MedianPruner(n_startup_trials=3),
        optuna.pruners.PercentilePruner(25.0, n_warmup_steps=2),
        optuna.pruners.ThresholdPruner(upper=1.2),
        NopPruner(),
    ],
    ids=lambda p: type(p).__name__,
)
def test_a_history_gives_the_answers_of_a_live_study(pruner, direction):
    """Four trials at a time report in turns, to an Optuna study and to a history."""
    rng = random.Random(0)
    live = optuna.create_study(study_name="study", direction=direction, pruner=pruner)
    history = History([direction], "study")
    running, answers = {}, []
    for _ in range(250):
        while len(running) < 4:
            trial = live.ask()
            running[trial.number] = (trial, rng.random(), {})
        number = rng.choice(list(running))
        trial, level, reports = running[number]
        step = len(reports) + 1
        reports[step] = level + rng.random() / step if rng.random() > 0.02 else math.nan
        trial.report(reports[step], step)
        history.update([frozen(number, state=TrialState.RUNNING, reports=reports)])
        answer = trial.should_prune()
        assert should_prune(history, number, pruner) == answer
        assert should_prune(history, number, pruner) == answer
        answers.append(answer)
        if answer or step == 27:
            state = TrialState.PRUNED if answer or math.isnan(reports[step]) else TrialState.COMPLETE
            values = [reports[step]] if state is TrialState.COMPLETE else None
            live.tell(trial, values, state=state)
            history.update([frozen(number, state=state, values=values, reports=reports)])
            del running[number]
    assert any(answers) or isinstance(pruner, NopPruner)


def test_the_rungs_of_an_automatic_first_step_follow_from_the_longest_complete_trial():
    pruner = SuccessiveHalvingPruner(min_resource="auto", reduction_factor=2)
    history = History(ONE, "study")
    history.update([frozen(0, state=TrialState.RUNNING, reports={1: 1.0, 2: 9.0})])
    assert not should_prune(history, 0, pruner)
    history.update([frozen(1, state=TrialState.COMPLETE, values=[0.0], reports=dict.fromkeys(range(1, 301), 0.0))])
    history.update([frozen(2, state=TrialState.RUNNING, reports={1: 5.0, 2: 5.0})])
    assert not should_prune(history, 2, pruner)  # the first rung is step 3
    history.update([frozen(2, state=TrialState.RUNNING, reports={1: 5.0, 2: 5.0, 3: 5.0})])
    assert should_prune(history, 2, pruner)


def test_hyperband_without_a_maximum_waits_for_a_complete_trial():
    history = History(ONE, "study")
    history.update([frozen(0, state=TrialState.RUNNING, reports={1: 1.0})])
    assert not should_prune(history, 0, HyperbandPruner())


def test_a_trial_at_its_last_step_is_done_not_pruned():
    def answer(step):
        history = History(ONE, "study")
        history.update(
            frozen(n, state=TrialState.COMPLETE, values=[0.0], reports=dict.fromkeys((1, 3, 9, 27), 0.0))
            for n in range(9)
        )
        history.update([frozen(9, state=TrialState.RUNNING, reports={step: 1.0})])
        return should_prune(history, 9, make_pruner("asha", EPOCHS, ONE))

    assert [answer(step) for step in (0, 1, 9, 26, 27, 30)] == [False, True, True, True, False, False]


def test_several_metrics_are_never_pruned():
    history = History(TWO, "study")
    history.update([frozen(0, state=TrialState.RUNNING, reports={1: math.nan})])
    assert not should_prune(history, 0, MedianPruner())


def test_halving_works_inside_a_patient_pruner():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.PatientPruner(SuccessiveHalvingPruner(min_resource=3), patience=1)
    history = History(ONE, "study")
    history.update(frozen(n, state=TrialState.RUNNING, reports={1: 0, 2: 0, 3: 0}) for n in range(4))
    for first, last, answer in ((0.0, 2.0, True), (-5.0, -2.0, False), (0.0, -2.0, False)):
        history.update([frozen(4, state=TrialState.RUNNING, reports={1: first, 2: last, 3: last})])
        assert should_prune(history, 4, pruner) == answer


def test_a_trial_that_reports_no_number_is_pruned():
    history = History(ONE, "study")
    history.update(frozen(n, state=TrialState.COMPLETE, values=[1.0], reports={1: 1.0, 2: 1.0}) for n in range(6))
    history.update([frozen(6, state=TrialState.RUNNING, reports={1: math.nan})])
    for choice in ("median", "asha"):
        assert should_prune(history, 6, make_pruner(choice, EPOCHS, ONE))


def test_asking_changes_neither_history_nor_pruner():
    history = History(ONE, "study")
    history.update(frozen(n, state=TrialState.RUNNING, reports={1: float(n)}) for n in range(9))
    pruner = make_pruner("hyperband", EPOCHS, ONE)
    before = history.study().trials
    for number in range(9):
        should_prune(history, number, pruner)
    assert history.study().trials == before
    assert pruner.pruner._pruners == []
