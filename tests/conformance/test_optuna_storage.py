"""`OptunaStorage` keeps Optuna's contract on both databases, beside our own workers."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl.core import Failure, FailureKind, Outcome, Report
from automl.core import TrialState as State
from automl.declaration import Budget, StudySpec
from automl.errors import DatabaseUnavailable, InvalidTarget, StorageError
from automl.storage import OptunaStorage, feed, leases
from automl.storage.database import Database
from automl.storage.distributions import Distributions
from automl.storage.leases import Leases
from automl.storage.prepared import prepared
from automl.storage.studies import Studies
from automl.storage.trials import Trials

DEADLINE_S = 60.0
X = FloatDistribution(0.0, 1.0)
SUGGESTION = {
    "params": {"y": "a", "x": 0.25},
    "distributions": {
        "x": distribution_to_json(X),
        "y": distribution_to_json(CategoricalDistribution(("a", "b"))),
    },
    "system_attrs": {"note": 1},
    "basis": 0,
}


class TestOptunasContract(StorageTestCase):
    """Every test that Optuna has for a storage."""

    @pytest.fixture
    def storage(self, url: str) -> OptunaStorage:
        return OptunaStorage(url)


@pytest.fixture
def storage(url: str) -> OptunaStorage:
    return OptunaStorage(url)


class OurSide:
    """A study as our engine makes it, on the same database."""

    def __init__(self, url: str, trials: int = 10):
        self.database = Database(url)
        distributions = Distributions(self.database)
        self.studies = Studies(self.database, distributions)
        self.trials = Trials(self.database)
        self.leases = Leases(self.database, distributions)
        spec = StudySpec(name="ours", space=None, metrics={"loss": "min"}, budget=Budget(trials=trials))
        record = self.studies.declare(spec, entrypoint=None, code_sha256=None, queued=False, extend=False)
        self.study_id = record.id
        self.studies.hold(self.study_id, "holder", 60.0)

    def suggest(self, number: int = 0) -> None:
        assert self.studies.add_suggestion(self.study_id, "holder", number, SUGGESTION)

    def claim(self, lease_s: float = 60.0) -> str:
        token = uuid.uuid4().hex
        assert self.leases.claim([self.study_id], "worker", token, lease_s) is not None
        return token


@pytest.fixture
def ours(url: str, storage: OptunaStorage) -> OurSide:
    return OurSide(url)


def run_processes(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=target, args=args) for args in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join(DEADLINE_S)
    assert [child.exitcode for child in children] == [0] * len(children)


# -- studies of ours, seen by Optuna ------------------------------------------------------------------------------


def test_a_waiting_suggestion_is_an_enqueued_trial_to_optuna_and_has_its_parameters_in_a_snapshot(
    storage: OptunaStorage, ours: OurSide
) -> None:
    ours.suggest()
    (enqueued,) = storage.get_all_trials(ours.study_id)
    assert enqueued.state is TrialState.WAITING
    assert enqueued.params == {} and enqueued.distributions == {}
    assert enqueued.system_attrs == {"note": 1, "fixed_params": {"x": 0.25, "y": "a"}}
    assert storage.get_trial(enqueued._trial_id) == enqueued
    (waiting,) = storage.snapshot(ours.study_id)
    assert waiting.state is TrialState.WAITING
    assert list(waiting.params.items()) == [("y", "a"), ("x", 0.25)]
    assert waiting.distributions == {"x": X, "y": CategoricalDistribution(("a", "b"))}


def test_an_enqueued_trial_without_a_suggestion_keeps_its_fixed_parameters(
    storage: OptunaStorage, ours: OurSide
) -> None:
    ours.studies.enqueue(ours.study_id, {"x": 0.5})
    (waiting,) = storage.snapshot(ours.study_id)
    assert waiting.params == {} and waiting.system_attrs == {"fixed_params": {"x": 0.5}}


def test_a_trial_that_has_failed_says_why_and_one_that_is_tried_again_does_not(
    storage: OptunaStorage, ours: OurSide
) -> None:
    kinds = [FailureKind.ERROR, FailureKind.OUT_OF_MEMORY, FailureKind.TIMEOUT, FailureKind.LOST]
    for number, kind in enumerate(kinds):
        ours.suggest(number)
        ours.leases.fail(ours.claim(), Failure(kind, "boom"))
    ours.suggest(4)
    ours.studies.cancel_waiting(ours.study_id, 4)
    ours.suggest(5)
    attrs = [trial.system_attrs.get("automl:failure_kind") for trial in storage.get_all_trials(ours.study_id)]
    assert attrs == ["error", "out_of_memory", "timeout", None, "cancelled", None]
    optuna_study = optuna.create_study(storage=storage)
    optuna_study.tell(optuna_study.ask(), state=TrialState.FAIL)
    assert optuna_study.trials[0].system_attrs == {}


def test_a_trial_that_took_several_attempts_says_so_because_its_duration_is_not_all_work(
    storage: OptunaStorage, ours: OurSide
) -> None:
    ours.suggest()
    ours.leases.release(ours.claim())
    ours.leases.finish(ours.claim(), Outcome(State.COMPLETE, (0.5,)))
    ours.suggest(1)
    ours.leases.finish(ours.claim(), Outcome(State.COMPLETE, (0.5,)))
    again, once = storage.get_all_trials(ours.study_id)
    assert again.system_attrs["automl:attempts"] == 2
    assert "automl:attempts" not in once.system_attrs
    assert once.duration is not None and 0 <= once.duration.total_seconds() < 60


def test_further_metrics_and_facts_are_user_attributes(storage: OptunaStorage, ours: OurSide) -> None:
    ours.suggest()
    outcome = Outcome(
        State.COMPLETE, (0.5,), {"ms": 12.5, "loss": math.nan, "rows": 1.0}, facts={"rows": 7, "tag": "a"}
    )
    ours.leases.finish(ours.claim(), outcome)
    for trial in (*storage.get_all_trials(ours.study_id), *storage.snapshot(ours.study_id), storage.get_trial(1)):
        assert math.isnan(trial.user_attrs["loss"])
        assert trial.user_attrs == {"ms": 12.5, "loss": trial.user_attrs["loss"], "rows": 7, "tag": "a"}


def test_an_optuna_sampler_of_constraints_works_on_trials_of_ours(storage: OptunaStorage, ours: OurSide) -> None:
    for number in range(3):
        ours.suggest(number)
        ours.leases.finish(ours.claim(), Outcome(State.COMPLETE, (float(number),), constraints={"ms": 1.0 - number}))
    study = optuna.load_study(study_name="ours", storage=storage)
    assert study.best_trial.number == 1, "trial 0 is better and violates the constraint"
    study.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
    assert 0 <= study.ask().suggest_float("x", 0, 1) <= 1


def test_an_optuna_program_that_pops_a_suggestion_evaluates_the_same_point(
    storage: OptunaStorage, ours: OurSide
) -> None:
    ours.suggest()
    study = optuna.load_study(study_name="ours", storage=storage)
    trial = study.ask()
    assert trial.number == 0
    assert (trial.suggest_float("x", 0, 1), trial.suggest_categorical("y", ["a", "b"])) == (0.25, "a")
    study.tell(trial, 1.5)
    (record,) = ours.trials.of(ours.study_id)
    assert (record.state, record.values, record.attempt) == (State.COMPLETE, (1.5,), 1)
    assert record.params == {"x": 0.25, "y": "a"}
    assert [move["cause"] for move in ours.trials.history(record.id)] == ["suggested", "claimed", "complete"]


def test_a_trial_that_optuna_popped_is_never_reaped(storage: OptunaStorage, ours: OurSide) -> None:
    ours.suggest()
    popped = optuna.load_study(study_name="ours", storage=storage).ask()
    ours.leases.reap(0.0)
    assert storage.get_trial(popped._trial_id).state is TrialState.RUNNING
    assert ours.trials.of(ours.study_id)[0].state is State.RUNNING


def test_a_trial_that_a_worker_leases_takes_attributes_from_optuna_and_nothing_else(
    storage: OptunaStorage, ours: OurSide
) -> None:
    ours.suggest()
    token = ours.claim()
    trial_id = storage.get_all_trials(ours.study_id)[0]._trial_id
    refused: list[Callable[[], object]] = [
        lambda: storage.set_trial_param(trial_id, "x", 0.5, X),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.0]),
        lambda: storage.set_trial_state_values(trial_id, TrialState.WAITING),
    ]
    for write in refused:
        with pytest.raises(StorageError, match="leased to worker 'worker'"):
            write()
    assert storage.set_trial_state_values(trial_id, TrialState.RUNNING) is False
    storage.set_trial_user_attr(trial_id, "seen", True)
    ours.leases.finish(token, Outcome(State.COMPLETE, (0.5,)))
    (finished,) = storage.get_all_trials(ours.study_id)
    assert (finished.params, finished.values) == ({"x": 0.25, "y": "a"}, [0.5])
    assert finished.user_attrs == {"seen": True}


def test_a_waiting_suggestion_takes_no_parameters_from_optuna(storage: OptunaStorage, ours: OurSide) -> None:
    ours.suggest()
    trial_id = storage.get_all_trials(ours.study_id)[0]._trial_id
    with pytest.raises(StorageError, match="trial 0 is waiting with a suggestion"):
        storage.set_trial_param(trial_id, "x", 0.5, X)
    with pytest.raises(StorageError, match="set it to RUNNING"):
        plain = storage.create_new_trial(ours.study_id, create_trial(state=TrialState.WAITING))
        storage.set_trial_state_values(plain, TrialState.COMPLETE, [0.0])


def test_our_states_have_names_in_optuna(storage: OptunaStorage, ours: OurSide) -> None:
    for number in range(2):
        ours.suggest(number)
    token = ours.claim()
    storage.get_all_trials(ours.study_id)
    ours.leases.report(token, [Report(1, math.nan), Report(2, 0.5, {"extra": 1.0}), Report(3, None, {"extra": 2.0})])
    running, waiting = storage.get_all_trials(ours.study_id)
    assert (running.state, waiting.state) == (TrialState.RUNNING, TrialState.WAITING)
    assert math.isnan(running.intermediate_values.pop(1)) and running.intermediate_values == {2: 0.5}
    ours.studies.cancel_waiting(ours.study_id)
    cancelled = storage.get_all_trials(ours.study_id)[1]
    assert cancelled.state is TrialState.FAIL
    assert cancelled.datetime_start == cancelled.datetime_complete is not None


def test_an_optuna_program_may_go_beyond_the_budget(url: str, storage: OptunaStorage) -> None:
    ours = OurSide(url, trials=1)
    ours.suggest()
    numbers = [storage.get_trial(storage.create_new_trial(ours.study_id)).number for _ in range(2)]
    assert numbers == [1, 2]
    assert storage.get_n_trials(ours.study_id) == 3


# -- the queue ----------------------------------------------------------------------------------------------------


def pop_all(url: str, waiting: int, answer: Path) -> None:
    """A process of its own: takes what it can get from the queue."""
    study = optuna.load_study(study_name="queue", storage=OptunaStorage(url))
    numbers = []
    while (trial := study.ask()).number < waiting:
        numbers.append(f"{trial.number} {trial.suggest_float('x', 0, 100)}")
    answer.write_text("\n".join(numbers))


def test_each_waiting_trial_is_popped_by_exactly_one_of_four_processes(url: str, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="queue", storage=OptunaStorage(url))
    for index in range(40):
        study.enqueue_trial({"x": index})
    answers = [tmp_path / f"answer{index}" for index in range(4)]
    run_processes(pop_all, [(url, 40, answer) for answer in answers])
    popped = [line for answer in answers for line in answer.read_text().split("\n") if line]
    assert sorted(popped) == sorted(f"{index} {index}" for index in range(40))


# -- the view of it -----------------------------------------------------------------------------------------------


def test_two_storages_agree_with_a_fresh_one_whatever_is_written_through_either(url: str) -> None:
    pair = [OptunaStorage(url), OptunaStorage(url)]
    study_id = pair[0].create_new_study([StudyDirection.MINIMIZE])
    for seed in range(6):
        generator = random.Random(seed)
        open_trials: list[int] = []
        for _ in range(25):
            step(generator, generator.choice(pair), study_id, open_trials)
            reader = generator.choice(pair)
            assert_same(reader, OptunaStorage.over(reader._database), study_id)


def step(generator: random.Random, storage: OptunaStorage, study_id: int, open_trials: list[int]) -> None:
    action = generator.choice(["ask", "enqueue", "add", "param", "report", "attr", "pop", "end", "end"])
    if action == "ask":
        open_trials.append(storage.create_new_trial(study_id))
    elif action == "enqueue":
        waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": 0.5}})
        open_trials.append(storage.create_new_trial(study_id, waiting))
    elif action == "add":
        finished = create_trial(value=generator.random(), params={"x": 0.5}, distributions={"x": X})
        storage.create_new_trial(study_id, finished)
    elif open_trials:
        index = generator.randrange(len(open_trials))
        trial_id = open_trials[index]
        if action == "param":
            storage.set_trial_param(trial_id, generator.choice("xyz"), generator.random(), X)
        elif action == "report":
            storage.set_trial_intermediate_value(trial_id, generator.randrange(5), generator.random())
        elif action == "attr":
            storage.set_trial_user_attr(trial_id, generator.choice("ab"), generator.randrange(9))
        elif action == "pop":
            storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        elif storage.get_trial(trial_id).state is TrialState.RUNNING:
            storage.set_trial_state_values(trial_id, generator.choice([TrialState.COMPLETE, TrialState.FAIL]), None)
            del open_trials[index]


def assert_same(reader: OptunaStorage, truth: OptunaStorage, study_id: int) -> None:
    states = random.Random(len(repr(reader))).choice([None, (TrialState.WAITING,), (TrialState.RUNNING,)])
    assert reader.get_all_trials(study_id, states=states) == truth.get_all_trials(study_id, states=states)
    assert reader.get_all_trials(study_id, deepcopy=False) == truth.get_all_trials(study_id)


def write_trials(url: str, study_id: int, count: int) -> None:
    """A process of its own: trials from beginning to end."""
    storage = OptunaStorage(url)
    for index in range(count):
        trial_id = storage.create_new_trial(study_id)
        storage.set_trial_param(trial_id, "x", index / count, X)
        storage.set_trial_intermediate_value(trial_id, 1, index)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [index])


def test_a_reader_misses_nothing_while_other_processes_write(url: str) -> None:
    storage = OptunaStorage(url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    done = threading.Event()
    seen: dict[int, FrozenTrial] = {}
    problems: list[str] = []

    def read() -> None:
        while not done.is_set():
            trials = storage.get_all_trials(study_id, deepcopy=False)
            if [trial.number for trial in trials] != list(range(len(trials))):
                problems.append("a number is missing")
            for trial in trials:
                before = seen.get(trial.number)
                if before is not None and before.state.is_finished() and before != trial:
                    problems.append(f"trial {trial.number} changed after its end")
                seen[trial.number] = trial

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_processes(write_trials, [(url, study_id, 30)] * 3)
    finally:
        done.set()
        reader.join(DEADLINE_S)
    assert not problems
    assert storage.get_all_trials(study_id) == OptunaStorage(url).get_all_trials(study_id)
    assert all(trial.state is TrialState.COMPLETE for trial in storage.get_all_trials(study_id))


def test_what_commits_late_is_not_missed(postgres_url: str) -> None:
    storage = OptunaStorage(postgres_url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    slow, quick = (storage.create_new_trial(study_id) for _ in range(2))
    late = psycopg2.connect(postgres_url)
    try:
        late.cursor().execute("UPDATE trial SET state = 'failed', finished_at = 1 WHERE id = %s", [slow])
        # A later transaction commits first, and a reader looks in between.
        storage.set_trial_state_values(quick, TrialState.COMPLETE, [1.0])
        states = [trial.state for trial in storage.get_all_trials(study_id)]
        assert states == [TrialState.RUNNING, TrialState.COMPLETE]
        late.commit()
    finally:
        late.close()
    assert [trial.state for trial in storage.get_all_trials(study_id)] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_look_at_an_unchanged_study_is_one_statement_that_brings_no_trial(storage: OptunaStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    for _ in range(5):
        storage.create_new_trial(study_id, create_trial(value=1.0))
    first = storage.get_all_trials(study_id, deepcopy=False)
    with counted(storage) as fetched:
        again = storage.get_all_trials(study_id, deepcopy=False)
        assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 5
    assert len(fetched) == 1


@pytest.mark.parametrize("trials", [0, 5, 6, 7])
def test_a_history_is_loaded_piece_by_piece(
    storage: OptunaStorage, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    for index in range(trials):
        storage.create_new_trial(study_id, create_trial(value=index))
    monkeypatch.setattr(feed, "PIECE", 3)
    fresh = OptunaStorage.over(storage._database)
    assert [trial.value for trial in fresh.get_all_trials(study_id)] == list(range(trials))


def test_a_claim_reads_the_queue_and_not_the_table(sqlite_url: str) -> None:
    ours = OurSide(OptunaStorage(sqlite_url)._database.url.render_as_string(hide_password=False))
    with ours.database.connection() as connection:
        text = prepared(ours.database, leases._CLAIM)._text
        plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (0,) * text.count("?"))]
    assert any("ix_trial_waiting" in line for line in plan), plan


def test_whoever_wants_the_queue_only_does_not_load_the_history(storage: OptunaStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    finished = storage.create_new_trial(study_id, create_trial(value=1.0))
    storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    fresh = OptunaStorage.over(storage._database)
    assert [trial.number for trial in fresh.get_all_trials(study_id, states=(TrialState.WAITING,))] == [1]
    assert fresh._feed(study_id)._trials[0] is None
    assert [trial.number for trial in fresh.get_all_trials(study_id)] == [0, 1]
    assert fresh.get_trial(finished) == fresh.get_all_trials(study_id)[0]


class counted:  # noqa: N801
    """The statements that a storage runs meanwhile."""

    def __init__(self, storage: OptunaStorage):
        self._engine = storage._database._engine
        self._statements: list[str] = []

    def _note(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self._statements.append(statement)

    def __enter__(self) -> list[str]:
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        return self._statements

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self._engine, "before_cursor_execute", self._note)


# -- trials that are read where somebody looks ---------------------------------------------------------------------


def test_a_lazy_trial_is_a_frozen_trial_in_every_respect(storage: OptunaStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
    template = create_trial(
        values=[1e300, -math.inf],
        params={"b": 3, "a": 1e20},
        distributions={"b": IntDistribution(0, 5), "a": FloatDistribution(0, 1e30)},
        user_attrs={"big": 1e20, "text": "é\n"},
        intermediate_values={0: 0.1 + 0.2, 7: math.inf},
    )
    template._trial_id = storage.create_new_trial(study_id, template)
    template.number = 0

    def read() -> FrozenTrial:
        return OptunaStorage.over(storage._database).get_all_trials(study_id, deepcopy=False)[0]

    assert isinstance(read(), FrozenTrial)
    assert read() == template and template == read() and read() == read()
    assert repr(read()) == repr(template)
    assert list(read().params) == ["b", "a"]
    assert (read().last_step, read().duration) == (template.last_step, template.duration)
    for made in (copy.copy(read()), copy.deepcopy(read()), pickle.loads(pickle.dumps(read()))):
        assert type(made) is FrozenTrial and made == template
    changed = read()
    changed.params["b"] = 4
    changed.values = [0.0, 0.0]
    assert changed != read() and copy.deepcopy(changed).params["b"] == 4
    with pytest.raises(TypeError):
        hash(read())  # as with Optuna's own
    with pytest.raises(AttributeError, match="nonsense"):
        read().nonsense  # noqa: B018


# -- Optuna programs ----------------------------------------------------------------------------------------------


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -3, 3)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    for epoch in range(3):
        trial.report(x * x + epoch, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x * x + (kind == "b")


def test_optimize_and_the_plots_work(storage: OptunaStorage) -> None:
    study = optuna.create_study(
        storage=storage, sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=5), study_name="tpe"
    )
    study.optimize(objective, n_trials=16, n_jobs=2)
    assert [trial.number for trial in study.trials] == list(range(16))
    assert study.best_value == min(trial.value for trial in study.trials if trial.state is TrialState.COMPLETE)
    assert len(study.trials_dataframe()) == 16
    for plot in (
        optuna.visualization.plot_optimization_history,
        optuna.visualization.plot_parallel_coordinate,
        optuna.visualization.plot_intermediate_values,
        optuna.visualization.plot_slice,
        optuna.visualization.plot_contour,
        optuna.visualization.plot_param_importances,
        optuna.visualization.plot_edf,
        optuna.visualization.plot_timeline,
    ):
        assert plot(study).data
    copied = optuna.create_study(study_name="copy", storage=storage)
    copied.add_trials(study.trials)
    assert [trial.params for trial in copied.trials] == [trial.params for trial in study.trials]


def test_a_storage_works_in_a_forked_child(storage: OptunaStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    storage.create_new_trial(study_id)
    storage.get_all_trials(study_id)
    child = multiprocessing.get_context("fork").Process(target=storage.create_new_trial, args=(study_id,))
    with storage._lock, storage._feeds[study_id]._lock:  # as if other threads were at it
        child.start()
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    assert len(storage.get_all_trials(study_id)) == 2


# -- what is refused ----------------------------------------------------------------------------------------------


def test_a_finished_trial_cannot_be_changed_by_a_late_write(storage: OptunaStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_param(trial_id, "x", 0.5, X)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    before = storage.get_trial(trial_id)
    for write in (
        lambda: storage.set_trial_param(trial_id, "x", 0.6, X),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
        lambda: storage.set_trial_user_attr(trial_id, "a", 1),
        lambda: storage.set_trial_system_attr(trial_id, "a", 1),
        lambda: storage.set_trial_state_values(trial_id, TrialState.RUNNING),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            write()
    assert storage.get_trial(trial_id) == before


def test_an_address_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for bad in ("nonsense", "mysql://host/name", "sqlite:///:memory:"):
        with pytest.raises(InvalidTarget, match="storage"):
            OptunaStorage(bad)
    with pytest.raises(DatabaseUnavailable):
        OptunaStorage("postgresql://nobody@127.0.0.1:1/none")
