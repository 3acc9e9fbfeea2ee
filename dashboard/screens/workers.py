"""Who works: machines, their slots and GPUs, what runs on them now, when they were last heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from automl.core import StudyRecord, TrialRecord, TrialState, WorkerRecord
from automl.display import format_count
from dashboard import actions, connection, links, live, pieces, theme

Running = Mapping[str, tuple[StudyRecord, TrialRecord]]


def main() -> None:
    drawn = _look()
    workers, running = drawn
    now = connection.engine().clock()
    alive = [worker for worker in workers if _word(worker, now) in ("working", "idle", "draining")]
    slots = sum(len(worker.slots) for worker in alive)
    busy = sum(name in running for worker in alive for name in _slot_names(worker))
    machines = len({worker.host for worker in alive})
    detail = f"{len(alive)} alive on {format_count(machines, 'machine')} · {busy} of {slots} slots busy"
    theme.header("Workers", detail=detail if workers else "")
    if workers or st.session_state.get("workers-all"):
        st.toggle("Show those that ended", key="workers-all")
    if not workers:
        theme.empty_state(
            "Nobody works now", "A worker on any machine that reaches the database takes up what is queued."
        )
        st.code("automl worker --gpus 0,1", language="bash")
    for worker in workers:
        _card(worker, running, now)
    live.follow(_look, drawn)


def _look() -> tuple[list[WorkerRecord], Running]:
    """All that this page is made of."""
    engine = connection.engine()
    workers = engine.workers(all=bool(st.session_state.get("workers-all")))
    running: dict[str, tuple[StudyRecord, TrialRecord]] = {}
    records = engine.studies()
    counts = engine.counts(records)
    for record in records:
        if counts[record.id]["running"]:
            for trial in engine.trials(record, states=[TrialState.RUNNING]):
                if trial.worker is not None:
                    running[trial.worker] = (record, trial)
    return workers, running


def _slot_names(worker: WorkerRecord) -> list[str]:
    """What the trials of each slot give as their worker."""
    return [f"{worker.name}-{slot}" for slot in range(len(worker.slots))]


_CHIPS = {
    "working": ("var(--am-running)", "◆"),
    "idle": ("var(--am-muted)", "○"),
    "draining": ("var(--am-pruned)", "▼"),
    "silent": ("var(--am-failed)", "✕"),
    "ended": ("var(--am-muted)", "–"),
}


def _word(worker: WorkerRecord, now: float, busy: bool = False) -> str:
    if worker.ended_at is not None:
        return "ended"
    if now - worker.seen_at > worker.lease_s:
        return "silent"  # its trials are taken over
    return "draining" if worker.draining else "working" if busy else "idle"


def _card(worker: WorkerRecord, running: Running, now: float) -> None:
    word = _word(worker, now, any(name in running for name in _slot_names(worker)))
    gone = word in ("ended", "silent")
    colour, glyph = _CHIPS[word]
    heard = (
        f"ended {theme.ago(now - worker.ended_at)}" if worker.ended_at else f"heard {theme.ago(now - worker.seen_at)}"
    )
    with st.container(key=f"card-worker-{worker.name}"):
        st.html(
            f'<div class="am-worker{" am-dim" if gone else ""}">'
            f'<div class="am-header"><h3>{theme.escape(worker.host)}</h3>{pieces.chip(word, colour, glyph)}'
            f'<span class="am-muted">{theme.escape(worker.name)} · process {worker.pid} · {heard} · '
            f"up {theme.duration((worker.ended_at or now) - worker.started_at)}</span></div>"
            f"{'' if gone else _load(worker)}{_slots(worker, running, now)}{_environment(worker)}</div>"
        )
        if word in ("working", "idle") and st.button("Drain", key=f"drain-{worker.name}", help="Takes no new trials"):
            actions.drain(worker.name)
        if word == "draining" and st.button("Let it go on", key=f"keep-{worker.name}"):
            actions.keep_working(worker.name)


def _load(worker: WorkerRecord) -> str:
    """Bars for the machine and each of its GPUs."""
    load = worker.load
    meters = [_meter("CPU", load.cpu), _meter("Memory", load.memory)]
    for gpu in load.gpus:
        meters += _gpu_meters(gpu)
    return f'<div class="am-meters">{"".join(meters)}</div>'


def _gpu_meters(gpu: Mapping[str, Any]) -> list[str]:
    used, total = gpu.get("memory_used"), gpu.get("memory_total")
    name = f"GPU {gpu.get('index', '')}"
    share = used / total if used is not None and total else None
    amount = f"{theme.amount(used)} of {theme.amount(total)}" if share is not None else ""
    return [
        _meter(f"{name} load", gpu.get("load"), str(gpu.get("name") or "")),
        _meter(f"{name} memory", share, amount),
    ]


def _meter(label: str, share: float | None, detail: str = "") -> str:
    value = "–" if share is None else f"{100 * share:.0f} %"
    colour = "var(--am-warn)" if (share or 0.0) > 0.92 else "var(--am-accent)"
    below = f'<small class="am-muted">{theme.escape(detail)}</small>' if detail else ""
    return (
        f'<div><div class="am-row"><span class="am-muted">{theme.escape(label)}</span><b>{value}</b></div>'
        f"{pieces.bar(share or 0.0, colour, label)}{below}</div>"
    )


def _slots(worker: WorkerRecord, running: Running, now: float) -> str:
    rows = []
    for slot, (gpus, name) in enumerate(zip(worker.slots, _slot_names(worker), strict=True)):
        devices = f"GPU {theme.escape(', '.join(gpus))}" if gpus else "CPU"
        rows.append([f"{slot}", devices, *_slot_work(running.get(name), now)])
    return pieces.table(["slot", "on", "trial", "step", "value", "for"], rows, numbers=frozenset({3, 4, 5}))


def _slot_work(work: tuple[StudyRecord, TrialRecord] | None, now: float) -> Sequence[str]:
    if work is None:
        return ['<span class="am-muted">idle</span>', "", "", ""]
    record, trial = work
    return [
        pieces.link(f"{record.name} · {trial.number}", links.trial_href(record.name, trial.number)),
        "–" if trial.step is None else str(trial.step),
        theme.number(trial.last_value),
        theme.duration(now - trial.started_at if trial.started_at else None),
    ]


def _environment(worker: WorkerRecord) -> str:
    words = " · ".join(f"{theme.escape(name)} {theme.escape(version)}" for name, version in worker.environment.items())
    return f'<p class="am-fine">{words}</p>' if words else ""


main()
