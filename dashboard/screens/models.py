"""The registry: models, their versions side by side, the aliases that name them, and who moved which when and why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from automl.core import Estimate, Model, ModelVersion, Promotion
from automl.display import format_count
from automl.errors import NotFound
from dashboard import actions, connection, links, live, pieces, theme

#: Versions side by side; older ones are in the history.
SHOWN = 6

#: Versions that can be promoted from here; older ones from their trials' pages.
OFFERED = 12


def main() -> None:
    engine = connection.engine()
    models = engine.models()
    wanted = st.query_params.get("model")
    if wanted is None:
        _list(models)
        live.follow(engine.models, models)
        return
    if wanted not in [model.name for model in models]:
        raise NotFound(f"There is no model {wanted}; nothing of this name was promoted here.")
    _model(wanted)
    live.follow(lambda: engine.promotions(wanted), engine.promotions(wanted))


# -- the list -----------------------------------------------------------------------------------------------------


def _list(models: Sequence[Model]) -> None:
    theme.header("Models", detail=f"{len(models)} in the registry" if models else "")
    if not models:
        theme.empty_state(
            "No model yet", "Promoting a study's best trial makes the first one; it goes through the gates before."
        )
        st.code("automl promote digits --alias champion", language="bash")
        return
    for model in models:
        with st.container(key=f"study-card-model-{model.name}"):
            st.button(theme.markdown_text(model.name), key=f"open-{model.name}", on_click=_open, args=(model.name,))
            aliases = "".join(_alias_chip(name, version) for name, version in model.aliases.items())
            count = format_count(model.versions, "version")
            st.html(
                f'<div class="am-model"><h3>{theme.escape(model.name)}</h3><span>{aliases}</span>'
                f'<span class="am-muted">{count} · since {theme.moment(model.created_at)}</span></div>'
            )


def _open(name: str) -> None:
    """Show this model. No link: one that leads from a page to the same page changes nothing in the browser."""
    st.query_params["model"] = name


def _alias_chip(alias: str, version: int | None = None) -> str:
    words = alias if version is None else f"{alias} → {version}"
    return pieces.chip(words, "var(--am-accent)") + " "


# -- one model ----------------------------------------------------------------------------------------------------


def _model(name: str) -> None:
    engine = connection.engine()
    versions = engine.model_versions(name)
    history = engine.promotions(name)
    st.button("← Models", key="models-back", type="tertiary", on_click=st.query_params.clear)
    theme.header(name, detail=format_count(len(versions), "version"))
    _aliases(name, versions, history)
    st.html('<h2 class="am-section">Versions</h2>')
    estimates = _estimates(versions, history)
    st.html(_side_by_side(versions[:SHOWN], estimates))
    _promote_one(name, versions)
    st.html('<h2 class="am-section">History</h2>')
    st.html(_history(history, engine.clock()))
    st.html('<h2 class="am-section">Use it</h2>')
    alias = next((alias for version in versions for alias in version.aliases), str(versions[0].version))
    reference = f"{name}@{alias}"
    st.code(
        f"import automl\n\npredict = automl.load_model({reference!r})\noutputs = predict(inputs)  # NumPy in and out"
    )
    st.code(f"automl predict {reference} --input data.npy --output predictions.npy", language="bash")


def _aliases(name: str, versions: Sequence[ModelVersion], history: Sequence[Promotion]) -> None:
    """A row for each alias, with the way back."""
    for alias, version in sorted((alias, found) for found in versions for alias in found.aliases):
        before = _before(history, alias)
        with st.container(key=f"card-alias-{alias}", horizontal=True, vertical_alignment="center"):
            trial = pieces.link(
                f"trial {version.number} of {version.study}", links.trial_href(version.study, version.number)
            )
            st.html(
                f'<div class="am-alias">{_alias_chip(alias)}<b>version {version.version}</b>'
                f'<span class="am-muted">{trial}</span></div>',
                width="stretch",
            )
            label = "Roll back" if before is None else f"Roll back to {before}"
            if st.button(label, key=f"rollback-{alias}", disabled=before is None):
                actions.rollback(name, alias, version.version, before)


def _before(history: Sequence[Promotion], alias: str) -> int | None:
    """The version that a rollback of `alias` goes to: what the newest promotion that still stands took it from."""
    standing: list[int] = []
    for move in reversed(history):  # the oldest first
        if move.alias != alias:
            continue
        if move.kind == "rollback":
            standing.pop()
        else:
            standing.append(move.to_version)
    return standing[-2] if len(standing) > 1 else None


def _promote_one(name: str, versions: Sequence[ModelVersion]) -> None:
    by_number = {version.version: version for version in versions}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.segmented_control(
            "Let an alias name another version",
            list(by_number)[:OFFERED],
            default=versions[0].version,
            required=True,
            key="models-version",
            format_func=lambda number: f"version {number}",
        )
        if st.button("Promote …", key="models-promote") and chosen is not None:
            version = by_number[chosen]
            record = connection.engine().study(version.study)
            actions.promote(record, version.number, name)


def _estimates(versions: Sequence[ModelVersion], history: Sequence[Promotion]) -> dict[int, Estimate]:
    """What each version is really worth, by its confirmation: the newest, else the one when it was promoted."""
    found = {move.to_version: move.estimate for move in reversed(history) if move.estimate is not None}
    for study in {version.study for version in versions}:
        with contextlib.suppress(NotFound):  # the study was deleted; what the history says stays
            newest = connection.engine().estimates(connection.engine().study(study))
            for version in versions:
                if version.study == study and version.number in newest:
                    found[version.version] = newest[version.number]
    return found


def _side_by_side(versions: Sequence[ModelVersion], estimates: Mapping[int, Estimate]) -> str:
    """A column for each version, the newest first; what differs from the version before stands out."""
    rows: list[list[str]] = []

    def row(label: str, cell: Callable[[ModelVersion], str], *, compare: bool = False) -> None:
        cells = [cell(version) for version in versions]
        if compare and len(set(cells)) > 1:
            cells = [f'<b class="am-differs">{text}</b>' for text in cells]
        rows.append([f'<span class="am-muted">{theme.escape(label)}</span>', *cells])

    def heading(text: str) -> None:
        rows.append([f'<span class="am-group">{theme.escape(text)}</span>', *[""] * len(versions)])

    row("aliases", lambda v: "".join(map(_alias_chip, v.aliases)) or "–")
    row("trial", lambda v: pieces.link(f"{v.study} · {v.number}", links.trial_href(v.study, v.number)))
    row("made", lambda v: theme.moment(v.created_at))
    metrics = list(dict.fromkeys(name for version in versions for name in version.metrics))
    first = next(iter(versions[0].metrics), "value")
    heading("Results")
    row(f"{first}, as the search saw it", lambda v: theme.number(next(iter(v.metrics.values()), None)))
    row("to be expected", lambda v: _expected(v, estimates))
    if estimates:
        row("○ seen, ● expected", lambda v: _interval(v, estimates))
        row("truly the best", lambda v: f"{100 * e.p_best:.0f} %" if (e := estimates.get(v.version)) else "–")
    for name in metrics:
        if name != first:
            row(name, lambda v, name=name: theme.number(v.metrics.get(name)))  # type: ignore[misc]
    heading("Parameters")
    for name in dict.fromkeys(name for version in versions for name in version.params):
        row(name, lambda v, name=name: theme.escape(theme.value_text(v.params.get(name))), compare=True)  # type: ignore[misc]
    heading("Origin")
    row("code", lambda v: _digest(v.code_sha256), compare=True)
    row("data", lambda v: _digest(v.data_sha256), compare=True)
    for name in dict.fromkeys(file.name for version in versions for file in version.files):
        row(name, lambda v, name=name: _file(v, name))  # type: ignore[misc]
    row("environment", _environment)
    return f'<div class="am-versions">{pieces.table(["", *(f"version {v.version}" for v in versions)], rows)}</div>'


def _expected(version: ModelVersion, estimates: Mapping[int, Estimate]) -> str:
    estimate = estimates.get(version.version)
    if estimate is None:
        return '<span class="am-muted">not confirmed</span>'
    where = "held-out data" if estimate.held_out else "fresh seeds"
    return f'{actions.estimate_text(estimate)}<br><small class="am-muted">{estimate.runs} runs on {where}</small>'


def _interval(version: ModelVersion, estimates: Mapping[int, Estimate]) -> str:
    """The interval as a bar, on one scale for all versions; the ring is the lucky value."""
    estimate = estimates.get(version.version)
    if estimate is None:
        return ""
    numbers = [value for each in estimates.values() for value in (each.low, each.high, each.observed)]
    low, spread = min(numbers), (max(numbers) - min(numbers)) or 1.0

    def at(value: float) -> float:
        return 6 + 128 * (value - low) / spread

    accent, warn = theme.palette().accent, theme.palette().warn
    drawn = (
        f'<line x1="{at(estimate.low):.1f}" x2="{at(estimate.high):.1f}" y1="8" y2="8" stroke="{accent}" '
        'stroke-width="4" stroke-linecap="round" opacity="0.35"/>'
        f'<circle cx="{at(estimate.value):.1f}" cy="8" r="4" fill="{accent}"/>'
        f'<circle cx="{at(estimate.observed):.1f}" cy="8" r="4" fill="none" stroke="{warn}" stroke-width="2"/>'
    )
    words = f"expected {theme.number(estimate.value)}, seen {theme.number(estimate.observed)}"
    return pieces.picture(drawn, 140, 16, words)


def _digest(sha256: str | None) -> str:
    return "–" if not sha256 else f'<code title="{theme.escape(sha256)}">{theme.escape(sha256[:10])}</code>'


def _environment(version: ModelVersion) -> str:
    if not version.environment:
        return "–"
    first = f"python {version.environment.get('python', '–')}"
    rest = "<br>".join(f"{theme.escape(name)} {theme.escape(text)}" for name, text in version.environment.items())
    return f"<details><summary>{theme.escape(first)}</summary>{rest}</details>"


def _file(version: ModelVersion, name: str) -> str:
    found = next((file for file in version.files if file.name == name), None)
    return "–" if found is None else f"{_digest(found.sha256)} {theme.amount(found.size)}"


def _history(history: Sequence[Promotion], now: float) -> str:
    rows = []
    for move in history:
        failed = sum(not gate.passed for gate in move.gates)
        word = f"{len(move.gates) - failed} of {len(move.gates)} passed"
        gates = f"<details><summary>{word}</summary>{actions.gate_list(move.gates)}</details>" if move.gates else "–"
        forced = pieces.chip("forced", "var(--am-warn)") if move.forced else ""
        came = "new" if move.from_version is None else str(move.from_version)
        rows.append(
            [
                f'{theme.moment(move.at)}<br><small class="am-muted">{theme.ago(now - move.at)}</small>',
                _alias_chip(move.alias),
                f"{came} → <b>{move.to_version}</b>",
                "rolled back" if move.kind == "rollback" else "promoted",
                theme.escape(move.who),
                f"{theme.escape(move.reason or '–')} {forced}",
                gates,
            ]
        )
    return pieces.table(["when", "alias", "version", "what", "who", "why", "gates"], rows)


main()
