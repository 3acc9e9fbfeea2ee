"""Studies and trials as text for people and as JSON for programs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from automl.core import Estimate, Failure, Gate, Model, Promotion, StudyRecord, TrialRecord, TrialState
from automl.cron import Cron
from automl.declaration import StudySpec, in_declared_order
from automl.display import format_duration, format_forecast, format_params, format_size, format_value, format_violated
from automl.display.progress import clean
from automl.engine import Engine
from automl.team import Firing, FiringState, Schedule, Token

_ROWS = 10


def plain(data: Any) -> Any:
    """`data` as JSON can say it: NaN and infinities become null, tuples lists."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(item) for item in data]
    return data


def study_json(
    record: StudyRecord, counts: Mapping[str, int], best: TrialRecord | None, *, with_params: bool = True
) -> dict[str, Any]:
    """The pinned object: name, state, metrics, budget, trials (counts), best."""
    spec = record.spec or {}
    found: dict[str, Any] | None = None
    if best is not None:
        found = {"number": best.number, "value": best.value, "values": list(best.values or ())}
        if best.constraints:
            found["violated"] = list(best.violated)
        if with_params:
            found["params"] = _ordered(record, best.params)
    metrics = spec.get("metrics") or {
        name: "max" if direction == "maximize" else "min"
        for name, direction in zip(record.metric_names, record.directions, strict=True)
    }
    return {
        "name": record.name,
        "state": record.state.value,
        "reason": record.reason,
        "paused": record.paused,
        "archived": record.archived,
        "tags": list(record.tags),
        "metrics": metrics,
        "budget": spec.get("budget") or {"trials": None, "minutes": None},
        "trials": dict(counts),
        "best": found,
    }


def trial_json(engine: Engine, record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """Everything that is known of a trial."""
    return {
        "number": trial.number,
        "state": trial.state.value,
        "invalid": trial.invalid,
        "params": _ordered(record, trial.params),
        "values": list(trial.values) if trial.values is not None else None,
        "metrics": trial.metrics,
        "facts": trial.facts,
        "constraints": trial.constraints,
        "attempt": trial.attempt,
        "worker": trial.worker,
        "failure": _failure_json(trial.failure),
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "reports": [{"step": r.step, "value": r.value, **r.metrics} for r in engine.reports(trial)],
        "artifacts": [
            {"name": a.name, "sha256": a.sha256, "size": a.size, "path": str(engine.artifacts.path(a))}
            for a in trial.artifacts
        ],
        "history": engine.moves(trial),
    }


def why_json(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """Why a trial was suggested, and what came of it; `why` is null when its sampler left no reason."""
    return {
        "number": trial.number,
        "state": trial.state.value,
        "values": list(trial.values) if trial.values is not None else None,
        "why": trial.why or None,
    }


def study_table(
    records: Sequence[StudyRecord],
    counts: Mapping[int, Mapping[str, int]],
    bests: Mapping[int, TrialRecord | None],
) -> None:
    """A line for each study."""
    if not records:
        print("no studies yet; `automl run FILE` starts one")
        return
    rows = [("STUDY", "STATE", "DONE", "RUNNING", "FAILED", "BEST")]
    for record in records:
        count, best = counts[record.id], bests[record.id]
        budget = (record.spec or {}).get("budget", {}).get("trials")
        done = str(_done(count)) + (f"/{budget}" if budget else "")
        value = f"{record.metric_names[0]} {format_value(best.value)}" if best is not None else "-"
        rows.append((clean(record.name), _state(record), done, str(count["running"]), str(count["failed"]), value))
    _print_columns(rows)


def print_study(engine: Engine, record: StudyRecord, counts: Mapping[str, int]) -> None:
    """The state of a study and its best trials."""
    spec = StudySpec.from_json(record.spec) if record.spec is not None else None
    budget = f" of {spec.budget.trials}" if spec is not None and spec.budget.trials else ""
    print(f"study {clean(record.name)}: {_state(record)}" + (f" ({clean(record.reason)})" if record.reason else ""))
    states = ", ".join(f"{counts[s.value]} {s.value}" for s in TrialState if counts[s.value])
    print(f"trials: {_done(counts)}{budget} done" + (f" ({states})" if states else ""))
    print(
        f"searched for {format_duration(record.active_s)}"
        + (f", code {record.entrypoint}" if record.entrypoint else "")
    )
    if spec is not None and spec.space is not None:
        print("space:")
        for name, parameter in spec.space.items():
            print(f"  {clean(name)}: {parameter}")
    forecast = engine.forecast(record)
    if spec is not None and forecast:
        print(f"forecast: {clean(format_forecast(forecast, next(iter(spec.metrics.values()))))}")
    best = engine.best_trials(record, _ROWS)
    if best:
        print("best:")
        rows = [("TRIAL", *(name.upper() for name in record.metric_names), "TIME", "PARAMETERS")]
        for trial in best:
            values = [format_value(value) for value in trial.values or ()]
            words = [format_params(_ordered(record, trial.params)), format_violated(trial.violated)]
            params = "  ".join(filter(None, words))
            rows.append((str(trial.number), *values, format_duration(trial.duration_s), params))
        _print_columns(rows, indent="  ")
    failed = engine.trials(record, states=[TrialState.FAILED])[-3:]
    for trial in failed:
        if trial.failure is not None:
            print(f"trial {trial.number} failed ({trial.failure.kind.value}): {clean(trial.failure.message)}")
    for trial in engine.invalid_trials(record):
        print(f"trial {trial.number} is invalid and counts for nothing: {clean(trial.invalid or '')}")


def print_trial(engine: Engine, record: StudyRecord, trial: TrialRecord) -> None:
    """One trial: parameters, results, attempts, files."""
    print(f"trial {trial.number} of {clean(record.name)}: {trial.state.value}")
    if trial.invalid is not None:
        print(f"  invalid, it counts for nothing: {clean(trial.invalid)}")
    for name, value in zip(record.metric_names, trial.values or (), strict=False):
        print(f"  {clean(name)} = {format_value(value)}")
    for name, value in {**trial.metrics, **trial.facts}.items():
        print(f"  {clean(name)} = {clean(str(value))}")
    for name, value in trial.constraints.items():
        kept = "kept" if name not in trial.violated else "violated"
        print(f"  constraint {clean(name)}: {kept} ({value:.4g}, at most 0 where it is kept)")
    print("parameters:")
    for name, value in _ordered(record, trial.params).items():
        print(f"  {clean(name)} = {clean(repr(value))}")
    print("history:")
    for move in engine.moves(trial):
        moment = datetime.fromtimestamp(move["at"]).astimezone().isoformat(" ", "milliseconds")
        step = f", checkpoint at step {move['checkpoint_step']}" if move["checkpoint_step"] is not None else ""
        by = f" by {move['worker']}" if move["cause"] == "claimed" else ""
        print(f"  {moment}  {move['state']} ({move['cause']}{by}{step})")
    if trial.failure is not None:
        print(f"failure ({trial.failure.kind.value}): {clean(trial.failure.message)}")
        if trial.failure.traceback:
            print(trial.failure.traceback.rstrip())
    if trial.artifacts:
        print("files:")
        for item in trial.artifacts:
            print(f"  {item.name}  {item.size} bytes  {engine.artifacts.path(item)}")


def print_why(record: StudyRecord, trial: TrialRecord) -> None:
    """Why the search suggested a trial, and what came of it."""
    why = trial.why
    if not why:
        sampler = (record.spec or {}).get("sampler")
        whose = f"this study's is {sampler!r}" if sampler else "an Optuna program made this study"
        print(f"trial {trial.number} of {clean(record.name)} has no reason: only sampler 'auto' leaves one, {whose}")
        return
    print(f"why trial {trial.number} of {clean(record.name)}:")
    rows = [(label, text) for label, text in _reasons(record, trial) if text is not None]
    width = max(len(label) for label, _ in rows) + 2
    for label, text in rows:
        print(f"  {label.ljust(width)}{clean(text)}")


def _reasons(record: StudyRecord, trial: TrialRecord) -> Iterator[tuple[str, str | None]]:
    """A label and a text for each reason; None for one that the sampler has not left."""
    why = trial.why

    def number(key: str) -> float | None:
        """What JSON could not say as a number, as infinity, is no reason."""
        value = why.get(key)
        return float(value) if isinstance(value, int | float) else None

    def shown(key: str, form: str = "{:.4g}") -> str | None:
        value = number(key)
        return None if value is None else form.format(value)

    yield "arm", str(why["arm"]) if "arm" in why else None
    yield "model", shown("model_rows", "{:.0f} results")
    metric = clean(record.metric_names[0])
    mean, sd = number("mean"), number("sd")
    if mean is not None and sd is not None:
        yield f"predicted {metric}", f"{format_value(mean)} ± {sd:.2g}"
        if trial.value is not None:
            side = "above" if trial.value > mean else "below"
            off = f", {abs(trial.value - mean) / sd:.1f} sd {side}" if sd > 0 else ""
            yield f"{metric} that came", format_value(trial.value) + off
    yield "best by then", shown("best")
    yield "chance to keep the constraints", shown("feasible", "{:.2f}")
    yield "log of what it was worth", shown("acquisition")
    weights = why.get("sources") or {}
    yield "learnt from", ", ".join(f"{name} {float(weight):.2f}" for name, weight in weights.items()) or None
    forecast = why.get("forecast")
    direction = "max" if record.directions[0] == "maximize" else "min"
    yield "forecast", format_forecast(forecast, direction) if forecast else None
    yield "took", shown("ms", "{:.1f} ms")


# -- models -------------------------------------------------------------------------------------------------------


def promotion_json(promotion: Promotion) -> dict[str, Any]:
    """Everything that the history holds of a move."""
    return asdict(promotion)


def model_json(engine: Engine, name: str) -> dict[str, Any]:
    """A model with its aliases, its versions (newest first) and its history (likewise)."""
    versions = engine.model_versions(name)
    return {
        "name": name,
        "aliases": {alias: version.version for version in versions for alias in version.aliases},
        "versions": [asdict(version) for version in versions],
        "history": [promotion_json(promotion) for promotion in engine.promotions(name)],
    }


def print_estimates(record: StudyRecord, estimates: Mapping[int, Estimate]) -> None:
    """What the search saw of the confirmed trials, and what is to be expected of them."""
    if not estimates:
        print("nothing was confirmed")
        return
    held_out = " on held-out data" if any(estimate.held_out for estimate in estimates.values()) else ""
    print(f"{clean(record.metric_names[0])}, confirmed{held_out}:")
    rows = [("TRIAL", "OBSERVED", "HONEST", "95 % INTERVAL", "P(BEST)", "RUNS")]
    for number, found in sorted(estimates.items(), key=lambda item: -item[1].p_best):
        interval = f"{format_value(found.low)} to {format_value(found.high)}"
        values = (format_value(found.observed), format_value(found.value), interval, f"{found.p_best:.2f}")
        rows.append((str(number), *values, str(found.runs)))
    _print_columns(rows, indent="  ")


def print_gates(gates: Sequence[Gate]) -> None:
    """A line for each gate, with its figure; why one failed is in the error's message and in the history."""
    print("gates:")
    _print_columns([("pass" if g.passed else "FAIL", clean(g.name), clean(g.figure)) for g in gates], indent="  ")


def print_promotion(engine: Engine, promotion: Promotion, *, moved: bool) -> None:
    """What a promotion or a rollback did, and what to type next. `moved`: False when it had been done before."""
    if moved:
        print_gates(promotion.gates)
    name = f"{clean(promotion.model)}@{promotion.alias}"
    version = engine.model_version(f"{promotion.model}@{promotion.to_version}")
    trial = f"version {version.version} (trial {version.number} of {clean(version.study)})"
    if not moved:
        print(f"{name} is {trial} already; nothing was changed")
    else:
        before = f"version {promotion.from_version} -> " if promotion.from_version is not None else ""
        print(f"{name}: {before}{trial}" + (", FORCED" if promotion.forced else ""))
    found = promotion.estimate
    if found is not None:
        interval = f"{format_value(found.low)} to {format_value(found.high)}"
        print(f"expect {format_value(found.value)} ({interval}); the search saw {format_value(found.observed)}")
    model = shlex.quote(promotion.model)
    print(f"next: automl models {model}")
    if moved and promotion.from_version is not None and promotion.kind == "promote":
        alias = "" if promotion.alias == "champion" else f" --alias {promotion.alias}"
        print(f"back: automl rollback {model}{alias}")


def model_table(models: Sequence[Model]) -> None:
    """A line for each model."""
    if not models:
        print("no models yet; `automl promote STUDY` makes one of a study's best trial")
        return
    rows = [("MODEL", "VERSIONS", "ALIASES")]
    for model in models:
        aliases = ", ".join(f"{alias} -> {version}" for alias, version in model.aliases.items())
        rows.append((clean(model.name), str(model.versions), aliases))
    _print_columns(rows)


def token_table(tokens: Sequence[Token]) -> None:
    """A line for each token."""
    if not tokens:
        print("no tokens yet; `automl token create NAME --scopes read` makes one")
        return
    rows: list[tuple[str, ...]] = [("ID", "NAME", "SCOPES", "BY", "CREATED", "EXPIRES", "USED", "REVOKED")]
    for token in tokens:
        times = (token.created_at, token.expires_at, token.used_at, token.revoked_at)
        shown = ["-" if at is None else f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}" for at in times]
        rows.append((token.id, clean(token.name), ",".join(token.scopes), clean(token.created_by), *shown))
    _print_columns(rows)


def schedule_table(schedules: Sequence[Schedule], last: Mapping[int, Firing], moment: float) -> None:
    """A line for each schedule, with when it comes next and what came of the last time."""
    if not schedules:
        print("no schedules yet; `automl schedule add FILE --cron '0 2 * * *'` makes one")
        return
    rows = [("SCHEDULE", "CRON", "NEXT", "LAST", "WHAT CAME OF IT")]
    for item in schedules:
        cron = Cron(item.cron, item.timezone)
        coming = next(cron.ticks(max(moment, item.seen_until)), None)
        shown = "paused" if item.paused else "never" if coming is None else f"{cron.local(coming):%Y-%m-%d %H:%M %Z}"
        fired = last.get(item.id)
        before = "-" if fired is None else f"{cron.local(fired.tick):%Y-%m-%d %H:%M}"
        came = "-" if fired is None else clean(firing_text(fired))
        rows.append((clean(item.name), f"{item.cron} {item.timezone}", shown, before, came))
    _print_columns(rows)


def print_schedule(schedule: Schedule, firings: Sequence[Firing]) -> None:
    """What a schedule does, and what was done about its last times."""
    cron = Cron(schedule.cron, schedule.timezone)
    print(f"schedule {clean(schedule.name)}{' (paused)' if schedule.paused else ''}: {cron.explain()}, {cron.timezone}")
    what = f"it is promoted as {schedule.promote}" if schedule.promote else "it is proposed"
    print(f"missed times: {schedule.catch_up}; while a search runs: {schedule.overlap}; what is better: {what}")
    for fired in firings:
        print(f"  {cron.local(fired.tick):%Y-%m-%d %H:%M}  {clean(fired.study or '-')}: {clean(firing_text(fired))}")
        found = fired.verdict or {}
        if found.get("better") and found.get("promoted") is None:
            model = f" --model {shlex.quote(schedule.name)}"
            print(f"    `automl promote {shlex.quote(fired.study or '')} --trial {found['winner']}{model}` promotes it")


def firing_text(fired: Firing) -> str:
    """What was done about a time, and what came of it, in a line."""
    found = fired.verdict or {}
    if fired.state is not FiringState.STARTED:
        several = (
            f"{found['ticks']}{' or more' if found.get('more') else ''} times " if found.get("ticks", 1) > 1 else ""
        )
        return f"{several}{fired.state.value}: {found.get('reason', 'no reason was given')}"
    if not found:
        return "searching"
    if found.get("promoted") is not None:
        return f"promoted as version {found['promoted']}: {found['reason']}"
    if found.get("refused"):
        return f"better, but refused: {found['refused']}"
    return f"proposed: {found['reason']}" if found.get("better") else str(found.get("reason"))


def print_model(engine: Engine, name: str) -> None:
    """The versions of a model side by side, and its history."""
    versions, history = engine.model_versions(name), engine.promotions(name)
    metrics = list(dict.fromkeys(metric for version in versions for metric in version.metrics))
    print(f"model {clean(name)}:")
    rows = [("VERSION", "ALIASES", "TRIAL", *(clean(metric).upper() for metric in metrics), "SIZE", "PARAMETERS")]
    for version in versions:
        values = [format_value(version.metrics.get(metric)) for metric in metrics]
        size = format_size(sum(item.size for item in version.files))
        trial = f"{clean(version.study)} {version.number}"
        aliases = ", ".join(version.aliases) or "-"
        rows.append((str(version.version), aliases, trial, *values, size, format_params(version.params)))
    _print_columns(rows, indent="  ")
    print("history:")
    for move in history:
        moment = datetime.fromtimestamp(move.at).astimezone().isoformat(" ", "seconds")
        before = f"{move.from_version} -> " if move.from_version is not None else ""
        words = [f"{moment}  {move.alias}: {before}{move.to_version}, {move.kind} by {clean(move.who)}"]
        words += ["FORCED"] if move.forced else []
        words += [clean(move.reason)] if move.reason else []
        print("  " + ", ".join(words))


# -- helpers ------------------------------------------------------------------------------------------------------


def _state(record: StudyRecord) -> str:
    return "paused" if record.paused else record.state.value


def _done(counts: Mapping[str, int]) -> int:
    return counts["complete"] + counts["pruned"] + counts["failed"]


def _ordered(record: StudyRecord, params: Mapping[str, Any]) -> dict[str, Any]:
    if record.spec is None:
        return dict(sorted(params.items()))
    return in_declared_order(StudySpec.from_json(record.spec), params)


def _failure_json(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {"kind": failure.kind.value, "message": failure.message, "traceback": failure.traceback or None}


def _print_columns(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
