"""Two projects in one database: neither finds, changes or learns anything of the other, whatever the names are."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection

from automl.core import Artifact, Load, ModelVersion, Promotion, StudyState, WorkerRecord
from automl.declaration import Float, Space
from automl.engine import Engine, connect
from automl.errors import InvalidInput, InvalidStudy, NotFound
from automl.storage import OptunaStorage
from automl.storage.distributions import Distributions
from automl.storage.registry import Registry
from automl.storage.studies import Studies
from automl.storage.tables import metadata, study
from tests.conformance.lab import LEASE_S, complete, new_token, spec, suggestion

WORKER = WorkerRecord("host-7", "host", 7, ((),), Load(), {"python": "3.11"}, 30.0, False, 0.0, 0.0, None)


@dataclass
class Two:
    """An engine of each project."""

    ours: Engine
    theirs: Engine

    def everything(self) -> dict[str, Sequence[Any]]:
        """All that the database holds, to show that a call changed nothing."""
        database = self.ours.database
        tables = metadata.sorted_tables
        return {table.name: database.all(sa.select(table).order_by(*table.primary_key)) for table in tables}


@pytest.fixture
def two(url: str, artifacts: Path) -> Iterator[Two]:
    ours = connect(url, artifacts)
    yield Two(ours, ours.of_project("acme"))
    ours.close()


def suggest(engine: Engine, name: str, x: float = 0.5) -> None:
    """A waiting trial."""
    studies = Studies(engine.database, Distributions(engine.database), engine.project)
    record, token = engine.study(name), new_token()
    held = studies.hold(record.id, token, LEASE_S)
    assert held is not None and studies.add_suggestion(record.id, token, held.next_number, suggestion(x))
    studies.let_go(record.id, token)


def done(engine: Engine, name: str, *values: float) -> None:
    """Trials with these results."""
    for value in values:
        suggest(engine, name)
        lease = engine.claim([engine.study(name).id], "host-7-0", new_token(), LEASE_S)
        assert lease is not None
        engine.finish(lease.token, complete(value))


def promoted(engine: Engine, name: str, alias: str = "champion", value: float = 0.5) -> Promotion:
    """A model of this name with one more version, without the checks."""
    record = engine.study(name)
    done(engine, name, value)
    trial = engine.trials(record)[-1]
    files = (Artifact("model.json", f"{trial.id:064x}", 1),)
    fields = (name, 0, name, record.id, trial.id, trial.number, {}, {}, ("maximize",), files, None, None, {}, 0.0)
    moves = engine.promotions(name, alias) if name in {item.name for item in engine.models()} else []
    before = moves[0].to_version if moves else None
    draft = Promotion(name, alias, "promote", before, 0, "ada", None, False, (), None, 0.0)
    return Registry(engine.database, engine.project).move(ModelVersion(*fields), draft, len(moves))


# -- what is theirs is not found --------------------------------------------------------------------------------------

#: Verbs that take a name and answer otherwise than with NotFound when nobody has it: what they do is looked at below.
OTHERS = {"of_project", "beat", "leave"}
#: What a call needs besides the name.
FURTHER: dict[str, dict[str, Any]] = {
    "extend": {"trials": 500},
    "clone": {"new_name": "copy"},
    "tag": {"tags": ["x"]},
    "log_path": {"number": 0, "attempt": 1},
}
NAMES = {"name", "model", "reference", "study_id"}


def verbs() -> list[str]:
    """The public methods of an engine whose first parameter names something."""
    found = []
    for verb, method in inspect.getmembers(Engine, inspect.isfunction):
        parameters = list(inspect.signature(method).parameters)[1:]
        if not verb.startswith("_") and parameters and parameters[0] in NAMES and verb not in OTHERS:
            found.append(verb)
    return found


def test_the_verbs_that_start_from_a_name_are_those_that_we_think_of() -> None:
    assert {"study", "study_by_id", "stop", "pause", "delete", "undelete", "model_versions", "drain"} <= set(verbs())


@pytest.mark.parametrize("verb", [verb for verb in verbs() if verb != "log_path"])
def test_what_another_project_has_is_not_found_by_its_name_or_id_and_not_changed(two: Two, verb: str) -> None:
    record = two.theirs.declare(spec("x"), entrypoint="x.py:study")
    promoted(two.theirs, "x")
    promoted(two.theirs, "x", value=0.75)
    two.theirs.enroll(WORKER)
    two.theirs.declare(spec("gone"))
    two.theirs.delete("gone")
    before = two.everything()
    given: dict[str, Any] = {"study_by_id": record.id, "drain": WORKER.name, "undelete": "gone"}
    with pytest.raises(NotFound):
        getattr(two.ours, verb)(given.get(verb, "x"), **FURTHER.get(verb, {}))
    assert two.everything() == before
    if verb != "rollback":  # which would look at the model's files
        getattr(two.theirs, verb)(given.get(verb, "x"), **FURTHER.get(verb, {}))


def test_the_message_of_what_is_not_found_names_nothing_of_another_project(two: Two) -> None:
    two.theirs.declare(spec("secret"))
    promoted(two.theirs, "secret")
    two.theirs.enroll(WORKER)
    calls: list[Callable[[], object]] = [
        lambda: two.ours.study("nope"),
        lambda: two.ours.model_version("nope"),
        lambda: two.ours.drain("nope"),
        lambda: two.ours.declare(spec("n", transfer=("nope",))),
        lambda: two.ours.undelete("nope"),
    ]
    for call in calls:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert "secret" not in str(caught.value) and "host-7" not in str(caught.value)


def test_listings_hold_what_is_ours_only(two: Two) -> None:
    two.theirs.declare(spec("x"), entrypoint="x.py:study", queued=True)
    promoted(two.theirs, "x")
    two.theirs.enroll(WORKER)
    two.theirs.beat(WORKER.name, Load())
    listings: list[Callable[[Engine], Sequence[object]]] = [
        lambda engine: engine.studies(),
        lambda engine: engine.queued_studies(),
        lambda engine: engine.overviews(archived=True),
        lambda engine: engine.models(),
        lambda engine: engine.workers(all=True),
        lambda engine: engine.optuna.get_all_studies(),
    ]
    assert [len(listing(two.ours)) for listing in listings] == [0] * len(listings)
    assert [len(listing(two.theirs)) for listing in listings] == [1] * len(listings)


def test_no_trial_of_another_projects_study_is_claimed(two: Two) -> None:
    theirs, ours = two.theirs.declare(spec("x")), two.ours.declare(spec("x"))
    suggest(two.theirs, "x")
    assert two.ours.claim([theirs.id], "w", new_token(), LEASE_S) is None
    assert two.ours.claim([theirs.id, ours.id], "w", new_token(), LEASE_S) is None
    suggest(two.ours, "x")
    lease = two.ours.claim([theirs.id, ours.id], "w", new_token(), LEASE_S)
    assert lease is not None and lease.study_id == ours.id
    lease = two.theirs.claim([theirs.id, ours.id], "w", new_token(), LEASE_S)
    assert lease is not None and lease.study_id == theirs.id


def test_nobody_suggests_for_another_projects_study(two: Two) -> None:
    record = two.theirs.declare(spec("x"))
    studies = Studies(two.ours.database, Distributions(two.ours.database))
    assert studies.hold(record.id, new_token(), LEASE_S) is None
    assert two.ours.suggester(record).step(2, LEASE_S) == 0
    assert two.theirs.suggester(record).step(2, LEASE_S) == 2


def test_the_number_of_changes_does_not_tell_what_others_do(two: Two) -> None:
    two.ours.declare(spec("x"))
    change = two.ours.change()
    two.theirs.declare(spec("x"))
    done(two.theirs, "x", 0.5)
    assert two.ours.change() == change
    theirs = two.theirs.change()
    done(two.ours, "x", 0.5)
    assert two.ours.change() > change
    assert two.theirs.change() == theirs


# -- what is learnt ---------------------------------------------------------------------------------------------------


def test_a_study_learns_from_its_own_project_only(two: Two) -> None:
    for engine, name, value in ((two.theirs, "theirs", 0.9), (two.theirs, "past", 0.8), (two.ours, "past", 0.1)):
        engine.declare(spec(name, fidelity=None))
        done(engine, name, value)
    auto = two.ours.declare(spec("auto", transfer="auto", fidelity=None))
    sources = two.ours.sources(auto)
    assert [(item.name, list(item.values)) for item in sources] == [("past", [-0.1])]
    named = two.ours.declare(spec("named", transfer=("past",), fidelity=None))
    assert [list(item.values) for item in two.ours.sources(named)] == [[-0.1]]
    with pytest.raises(InvalidStudy, match="study 'theirs' is not in") as caught:
        two.ours.declare(spec("other", transfer=("theirs",)))
    assert "auto" in str(caught.value) and caught.value.field == "transfer"


def test_nothing_that_was_written_down_makes_it_learn_from_another_project(two: Two) -> None:
    """As if a choice had been written down before a study was given to another project."""
    two.theirs.declare(spec("past", fidelity=None))
    done(two.theirs, "past", 0.5)
    record = two.theirs.declare(spec("auto", transfer="auto", fidelity=None))
    two.theirs.suggester(record).step(1, LEASE_S)
    assert len(two.theirs.sources(record)) == 1
    two.ours.database.execute(sa.update(study).where(study.c.id == record.id).values(project="default"))
    assert two.ours.sources(two.ours.study("auto")) == []


# -- the same names --------------------------------------------------------------------------------------------------


def test_both_have_a_study_of_one_name_and_steer_their_own(two: Two) -> None:
    ours, theirs = two.ours.declare(spec("x")), two.theirs.declare(spec("x", space=Space({"y": Float(0.0, 1.0)})))
    assert ours.id != theirs.id
    assert two.ours.study("x") == ours and two.theirs.study("x") == theirs
    two.ours.tag("x", ["ours"])
    two.ours.archive("x")
    two.ours.pause("x")
    two.ours.extend("x", trials=7)
    assert two.theirs.study("x") == theirs
    two.ours.stop("x")
    two.ours.delete("x")
    assert two.theirs.study("x").state is StudyState.OPEN
    two.theirs.delete("x")
    two.ours.undelete("x")
    assert two.ours.study("x").id == ours.id
    with pytest.raises(NotFound):
        two.theirs.study("x")
    assert two.ours.purge(-1.0) == 0
    assert two.theirs.undelete("x").id == theirs.id


def test_a_clone_stays_in_its_project(two: Two) -> None:
    two.theirs.declare(spec("x"), entrypoint="x.py:study")
    assert two.theirs.clone("x", "copy").name == "copy"
    with pytest.raises(NotFound):
        two.ours.study("copy")
    two.ours.declare(spec("copy"))
    with pytest.raises(InvalidInput, match="there is a study 'copy' already"):
        two.theirs.clone("x", "copy")


def test_a_confirmation_stays_in_its_project(two: Two) -> None:
    for engine in (two.ours, two.theirs):
        engine.declare(spec("x", fidelity=None))
        done(engine, "x", 0.1, 0.5)
    confirmation = two.theirs.confirm(two.theirs.study("x"))
    assert [record.name for record in two.theirs.studies()] == ["x", confirmation.name]
    assert [record.name for record in two.ours.studies()] == ["x"]
    assert two.ours.confirmation(two.ours.study("x")) is None


def test_both_have_a_model_of_one_name_and_move_their_own_aliases(two: Two) -> None:
    for engine in (two.ours, two.theirs):
        engine.declare(spec("x"))
        promoted(engine, "x")
    promoted(two.theirs, "x", value=0.75)
    assert [item.version for item in two.ours.model_versions("x")] == [1]
    assert [item.version for item in two.theirs.model_versions("x")] == [2, 1]
    assert two.ours.model_version("x@champion").version == two.ours.model_version("x@1").version == 1
    assert two.theirs.model_version("x").version == 2
    with pytest.raises(NotFound, match="there are x@champion and versions 1 to 1"):
        two.ours.model_version("x@2")
    assert [item.to_version for item in two.theirs.promotions("x")] == [2, 1]
    assert [item.to_version for item in two.ours.promotions("x", "champion")] == [1]
    assert two.ours.models()[0].versions == 1


def test_both_have_a_worker_of_one_name(two: Two) -> None:
    two.ours.enroll(WORKER)
    assert two.theirs.beat(WORKER.name, Load()) is None
    two.theirs.enroll(WORKER)
    two.theirs.drain(WORKER.name)
    assert two.ours.beat(WORKER.name, Load(0.5)) is False
    assert two.theirs.beat(WORKER.name, Load()) is True
    assert two.ours.workers()[0].load == Load(0.5) and two.theirs.workers()[0].load == Load()
    two.theirs.leave(WORKER.name)
    assert two.theirs.workers() == [] and len(two.ours.workers()) == 1


def test_what_a_worker_runs_in_is_told_by_the_projects_own_worker(two: Two) -> None:
    two.theirs.enroll(WORKER)
    two.ours.declare(spec("x"))
    done(two.ours, "x", 0.5)
    assert two.ours.environment(two.ours.trials(two.ours.study("x"))[0]) == {}


# -- Optuna ----------------------------------------------------------------------------------------------------------


def test_an_optuna_program_sees_its_project_only(two: Two, url: str) -> None:
    theirs = two.theirs.optuna.create_new_study([StudyDirection.MINIMIZE], "x")
    ours = OptunaStorage(url).create_new_study([StudyDirection.MAXIMIZE], "x")
    assert theirs != ours
    with pytest.raises(DuplicatedStudyError):
        two.ours.optuna.create_new_study([StudyDirection.MINIMIZE], "x")
    assert two.ours.study("x").id == ours and two.theirs.study("x").id == theirs
    trial_id = two.theirs.optuna.create_new_trial(theirs)
    for storage in (two.ours.optuna, OptunaStorage(url), pickle.loads(pickle.dumps(two.ours.optuna))):
        assert storage.get_study_id_from_name("x") == ours
        assert [item._study_id for item in storage.get_all_studies()] == [ours]
        for call in (
            lambda storage=storage: storage.get_study_name_from_id(theirs),
            lambda storage=storage: storage.get_study_directions(theirs),
            lambda storage=storage: storage.get_study_system_attrs(theirs),
            lambda storage=storage: storage.set_study_system_attr(theirs, "a", 1),
            lambda storage=storage: storage.create_new_trial(theirs),
            lambda storage=storage: storage.get_all_trials(theirs),
            lambda storage=storage: storage.snapshot(theirs),
            lambda storage=storage: storage.get_best_trial(theirs),
            lambda storage=storage: storage.get_trial_id_from_study_id_trial_number(theirs, 0),
            lambda storage=storage: storage.get_trial(trial_id),
            lambda storage=storage: storage.delete_study(theirs),
        ):
            with pytest.raises(KeyError):
                call()
    assert len(two.theirs.optuna.get_all_trials(theirs)) == 1


def test_a_storage_of_a_project_stays_one_when_it_is_pickled(two: Two, url: str) -> None:
    two.theirs.optuna.create_new_study([StudyDirection.MINIMIZE], "x")
    for storage in (OptunaStorage(url, project="acme"), pickle.loads(pickle.dumps(two.theirs.optuna))):
        assert [item.study_name for item in storage.get_all_studies()] == ["x"]
    assert two.theirs.optuna.get_all_studies()[0].study_name == "x"


# -- opening them ----------------------------------------------------------------------------------------------------


def test_a_project_is_opened_by_its_name(two: Two, url: str, artifacts: Path) -> None:
    two.theirs.declare(spec("x"))
    opened = connect(url, artifacts, project="acme")
    assert opened.project == "acme"
    assert [record.name for record in opened.studies()] == ["x"]
    assert opened.artifacts.root == two.theirs.artifacts.root != two.ours.artifacts.root
    assert opened.of_project("default").studies() == []
    opened.close()


@pytest.mark.parametrize("name", ["", "Acme", "a b", "-a", "a-", "a" * 41, "../x", "a\n"])
def test_a_name_that_cannot_be_a_projects_is_refused(two: Two, url: str, artifacts: Path, name: str) -> None:
    for call in (
        lambda: two.ours.of_project(name),
        lambda: connect(url, artifacts, project=name),
        lambda: OptunaStorage(url, project=name),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.field == "project"
