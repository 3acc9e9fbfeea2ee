"""What if: the model's prediction for a point that nobody has tried, moved about by sliders; and "run this"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from automl.board import Board, Prediction
from automl.declaration import Choice, Parameter, Space
from automl.errors import InvalidInput
from automl.search.cube import at, count, point
from dashboard import actions, connection, links, live, theme
from dashboard.figures import what_if as figures

_STYLE = Path(__file__).parents[1] / "static" / "details.css"
#: Stops of a slider, the value that it began with beside them.
_STOPS = 120
#: Values of each parameter in a surface over two.
_PLANE = 26
#: More choices than this are a list.
_MOST_BUTTONS = 4
_POINT, _MOVED = "what-if-point", "what-if-moved"


def main() -> None:
    name = links.named_study()
    st.html(f"<style>{_STYLE.read_text()}</style>")
    board = connection.board(name)
    theme.header("What if", detail=f"{_study(board)} · what the model expects of points that nobody has tried")
    space = connection.engine().space(board.study, board)
    if space is None:
        theme.empty_state("No parameters yet", "The sliders appear here as soon as the first trial has ended.")
    else:
        _page(board, space)
    live.follow(lambda: connection.board(name), board)


def _study(board: Board) -> str:
    href = theme.escape(links.study_href(board.study.name))
    return f'<a href="{href}">{theme.escape(board.study.name)}</a>'


def _page(board: Board, space: Space) -> None:
    engine = connection.engine()
    start = _start(board, space)
    try:
        engine.what_if(board.study, [], board=board)
    except InvalidInput as error:
        theme.empty_state("Too early to tell", str(error).partition(": ")[2] or str(error))
        return
    left, right = st.columns([2, 3], gap="medium")
    with left, st.container(key="card-what-if-point"):
        params = _controls(board, space, start)
    with right:
        with st.container(key="card-what-if-told"):
            told = engine.what_if(board.study, [params], board=board)[0]
            st.html(_told(board, told))
            if st.button("Run this", key="what-if-run", type="primary", help="As the next trial of the study"):
                actions.enqueue(board.study, params)
        _line(board, space, params)
        _plane(board, space, params)


# -- the point ---------------------------------------------------------------------------------------------------------


def _start(board: Board, space: Space) -> dict[str, Any]:
    """The values of the sliders of this study, of inactive parameters too; at first those of the best trial."""
    kept: dict[str, Any] = st.session_state.setdefault(_POINT, {})
    if kept.get("study") != board.study.id:
        kept.clear()
        kept |= {"study": board.study.id, "values": {}}
    values: dict[str, Any] = kept["values"]
    for stale in [n for n, value in values.items() if n not in space or not space[n].contains(value)]:
        del values[stale]
    if not values:
        values |= _best(board, space)
    for name, parameter in space.items():
        values.setdefault(name, at(parameter, 0.5))
    return values


def _best(board: Board, space: Space) -> dict[str, Any]:
    if board.best is None:
        return {}
    params = connection.engine().trial(board.study, board.best).params
    return {name: value for name, value in params.items() if name in space and space[name].contains(value)}


def _random(space: Space) -> dict[str, Any]:
    rng = np.random.default_rng()
    return {name: at(parameter, float(rng.random())) for name, parameter in space.items()}


def _put(board: Board, space: Space, make: Callable[[], Mapping[str, Any]]) -> None:
    """Move all sliders."""
    values = st.session_state[_POINT]["values"]
    values |= make()
    for name in space:
        st.session_state.pop(_key(board, name), None)


def _key(board: Board, name: str) -> str:
    return f"what-if-{board.study.id}-{name}"


def _controls(board: Board, space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """The sliders of the active parameters; the point that they make."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html("<h3>The point</h3>", width="stretch")
        best, anywhere = (lambda: _best(board, space)), (lambda: _random(space))
        st.button("Best", key="what-if-best", on_click=_put, args=(board, space, best), help="The best trial so far")
        st.button("Random", key="what-if-random", on_click=_put, args=(board, space, anywhere), help="Anywhere")
    params: dict[str, Any] = {}
    for name, parameter in space.items():
        if space.is_active(name, params):
            params[name] = values[name] = _control(board, name, parameter, values[name])
    return params


def _control(board: Board, name: str, parameter: Parameter, value: Any) -> Any:
    key = _key(board, name)
    label = theme.markdown_text(name)
    options = _options(parameter, value)
    if len(options) == 1:
        st.html(f'<span class="am-label">{theme.escape(name)}</span> {theme.escape(theme.value_text(options[0]))}')
        return options[0]
    if st.session_state.get(key) not in options:
        st.session_state[key] = value
    common: dict[str, Any] = {"key": key, "format_func": _word, "on_change": _moved, "args": (name,)}
    if not isinstance(parameter, Choice):
        return st.select_slider(label, options, **common)
    if len(options) <= _MOST_BUTTONS and sum(len(_word(option)) for option in options) < 40:
        return st.segmented_control(label, options, required=True, **common)
    return st.selectbox(label, options, **common)


def _options(parameter: Parameter, value: Any) -> list[Any]:
    """The stops of a slider: on the parameter's own scale, with `value` among them."""
    if isinstance(parameter, Choice):
        return list(parameter.choices)
    n = count(parameter)
    if n is not None and n <= _STOPS:
        return [point(parameter, k) for k in range(n)]
    stops = {at(parameter, u) for u in np.linspace(0.0, 1.0, _STOPS + 1).tolist()}
    return sorted(stops | {value})


def _word(value: Any) -> str:
    return theme.value_text(value)


def _moved(name: str) -> None:
    st.session_state[_MOVED] = name


# -- what the model says -----------------------------------------------------------------------------------------------


def _told(board: Board, told: Prediction) -> str:
    """HTML: the prediction, large, and how it compares."""
    metric = theme.escape(board.study.metric_names[0])
    parts = [f"<div><span>{metric}, expected</span><b>{theme.number(told.mean)}</b><i>± {told.sd:.2g}</i></div>"]
    if board.best is not None:
        best = float(board.values[board.best, 0])
        gain = (told.mean - best) * -float(board.signs[0])
        word, kind = ("better", "am-good") if gain > 0 else ("worse", "am-muted")
        href = theme.escape(links.trial_href(board.study.name, board.best))
        parts.append(
            f'<div class="am-second"><span>than the best, <a href="{href}">trial {board.best}</a></span>'
            f'<b class="{kind}">{abs(gain):.3g} {word}</b></div>'
        )
    if told.feasible is not None:
        parts.append(f'<div class="am-second"><span>feasible</span><b>{_percent(told.feasible)}</b></div>')
    if told.minutes is not None:
        takes = theme.duration(60 * told.minutes)
        parts.append(f'<div class="am-second"><span>takes about</span><b>{takes}</b></div>')
    return f'<div class="am-told" role="status">{"".join(parts)}</div>'


def _percent(share: float) -> str:
    """Never 0 or 100: the model is not that sure."""
    return "< 1 %" if share < 0.01 else "> 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def _line(board: Board, space: Space, params: Mapping[str, Any]) -> None:
    name = st.session_state.get(_MOVED)
    if name not in params:
        shares = connection.engine().importances(board.study, board)
        name = next((other for other in [*shares, *params] if other in params), None)
    if name is None:
        return
    found = connection.engine().surface(board.study, params, name, size=60, board=board)
    drawn = figures.line(board, found, params, theme.palette())
    if drawn is None:
        return
    with st.container(key="card-what-if-line"):
        st.html(f"<h3>Along {theme.escape(name)}</h3>")
        _show(drawn, "what-if-line", f"The predicted mean and its band along {name}, the other parameters as they are")


def _plane(board: Board, space: Space, params: Mapping[str, Any]) -> None:
    names = [name for name in params if len(_options(space[name], params[name])) > 1]
    if len(names) < 2:
        return
    shares = connection.engine().importances(board.study, board)
    first, second = ([n for n in shares if n in names] + [n for n in names if n not in shares])[:2]
    with st.container(key="card-what-if-plane"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html("<h3>Over two parameters</h3>", width="stretch")
            x = _pick("Horizontal", names, first, "what-if-x")
            y = _pick("Vertical", names, second, "what-if-y")
        if x == y:
            st.html("<p>Choose two different ones.</p>")
            return
        found = connection.engine().surface(board.study, params, (x, y), size=_PLANE, board=board)
        drawn = figures.plane(board, found, params, theme.palette())
        if drawn is not None:
            alt = f"The predicted mean over {x} and {y}, with the trials and the point"
            _show(drawn, "what-if-plane", alt)


def _pick(label: str, names: list[str], default: str, key: str) -> str:
    if st.session_state.get(key) not in names:
        st.session_state[key] = default
    chosen: str = st.selectbox(label, names, key=key, label_visibility="collapsed", width=170)
    return chosen


def _show(drawn: dict[str, Any], key: str, alt: str) -> None:
    st.plotly_chart(drawn, key=key, theme=None, config=dict(theme.PLOT_CONFIG), alt=alt)


main()
