"""The client is the engine's twin: the same verbs, and the same answers to each of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.board import Board
from automl.client import Client
from automl.core import Failure, FailureKind, Outcome, Report, StudyRecord, TrialState, WorkerRecord
from automl.core import Load as MachineLoad
from automl.declaration import Choice, Confirm, Float, Int, Space
from automl.engine import Engine
from automl.errors import InvalidInput, NotFound, PromotionRefused
from automl.team import Package
from automl.trainers.package import to_text
from tests.conformance.lab import LEASE_S, Lab, Served, complete, new_token, spec

#: What only somebody beside the database has: of the service's own, and what Optuna works with.
BESIDE = {"answers", "duties", "lease", "of_project", "optuna"}
#: What is another class over HTTP, with the same methods.
TWINS = {"artifacts", "batches", "channels", "packages", "schedules", "tokens"}

SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "width": Int(1, 64),
        "act": Choice("relu", None, True, 3, 4.5),
        "slope": Float(0.0, 1.0, when={"act": "relu"}),
    }
)


def public(kind: type) -> dict[str, Any]:
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


def parameters(verb: Any) -> list[tuple[str, Any, Any, Any]]:
    return [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(verb).parameters.values()]


def test_the_client_has_each_verb_of_the_engine_with_the_same_parameters() -> None:
    theirs = public(Client)
    missing = public(Engine).keys() - theirs.keys() - BESIDE
    assert not missing, "give automl.client.Client these verbs, and this test's READS or WRITES a line for each"
    for name, verb in public(Engine).items():
        if name in BESIDE or name in TWINS:
            continue
        assert inspect.isfunction(verb) and parameters(verb) == parameters(theirs[name]), name
        promised = [inspect.signature(each).return_annotation.replace("Remote", "") for each in (verb, theirs[name])]
        assert promised[0] == promised[1], name


@pytest.mark.parametrize("name", sorted(TWINS - {"artifacts"}))
def test_what_the_client_has_several_verbs_for_has_those_of_the_engine(name: str, far: Far) -> None:
    theirs, ours = public(type(getattr(far.client, name))), public(type(getattr(far.engine, name)))
    for verb in theirs.keys() & ours.keys():
        if inspect.isfunction(ours[verb]):
            assert [p[:3] for p in parameters(ours[verb])] == [p[:3] for p in parameters(theirs[verb])], verb
    assert theirs, name


# -- the same answers ------------------------------------------------------------------------------------------------


@dataclass
class Far:
    """A study with trials of all kinds, seen directly and over HTTP."""

    lab: Lab
    client: Client

    @property
    def engine(self) -> Engine:
        return self.lab.direct

    @cached_property
    def record(self) -> StudyRecord:
        return self.engine.study("wide")


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("far")
    lab = Lab(Served(f"sqlite:///{folder}/automl.db"), folder / "artifacts")
    assert isinstance(lab.engine, Client)
    prepare(lab)
    yield Far(lab, lab.engine)
    lab.close()


def prepare(lab: Lab) -> None:
    engine = lab.direct
    record = engine.declare(spec("wide", space=SPACE, metrics={"a": "max"}, seed=3), entrypoint="/s.py:s", queued=True)
    engine.enroll(WORKER)
    suggester = engine.suggester(record)
    for number in range(12):
        suggester.step(1, LEASE_S)
        lease = engine.claim([record.id], "host-7-0", new_token(), LEASE_S)
        assert lease is not None
        engine.report(lease.token, [Report(1, 0.1, {"loss": math.inf}), Report(2, None), Report(3, number / 10)])
        if number == 4:
            engine.fail(lease.token, Failure(FailureKind.OUT_OF_MEMORY, "no memory", "Traceback"))
        elif number == 5:
            engine.finish(lease.token, Outcome(TrialState.PRUNED, (0.3,)))
        elif number != 11:
            metrics = {"nan": math.nan, "loss": -math.inf} if number == 3 else {}
            engine.finish(lease.token, complete(number / 10, metrics=metrics, constraints={"ms": number - 8.0}))
    suggester.close()
    engine.invalidate(record, 2, "odd")
    log = engine.log_path(record.id, 0, 1)
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")
    engine.declare(spec("old"))
    engine.archive("old")
    engine.declare(spec("learner", space=SPACE, metrics={"a": "max"}, transfer=("wide",)))


WORKER = WorkerRecord(
    "host-7", "host", 7, (("0", "1"), ()), MachineLoad(), {"python": "3.11", "torch": "2"}, 30.0, False, 0.0, 0.0, None
)

POINT = {"lr": 0.01, "width": 8, "act": "relu", "slope": 0.5}

#: Each verb that only reads, with calls that together say each of its parameters.
READS: dict[str, list[Callable[[Any, StudyRecord], Any]]] = {
    "audit": [lambda e, r: e.audit(r)],
    "best_trials": [lambda e, r: e.best_trials(r), lambda e, r: e.best_trials(r, 5)],
    "board": [lambda e, r: e.board(r), lambda e, r: e.board(r, e.board(r))],
    "change": [lambda e, r: e.change()],
    "check_gates": [
        lambda e, r: e.check_gates(r, 6, gates={"a": {"min": 0.97}, "z": {"max": 1}}, force=True, reason="so"),
        lambda e, r: e.check_gates(r),
    ],
    "clock": [lambda e, r: round(e.clock() / 100)],
    "confirmation": [lambda e, r: e.confirmation(r)],
    "counts": [lambda e, r: e.counts([r]), lambda e, r: e.counts(e.studies()), lambda e, r: e.counts([])],
    "curves": [lambda e, r: e.curves(r, [0, 5, 77]), lambda e, r: e.curves(r, [])],
    "environment": [lambda e, r: e.environment(e.trial(r, 3))],
    "estimates": [lambda e, r: e.estimates(r)],
    "finished_since": [lambda e, r: e.finished_since(r, 0.0), lambda e, r: e.finished_since(r, 9e9)],
    "forecast": [lambda e, r: e.forecast(r)],
    "importances": [lambda e, r: e.importances(r), lambda e, r: e.importances(r, e.board(r))],
    "invalid_trials": [lambda e, r: e.invalid_trials(r)],
    "is_confirmed": [lambda e, r: e.is_confirmed(r), lambda e, r: e.is_confirmed(r, Confirm(2, 9, 0.9))],
    "log_path": [lambda e, r: e.log_path(r.id, 3, 2)],
    "log_tail": [
        lambda e, r: e.log_tail(r, 0, 1),
        lambda e, r: e.log_tail(r, 0, 1, 4),
        lambda e, r: e.log_tail(r, 0, 2),
        lambda e, r: e.log_tail(r, 1, 1),
    ],
    "model_version": [lambda e, r: refusal(lambda: e.model_version("a/b@champion"))],
    "model_versions": [lambda e, r: refusal(lambda: e.model_versions("a/b"))],
    "models": [lambda e, r: e.models()],
    "moves": [lambda e, r: e.moves(e.trial(r, 4))],
    "overviews": [lambda e, r: e.overviews(), lambda e, r: e.overviews(archived=True)],
    "promotions": [lambda e, r: refusal(lambda: e.promotions("a/b", "x"))],
    "queued_studies": [lambda e, r: e.queued_studies()],
    "reports": [lambda e, r: e.reports(e.trial(r, 3))],
    "sources": [lambda e, r: e.sources(e.study("learner")), lambda e, r: e.sources(r)],
    "space": [lambda e, r: e.space(r), lambda e, r: e.space(r, e.board(r))],
    "studies": [lambda e, r: e.studies()],
    "study": [lambda e, r: e.study("wide")],
    "study_by_id": [lambda e, r: e.study_by_id(r.id), lambda e, r: refusal(lambda: e.study_by_id(999))],
    "surface": [
        lambda e, r: e.surface(r, POINT, "act"),
        lambda e, r: e.surface(r, POINT, ("lr", "width"), size=4, board=e.board(r)),
    ],
    "timeline": [lambda e, r: e.timeline(r), lambda e, r: e.timeline(r, 3)],
    "trial": [lambda e, r: e.trial(r, 3), lambda e, r: refusal(lambda: e.trial(r, 99))],
    "trial_by_id": [lambda e, r: e.trial_by_id(e.trial(r, 3).id), lambda e, r: refusal(lambda: e.trial_by_id(999))],
    "trials": [
        lambda e, r: e.trials(r),
        lambda e, r: e.trials(r, [TrialState.FAILED, TrialState.PRUNED]),
        lambda e, r: e.trials(r, []),
        lambda e, r: e.trials(r, after=3, limit=4),
    ],
    "what_if": [
        lambda e, r: e.what_if(r, [POINT, {**POINT, "act": None}]),
        lambda e, r: e.what_if(r, [POINT], e.board(r)),
    ],
    "workers": [lambda e, r: e.workers(), lambda e, r: e.workers(all=True)],
}

#: The others: conformance says what each does, this module that each of their parameters arrives.
WRITES = {
    *(
        "add_artifacts",
        "archive",
        "beat",
        "checkpoint",
        "claim",
        "clone",
        "confirm",
        "confirm_as_declared",
        "declare",
        "delete",
        "describe",
    ),
    *("drain", "enqueue", "enroll", "extend", "fail", "finish", "invalidate", "leave", "pause", "promote", "purge"),
    *("reap", "release", "renew", "report", "restore", "resume", "rollback", "set_pruner", "should_prune", "stop"),
    *("suggester", "tag", "undelete", "want", "close"),
}


def refusal(ask: Callable[[], Any]) -> str:
    with pytest.raises(NotFound) as caught:
        ask()
    return f"{caught.value.field}: {caught.value}"


def plain(value: Any) -> Any:
    """Anything as something that compares by content; NaN is itself, and 1 is not True."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, plain(value.tolist()))
    if isinstance(value, Board):
        return [(f.name, plain(getattr(value, f.name))) for f in fields(value) if f.name != "cursor"]
    if is_dataclass(value) and not isinstance(value, type):
        return [(f.name, plain(getattr(value, f.name))) for f in fields(value)]
    if isinstance(value, dict):
        return [(plain(key), plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(plain, value)]
    if hasattr(value, "items"):
        return plain(dict(value.items()))
    return repr(value)


def test_no_verb_is_left_out() -> None:
    verbs = {name for name, verb in public(Engine).items() if inspect.isfunction(verb)} - BESIDE
    assert verbs == READS.keys() | WRITES


@pytest.mark.parametrize("name", READS)
def test_a_verb_answers_as_the_engine_does(far: Far, name: str) -> None:
    for call in READS[name]:
        assert plain(call(far.client, far.record)) == plain(call(far.engine, far.record))


# -- each parameter arrives ------------------------------------------------------------------------------------------


def test_a_declaration_arrives_with_all_that_goes_with_it(far: Far) -> None:
    digest = far.client.packages.put(to_text(Package({"s.py": "x = 1"}, "s.py")))
    given = {"entrypoint": "s.py:s", "code_sha256": "ab" * 32, "package_sha256": digest, "queued": True}
    wanted = spec("full", space=SPACE, confirm=Confirm(3, 7, 0.9), gates={"score": {"min": 0.5}})
    made = far.client.declare(wanted, **given)
    kept = far.engine.study("full")
    assert plain(made) == plain(kept)
    assert {name: getattr(kept, name) for name in given} == given
    wider = Space({**SPACE, "width": Int(1, 128)})
    assert far.client.declare(spec("full", space=wider), extend=True).id == kept.id


def test_steering_arrives_with_all_that_goes_with_it(far: Far) -> None:
    far.client.declare(spec("steered"), entrypoint="s.py:s", code_sha256="ab", queued=True)
    copy = far.client.clone("steered", "copy/1".replace("/", " "), trials=7, seed=11)
    assert copy.spec is not None and (copy.spec["seed"], copy.spec["budget"]["trials"]) == (11, 7)
    assert far.client.extend("steered", 33, 44.5).spec == far.engine.study("steered").spec
    budget = far.engine.study("steered").spec["budget"]  # type: ignore[index]
    assert (budget["trials"], budget["minutes"]) == (33, 44.5)
    assert far.client.stop("steered", "enough") is True and far.client.stop("steered") is False
    assert far.engine.study("steered").reason == "enough"
    far.client.archive("steered")
    assert far.engine.study("steered").archived
    far.client.archive("steered", on=False)
    assert not far.engine.study("steered").archived
    far.client.delete("steered")
    assert far.client.undelete("steered").id == far.engine.study("steered").id
    far.client.delete("steered")
    assert far.client.purge(3600.0) == 0 and far.client.purge(0.0) == 1


def test_an_enqueued_trial_may_extend_the_budget(far: Far) -> None:
    record = far.client.declare(spec("one", trials=1))
    assert far.client.enqueue(record, {"x": 0.25}) == 0
    with pytest.raises(InvalidInput, match="budget"):
        far.client.enqueue(record, {"x": 0.5})
    assert far.client.enqueue(record, {"x": 0.75}, extend=True) == 1
    assert far.engine.trial(record, 1).params == {"x": 0.75}


def test_a_promotion_is_refused_with_its_gates_and_a_function_is_not_sent(far: Far) -> None:
    with pytest.raises(PromotionRefused) as refused:
        far.client.promote(far.record, 6, alias="fast", model="m", gates={"a": {"min": 0.97}}, who="ada")
    with pytest.raises(PromotionRefused) as expected:
        far.engine.promote(far.record, 6, alias="fast", model="m", gates={"a": {"min": 0.97}}, who="ada")
    assert str(refused.value) == str(expected.value) and refused.value.gates == expected.value.gates
    assert "m@fast" in str(refused.value)
    with pytest.raises(InvalidInput, match="cannot be sent"):
        far.client.promote(far.record, 6, check=lambda version: True)
    with pytest.raises(TypeError):
        far.client.promote(far.record, 6, aliass="fast")


def test_optuna_works_with_a_database_only(far: Far) -> None:
    with pytest.raises(InvalidInput, match=r"http://127.* is a service, and Optuna works with a database only"):
        Client.optuna.fget(far.client)  # type: ignore[attr-defined]


# -- boards ----------------------------------------------------------------------------------------------------------


def test_a_board_that_did_not_change_is_the_same_object_and_is_not_sent_again(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = far.client.board(far.record)
    answers = []
    request = far.client._transport.request

    def watched(*given: Any, **named: Any) -> Any:
        answers.append(request(*given, **named))
        return answers[-1]

    monkeypatch.setattr(far.client._transport, "request", watched)
    assert far.client.board(far.record, board) is board
    assert (answers[-1].status, answers[-1].data) == (304, b"")
    fresh = far.client.board(far.record)
    assert fresh is not board and answers[-1].status == 200
    far.client._etags.clear()  # as of a service that was started anew, or of another one beside it
    assert far.client.board(far.record, board) is board and answers[-1].status == 200


def test_a_board_shares_what_did_not_change_and_keeps_the_kinds_of_choices(far: Far) -> None:
    board = far.client.board(far.record)
    assert repr(board.params["act"].choices) == "('relu', None, True, 3, 4.5)"
    far.engine.tag("wide", ["new"])
    try:
        newer = far.client.board(far.record, board)
        assert newer is not board and newer.study.tags == ("new",)
        assert newer.params["act"] is board.params["act"] and newer.state is board.state
    finally:
        far.engine.tag("wide", [])


def test_a_board_of_another_study_is_no_help(far: Far) -> None:
    other = far.client.board(far.engine.study("old"))
    assert len(far.client.board(far.record, other)) == 12 or len(far.client.board(far.record, other)) == 13


def test_logs_are_on_this_machine_too(far: Far, tmp_path: Path) -> None:
    client = Client(str(far.client), None, tmp_path)
    assert client.log_path(far.record.id, 0, 1).is_relative_to(tmp_path)
    assert client.log_tail(far.record, 0, 1) == "one\ntwo\n"
    path = client.log_path(far.record.id, 0, 1)
    path.parent.mkdir(parents=True)
    path.write_text("here\n")
    assert client.log_tail(far.record, 0, 1) == "here\n"
    client.close()
