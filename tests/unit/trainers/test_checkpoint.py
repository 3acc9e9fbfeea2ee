"""Checkpoints, and going on from them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from automl.core import Checkpoint
from automl.errors import ArtifactCorrupt, InvalidInput
from automl.trainers import wire
from automl.trainers.checkpoint import Saved, Saver, discard, read, rng_state, set_rng_state, write
from automl.trainers.context import Ledger, Trial
from automl.trainers.failures import Interrupted
from automl.trainers.suggestions import Suggestions
from tests.unit.trainers.trial_processes import FakeLink

STEPS = 6


def train(trial: Trial, seen: list[int], stop_after: int | None = None) -> float:
    """A loop with all that a checkpoint must hold: dropout, momentum, a schedule, data drawn as it goes."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=STEPS)
    progress = {"best": 9.0, "history": []}
    for step in trial.steps(STEPS, model=model, optimizer=optimizer, schedule=schedule, progress=progress):
        seen.append(step)
        x = torch.from_numpy(np.random.rand(16, 4).astype("float32")) + random.random()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress["best"] = min(progress["best"], loss.item())
        progress["history"].append(loss.item())
        trial.report(loss.item())
        if step == stop_after:
            trial._link.stop = "preempt"
    return sum(progress["history"]) + progress["best"]


def seeded() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def trial_of(job: wire.Job, link: FakeLink, clock: Callable[[], float] = lambda: 0.0) -> Trial:
    return Trial(job, link, Suggestions(job, declared=True), Ledger(), clock)


def interrupted(job: wire.Job, after: int) -> Checkpoint:
    link = FakeLink()
    seeded()
    with pytest.raises(Interrupted):
        train(trial_of(job, link), [], after)
    (message,) = link.of(wire.Checkpointed)
    return message.checkpoint


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(job: wire.Job, after: int) -> None:
    seeded()
    straight = train(trial_of(job, FakeLink()), [])
    checkpoint = interrupted(job, after)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # another process knows nothing of these
    seen: list[int] = []
    resumed = train(trial_of(replace(job, attempt=2, checkpoint=checkpoint), FakeLink()), seen)
    assert seen == list(range(after + 1, STEPS + 1))
    assert resumed == pytest.approx(straight, abs=1e-6)


def test_the_last_step_is_never_inside_a_checkpoint(job: wire.Job) -> None:
    hours = [hour for hour in range(0, 36000, 3600) for _ in range(3)]  # is it due? began, ended
    readings, link = iter(hours[2:]), FakeLink()
    for step in trial_of(job, link, lambda: next(readings)).steps(STEPS, model=torch.nn.Linear(1, 1)):
        link.stop = "preempt" if step == STEPS else None
    assert [message.checkpoint.step for message in link.of(wire.Checkpointed)] == list(range(1, STEPS))


def test_checkpoints_are_ten_seconds_apart_or_twenty_times_what_they_cost(job: wire.Job) -> None:
    now = 0.0
    saver = Saver(Path(job.artifacts), (1, 1), {}, lambda: now)
    assert not saver.is_due()
    now = 10.0
    assert saver.is_due()
    readings = iter([10.0, 12.0])
    saver._clock = lambda: next(readings)
    saver.save(1, None)
    saver._clock = lambda: now
    now = 51.9
    assert not saver.is_due()
    now = 52.0
    assert saver.is_due()


def test_a_checkpoint_that_was_changed_or_is_gone_means_from_scratch(
    job: wire.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted(job, 3)
    path = Path(job.artifacts) / checkpoint.path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    for problem in ("recorded was", "cannot be read"):
        seen: list[int] = []
        train(trial_of(replace(job, checkpoint=checkpoint), FakeLink()), seen)
        assert seen == list(range(1, STEPS + 1))
        assert f"starting from scratch: {path}" in (out := capsys.readouterr().out) and problem in out
        path.unlink(missing_ok=True)


def test_a_checkpoint_of_other_objects_means_from_scratch(job: wire.Job, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = interrupted(job, 3)
    trial = trial_of(replace(job, checkpoint=checkpoint), FakeLink())
    assert list(trial.steps(STEPS, model=torch.nn.Linear(1, 1))) == list(range(1, STEPS + 1))
    assert "differs in" in capsys.readouterr().out


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path, job: wire.Job) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    checkpoint = write(tmp_path, (1, 1), Saved(1, None, {"a": Evil()}, {}))
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        read(tmp_path, checkpoint)
    assert not (tmp_path / "ran").exists()


def test_the_file_is_named_by_attempt_step_and_content(job: wire.Job) -> None:
    checkpoint = interrupted(job, 3)
    assert checkpoint.path == f"checkpoints/12/a1-s3-{checkpoint.sha256[:12]}.pt"
    assert [path.name for path in (Path(job.artifacts) / "checkpoints/12").iterdir()] == [Path(checkpoint.path).name]


def test_the_last_objective_comes_back(job: wire.Job) -> None:
    checkpoint = interrupted(job, 3)
    saved = read(Path(job.artifacts), checkpoint)
    ledger = Ledger()
    changed = replace(job, checkpoint=checkpoint)
    trial = Trial(changed, FakeLink(), Suggestions(changed, declared=True), ledger)
    next(iter(trial.steps(STEPS, **dict.fromkeys(["model", "optimizer", "schedule"], _Anything()), progress={})))
    assert ledger.last_value == saved.value and saved.value is not None


class _Anything:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_training_goes_on_when_a_checkpoint_cannot_be_written(
    job: wire.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def full(*_: Any) -> None:
        raise error

    hours, link = itertools.count(step=3600.0), FakeLink()
    steps = trial_of(job, link, lambda: next(hours)).steps(3, model=torch.nn.Linear(1, 1))
    monkeypatch.setattr(torch, "save", full)
    assert list(steps) == [1, 2, 3] and link.messages == []
    assert "step 1: no checkpoint" in capsys.readouterr().out
    assert [path for path in Path(job.artifacts).rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("thing", [3, [1], torch.ones(1), object()])
def test_what_cannot_be_restored_is_refused_by_name_before_training(job: wire.Job, thing: Any) -> None:
    with pytest.raises(InvalidInput, match=r"steps\(counter=\.\.\.\): a \w+ cannot be restored; give objects with"):
        next(iter(trial_of(job, FakeLink()).steps(3, counter=thing)))


@pytest.mark.parametrize("state", [{"a": np.float64(1)}, {"a": object()}, {"a": lambda: 1}])
def test_state_that_could_not_be_read_back_is_refused_by_name(job: wire.Job, state: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"steps\(mine=\.\.\.\): its state cannot be restored .*plain numbers"):
        next(iter(trial_of(job, FakeLink()).steps(3, mine=state)))


def test_random_generators_come_back() -> None:
    seeded()
    random.gauss(0, 1), np.random.randn()  # both keep half a pair for the next call
    state = rng_state()

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()]

    expected = draw()
    set_rng_state(state)
    assert draw() == expected


def test_discarding_keeps_what_sorts_after(tmp_path: Path) -> None:
    def saved(attempt: int, step: int) -> Checkpoint:
        return write(tmp_path, (5, attempt), Saved(step, None, {}, {}))

    old, kept, newer, newest = saved(1, 9), saved(2, 3), saved(2, 4), saved(3, 1)
    discard(tmp_path, 5, kept)
    assert [(tmp_path / checkpoint.path).exists() for checkpoint in (old, kept, newer, newest)] == [False] + [True] * 3
    discard(tmp_path, 5)
    assert not (tmp_path / "checkpoints/5").exists()
    discard(tmp_path, 5, kept)
    discard(tmp_path, 5)
