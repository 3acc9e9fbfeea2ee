"""The worker protocol over HTTP: what the engine's own conformance says, and what only a network can do to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from automl.client.files import RemoteArtifacts
from automl.client.transport import Transport
from automl.client.work import RemotePackages, Work
from automl.core import Artifact, Checkpoint, Failure, FailureKind, Lease, Load, Report, TrialState, WorkerRecord
from automl.errors import ArtifactCorrupt, DatabaseUnavailable, InvalidInput, LeaseLost, NotFound, StorageError
from automl.service.app import create_app
from automl.storage.tables import study
from automl.team import Package
from automl.trainers import checkpoint as checkpoints
from automl.trainers.package import to_text
from tests.conformance.lab import LEASE_S, Lab, complete, new_token
from tests.service import running


class Far:
    """A laboratory, and a worker that reaches it over HTTP, with a folder of its own."""

    def __init__(self, lab: Lab, url: str, folder: Path):
        self.lab = lab
        self.transport = Transport(url, None)
        self.artifacts = RemoteArtifacts(folder, self.transport)
        self.work = Work(self.transport, self.artifacts)

    def claimed(self) -> Lease:
        self.lab.suggest()
        lease = self.work.claim([self.lab.study.id], "alice", new_token(), LEASE_S)
        assert lease is not None
        return lease


@pytest.fixture
def far(url: str, tmp_path: Path) -> Iterator[Far]:
    lab = Lab(url, tmp_path / "server")
    with running(create_app(lab.engine)) as address:
        opened = Far(lab, address, tmp_path / "worker")
        yield opened
        opened.transport.close()
    lab.close()


def test_a_trial_lives_its_whole_life_over_http(far: Far) -> None:
    lease = far.claimed()
    assert (lease.number, lease.attempt, dict(lease.params)) == (0, 1, {"x": 0.5})
    assert far.work.renew([lease.token, new_token()], LEASE_S) == {lease.token}
    far.work.report(lease.token, [Report(1, 0.25, {"loss": 2.0})])
    assert far.work.should_prune(lease.token) is False
    far.work.finish(lease.token, complete(0.75, metrics={"loss": 1.0}, facts={"note": "ünï"}), [Report(2, 0.5)])
    trial = far.lab.engine.trial(far.lab.study, 0)
    assert (trial.state, trial.values, dict(trial.metrics)) == (TrialState.COMPLETE, (0.75,), {"loss": 1.0})
    assert dict(trial.facts) == {"note": "ünï"}
    assert far.lab.reports() == {1: (0.25, 1), 2: (0.5, 1)}
    assert far.lab.audit() == []


def test_nothing_waits_is_none(far: Far) -> None:
    assert far.work.claim([far.lab.study.id], "alice", new_token(), LEASE_S) is None


def test_a_claim_whose_answer_was_lost_gives_the_same_trial_again(far: Far) -> None:
    far.lab.suggest(2)
    token = new_token()
    first = far.work.claim([far.lab.study.id], "alice", token, LEASE_S)
    assert far.work.claim([far.lab.study.id], "alice", token, LEASE_S) == first


def test_a_finish_is_accepted_once_and_repeated_harmlessly(far: Far) -> None:
    lease = far.claimed()
    far.work.finish(lease.token, complete(0.5))
    before = far.lab.everything()
    far.work.finish(lease.token, complete(0.5))
    with pytest.raises(LeaseLost):
        far.work.finish(lease.token, complete(0.6))
    assert far.lab.everything() == before


def test_a_lease_that_is_over_changes_nothing(far: Far, tmp_path: Path) -> None:
    lease = far.claimed()
    file = _saved(far, lease, step=1)
    stored = replace(lease, token=f"default:{lease.token}")
    far.lab.lose(stored)
    before = far.lab.everything()
    for call in (
        lambda: far.work.report(lease.token, [Report(1, 1.0)]),
        lambda: far.work.describe(lease.token, {}, {}),
        lambda: far.work.should_prune(lease.token),
        lambda: far.work.checkpoint(lease.token, file),
        lambda: far.work.finish(lease.token, complete(1.0)),
        lambda: far.work.fail(lease.token, Failure(FailureKind.ERROR, "no")),
        lambda: far.work.release(lease.token),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert far.work.renew([lease.token], LEASE_S) == frozenset()
    assert far.lab.everything() == before


def test_a_training_that_diverged_may_say_so_in_its_reports(far: Far) -> None:
    lease = far.claimed()
    far.work.report(lease.token, [Report(1, math.inf, {"loss": math.nan})])
    far.work.finish(lease.token, complete(0.5, metrics={"loss": math.nan}), [Report(2, -math.inf)])
    found = far.lab.engine.trial(far.lab.study, 0)
    assert math.isnan(found.metrics["loss"])
    assert far.lab.reports()[2][0] == -math.inf


def test_values_that_are_not_finite_are_refused_and_change_nothing(far: Far) -> None:
    lease = far.claimed()
    before = far.lab.everything()
    for value in (math.nan, math.inf):
        with pytest.raises(InvalidInput, match="values"):
            far.work.finish(lease.token, complete(value))
    with pytest.raises(InvalidInput, match="metric"):
        far.work.finish(lease.token, complete(1.0, 2.0))
    assert far.lab.everything() == before


def test_failing_says_whether_the_trial_waits_again(far: Far) -> None:
    assert far.work.fail(far.claimed().token, Failure(FailureKind.ERROR, "broken", "tb")) is False
    assert far.work.fail(far.claimed().token, Failure(FailureKind.LOST, "killed")) is True


def test_a_define_by_run_trial_tells_what_it_asked_for(far: Far) -> None:
    from tests.conformance.lab import UNIT

    lease = far.claimed()
    far.work.describe(lease.token, {"x": 0.25}, {"x": UNIT})
    assert dict(far.lab.engine.trial(far.lab.study, 0).params) == {"x": 0.25}
    for params, distributions in (({"x": 7.0}, {"x": UNIT}), ({"x": 0.5}, {"x": "{}"}), ({"x": 0.5}, {})):
        with pytest.raises(InvalidInput, match="params"):
            far.work.describe(lease.token, params, distributions)


def test_more_reports_than_one_request_takes_arrive_all(far: Far) -> None:
    lease = far.claimed()
    far.work.finish(lease.token, complete(0.5), [Report(step, float(step)) for step in range(2500)])
    assert len(far.lab.reports()) == 2500


# -- files ----------------------------------------------------------------------------------------------------------


def test_files_are_there_before_the_result_is_accepted(far: Far, tmp_path: Path) -> None:
    lease = far.claimed()
    file = tmp_path / "model.json"
    file.write_text('{"recipe": null}')
    artifact = far.artifacts.put(file)
    far.work.finish(lease.token, complete(0.5, artifacts=(artifact,)))
    assert far.lab.engine.artifacts.verify(artifact).read_text() == '{"recipe": null}'
    assert far.lab.engine.trial(far.lab.study, 0).artifacts == (artifact,)


def test_a_result_whose_file_is_not_there_is_not_accepted(far: Far) -> None:
    lease = far.claimed()
    before = far.lab.everything()
    with pytest.raises(StorageError, match="cannot be sent"):
        far.work.finish(lease.token, complete(0.5, artifacts=(Artifact("model.json", "0" * 64, 3),)))
    assert far.lab.everything() == before


def test_what_another_worker_made_is_fetched_and_what_is_damaged_is_fetched_again(far: Far, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text("{}")
    artifact = far.lab.engine.artifacts.put(file)
    assert far.artifacts.path(artifact).read_text() == "{}"
    far.artifacts.path(artifact).write_text("damaged")
    assert far.artifacts.verify(artifact).read_text() == "{}"
    with far.artifacts.open(artifact) as opened:
        assert opened.read() == b"{}"


def test_what_is_nowhere_is_said_to_be_nowhere(far: Far) -> None:
    missing = Artifact("model.json", "1" * 64, 3)
    assert not far.artifacts.path(missing).exists()
    with pytest.raises(ArtifactCorrupt, match="neither here nor at"):
        far.artifacts.verify(missing)


def test_a_file_that_is_damaged_at_the_service_is_not_handed_out(far: Far, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text("{}")
    artifact = far.lab.engine.artifacts.put(file)
    far.lab.engine.artifacts.path(artifact).write_text("[]")
    with pytest.raises(ArtifactCorrupt):
        far.artifacts.verify(artifact)
    assert not far.artifacts._place(artifact).exists()


def test_in_a_shared_folder_nothing_is_sent(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(url, tmp_path / "shared")
    with running(create_app(lab.engine)) as address:
        far = Far(lab, address, tmp_path / "shared")
        lease = far.claimed()
        asked = []
        request = far.transport.request

        def listening(method: str, path: str, *arguments: object, **options: object) -> object:
            asked.append((method, path))
            return request(method, path, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(far.transport, "request", listening)
        (tmp_path / "model.json").write_text("{}")
        artifact = far.artifacts.put(tmp_path / "model.json")
        far.work.checkpoint(lease.token, _saved(far, lease, step=3))
        far.work.finish(lease.token, complete(0.5, artifacts=(artifact,)))
        assert not [path for method, path in asked if method == "PUT"]
        far.transport.close()
    lab.close()


def test_a_checkpoint_travels_to_the_worker_that_goes_on(far: Far, tmp_path: Path) -> None:
    lease = far.claimed()
    saved = _saved(far, lease, step=4)
    far.work.checkpoint(lease.token, saved)
    assert (far.lab.engine.artifacts.root / saved.path).is_file()
    far.work.release(lease.token)

    other = Far(far.lab, far.transport.url, tmp_path / "other")
    again = other.work.claim([far.lab.study.id], "bob", new_token(), LEASE_S)
    assert again is not None
    assert again.checkpoint == saved
    assert checkpoints.read(other.artifacts.root, saved).state == {"state": {"sum": 4}}
    other.work.finish(again.token, complete(1.0))
    assert not (far.lab.engine.artifacts.root / saved.path).exists()
    other.transport.close()


def test_a_checkpoint_is_not_acknowledged_before_its_file_is_there(far: Far) -> None:
    lease = far.claimed()
    with pytest.raises(StorageError, match="cannot be sent"):
        far.work.checkpoint(lease.token, Checkpoint(1, "checkpoints/1/a1-s1-000000000000.pt", "0" * 64))
    assert far.lab.row().checkpoint_step is None


def test_a_checkpoint_that_is_gone_does_not_keep_the_trial_from_running(far: Far, tmp_path: Path) -> None:
    lease = far.claimed()
    saved = _saved(far, lease, step=4)
    far.work.checkpoint(lease.token, saved)
    far.work.release(lease.token)
    (far.lab.engine.artifacts.root / saved.path).unlink()
    other = Far(far.lab, far.transport.url, tmp_path / "other")
    again = other.work.claim([far.lab.study.id], "bob", new_token(), LEASE_S)
    assert again is not None and again.checkpoint == saved
    other.transport.close()


def test_the_store_and_the_trainers_agree_on_where_checkpoints_lie(far: Far) -> None:
    saved = checkpoints.write(far.artifacts.root, (7, 2), checkpoints.Saved(5, None, {}, {}))
    assert far.artifacts.root / saved.path == far.artifacts.checkpoint(7, 2, 5, saved.sha256)


def test_the_end_of_a_log_travels_with_the_last_word(far: Far) -> None:
    lease = far.claimed()
    path = far.artifacts.root / "logs" / str(lease.study_id) / f"{lease.number}-{lease.attempt}.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first\n" + b"x" * 300_000 + b"\n\0\xff last\n")
    far.work.fail(lease.token, Failure(FailureKind.ERROR, "broken"))
    tail = far.lab.engine.log_tail(far.lab.study, 0, 1)
    assert tail is not None and tail.rstrip().endswith("last") and "first" not in tail


# -- the rest -------------------------------------------------------------------------------------------------------


def test_a_worker_is_seen_and_told_to_drain(far: Far) -> None:
    record = WorkerRecord("w-1", "host", 7, ((), ("0",)), Load(0.5), {"python": "3"}, 30.0, False, 0.0, 0.0, None)
    assert far.work.beat("w-1", Load()) is None
    far.work.enroll(record)
    assert far.work.beat("w-1", Load(0.25)) is False
    far.lab.engine.drain("w-1")
    assert far.work.beat("w-1", Load(0.25)) is True
    (seen,) = far.lab.engine.workers()
    assert (seen.slots, seen.load.cpu) == (((), ("0",)), 0.25)
    far.work.leave("w-1")
    assert far.lab.engine.workers() == []


def test_a_study_that_is_wanted_says_so_and_how_many_trials_wait(far: Far) -> None:
    far.lab.suggest(2)
    suggester = far.work.suggester(far.lab.study)
    assert suggester.step(4, 30.0) == 2
    (wanted,) = far.lab.engine.database.all(sa.select(study.c.wanted_slots))
    assert wanted == (4,)
    suggester.close()


def test_optuna_objects_are_refused_with_the_cure(far: Far) -> None:
    with pytest.raises(InvalidInput, match="works with a database only; name one"):
        far.work.suggester(far.lab.study, object())
    with pytest.raises(InvalidInput, match="works with a database only; name one"):
        far.work.set_pruner(far.lab.study, object())


def test_a_package_comes_back_as_it_went(far: Far) -> None:
    packages = RemotePackages(far.transport)
    text = to_text(Package({"study.py": "x = 'é'\r\n"}, "study.py", {"python": "3.11"}))
    digest = packages.put(text)
    assert packages.get(digest) == text
    assert far.lab.engine.packages.get(digest) == text
    with pytest.raises(NotFound):
        packages.get("0" * 64)


def test_a_service_that_is_away_is_like_a_database_that_is_away(far: Far) -> None:
    away = Work(Transport("http://127.0.0.1:9", None), far.artifacts)
    with pytest.raises(DatabaseUnavailable):
        away.claim([1], "alice", new_token(), LEASE_S)
    with pytest.raises(DatabaseUnavailable):
        away.renew([new_token()], LEASE_S)


def _saved(far: Far, lease: Lease, step: int) -> Checkpoint:
    content = checkpoints.Saved(step, None, {"state": {"sum": step}}, {})
    return checkpoints.write(far.artifacts.root, (lease.trial_id, lease.attempt), content)
