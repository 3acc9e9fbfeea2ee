"""Displays: what each shows, how it fits its place, and that users' text is never markup."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from automl.display import (
    FinishedTrial,
    NotebookDisplay,
    PlainDisplay,
    Progress,
    RunningTrial,
    estimate_seconds_left,
    format_count,
    format_duration,
    format_forecast,
    format_size,
    format_value,
    open_display,
    print_result,
)
from automl.display.notebook import to_html
from automl.display.terminal import TerminalDisplay, view

COUNTS = {"total": 12, "waiting": 3, "running": 2, "complete": 5, "pruned": 1, "failed": 1, "cancelled": 0}
PROGRESS = Progress(
    study="digits",
    state="open",
    metric="accuracy",
    direction="max",
    counts=COUNTS,
    elapsed_s=72.0,
    budget_trials=30,
    seconds_left=40.0,
    best_number=3,
    best_value=0.98061,
    best_params={"lr": 0.0123456, "width": 64, "optimizer": "adamw"},
    running=(
        RunningTrial(number=8, step=12, max_step=27, value=0.9512, elapsed_s=8.0),
        RunningTrial(number=9, step=None, max_step=None, value=None, elapsed_s=0.5, attempt=2),
    ),
)
DONE = FinishedTrial(number=7, state="complete", value=0.97222, duration_s=4.2, params={"lr": 0.01})
HOSTILE = "[bold]x[/bold]<script>alert(1)</script>\x1b[31m\x1b]0;title\x07\r\nnext"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rendered(progress: Progress, width: int = 80, height: int = 24) -> str:
    console = Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True)
    console.print(view(progress, height))
    return console.export_text()


def plain(*snapshots: Progress) -> str:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    for snapshot in snapshots:
        display.show(snapshot)
    return stream.getvalue()


def test_a_size_has_three_digits_and_the_unit_that_fits() -> None:
    sizes = (0, 812, 999, 1000, 6_040, 999_499, 999_500, 1_200_000_000, 5 * 10**15)
    shown = ["0 B", "812 B", "999 B", "1 kB", "6.04 kB", "999 kB", "1 MB", "1.2 GB", "5e+03 TB"]
    assert [format_size(size) for size in sizes] == shown


# Plain lines


def test_a_finished_trial_is_one_line() -> None:
    line = plain(replace(PROGRESS, finished=(DONE,)))
    assert line == "trial 7  complete  accuracy 0.9722  best 0.9806 (trial 3)  7/30  left 40 s\n"


def test_trials_that_end_together_are_counted_one_by_one() -> None:
    lines = plain(replace(PROGRESS, finished=(replace(DONE, number=5), replace(DONE, number=6)))).splitlines()
    assert ["6/30" in lines[0], "7/30" in lines[1]] == [True, True]


def test_a_line_ends_with_what_is_expected_of_more_trials_and_says_what_was_violated() -> None:
    forecast = format_forecast({"trials": 20, "gain": 0.2, "sd": 0.1, "p_margin": 0.3}, "max")
    finished = replace(DONE, violated=("ms", "mb\x1b[31m"))
    line = plain(replace(PROGRESS, finished=(finished,), forecast=forecast))
    assert "accuracy 0.9722  violates ms, mb  best" in line
    assert line.endswith("left 40 s  20 more trials: +0.2 ± 0.1\n")


def test_one_is_not_many() -> None:
    shown = [format_count(count, "study", "studies") for count in (0, 1, 2, 2500)]
    assert shown == ["0 studies", "1 study", "2 studies", "2,500 studies"]
    assert [format_count(count, "trial") for count in (1, 3)] == ["1 trial", "3 trials"]
    assert format_forecast({"trials": 1, "gain": 0.2, "sd": 0.1}, "max").startswith("1 more trial: ")


@pytest.mark.parametrize(
    ("gain", "sd", "direction", "text"),
    [
        (0.2, 0.1, "max", "+0.2 ± 0.1"),
        (0.2, 0.1, "min", "-0.2 ± 0.1"),
        (0.0001234, 2e-5, "max", "+0.00012 ± 2e-05"),
        (0, 0, "max", "+0 ± 0"),
        (1234.5, 99.0, "min", "-1.2e+03 ± 99"),
    ],
)
def test_a_forecast_says_where_the_metric_goes(gain: float, sd: float, direction: str, text: str) -> None:
    assert format_forecast({"trials": 5, "gain": gain, "sd": sd}, direction) == f"5 more trials: {text}"


def test_every_view_shows_the_forecast_why_it_is_over_and_that_the_best_violates_constraints() -> None:
    progress = replace(PROGRESS, forecast="20 more trials: +0.2 ± 0.1", best_violated=("ms",), reason="converged: <i>")
    for shown in (rendered(progress), to_html(progress).replace("&lt;", "<").replace("&gt;", ">")):
        assert "20 more trials: +0.2 ± 0.1" in shown
        assert "violates ms" in shown
        assert "searching (converged: <i>)" in shown
    assert "<i>" not in to_html(progress)
    for shown in (rendered(PROGRESS), to_html(PROGRESS)):
        assert "more trials:" not in shown
        assert "violates" not in shown


def test_the_closing_table_marks_trials_that_violate_constraints_and_says_why_it_is_over() -> None:
    stream = io.StringIO()
    over = replace(PROGRESS, state="finished", reason="converged: 20 more trials: +0 ± 0")
    print_result(over, [DONE, replace(DONE, number=8, violated=("ms",))], stream=stream)
    title, reason = stream.getvalue().splitlines()[1:3]
    assert title.startswith("digits  finished")
    assert reason == "converged: 20 more trials: +0 ± 0"
    (first,) = [line for line in stream.getvalue().splitlines() if line.split()[:1] == ["7"]]
    (second,) = [line for line in stream.getvalue().splitlines() if line.split()[:1] == ["8"]]
    assert "violates ms" in second and "violates" not in first


def test_nothing_is_written_while_nothing_ends() -> None:
    assert plain(PROGRESS, PROGRESS) == ""


def test_a_failed_trial_says_why_on_the_same_line() -> None:
    failed = FinishedTrial(7, "failed", None, 1.0, failure="ValueError: bad\r\nsecond\x1b[2J line")
    line = plain(replace(PROGRESS, finished=(failed,), best_number=None))
    assert line == "trial 7  failed  ValueError: bad second line  7/30  left 40 s\n"


def test_without_a_budget_of_trials_the_budget_of_time_counts() -> None:
    timed = replace(PROGRESS, budget_trials=None, seconds_left=None, minutes_left=1.5, finished=(DONE,))
    assert plain(timed).endswith("7 trials  left 1 min 30 s\n")
    assert timed.fraction == pytest.approx(72 / (72 + 90))


def test_the_last_trials_are_written_on_closing() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).close(replace(PROGRESS, finished=(DONE,)))
    assert stream.getvalue().startswith("trial 7  complete")


def test_a_letter_that_the_stream_lacks_does_not_end_the_search() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    display = open_display(stream)
    display.show(replace(PROGRESS, metric="précision", finished=(DONE,)))
    print_result(replace(PROGRESS, study="étude"), [DONE], stream=stream)
    assert b"pr?cision 0.9722" in raw.getvalue()


# The live view


def test_the_view_shows_progress_best_and_running_trials() -> None:
    text = rendered(PROGRESS)
    for part in ("digits", "searching", "1 min 12 s, about 40 s left", "7/30 trials", "5 complete", "accuracy 0.9806"):
        assert part in text
    for part in ("trial 3", "lr=0.01235", "width=64", "trial 8", "12/27", "0.9512", "attempt 2"):
        assert part in text


@pytest.mark.parametrize("width", [60, 80, 140, 200])
@pytest.mark.parametrize("height", [20, 24, 60])
def test_the_view_fits_the_terminal(width: int, height: int) -> None:
    many = tuple(RunningTrial(n, 3, 27, 0.5, 61.0, attempt=2) for n in range(100, 164))
    crowded = replace(
        PROGRESS,
        study="s" * 300,
        metric="m" * 100,
        running=many,
        failures=("ValueError: " + "x" * 500,) * 9,
        best_params={f"p{i}": 0.001 * i for i in range(40)},
    )
    lines = rendered(crowded, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "more running" in "".join(lines)
    assert sum("ValueError" in line for line in lines) == 3


def test_the_view_has_a_start() -> None:
    start = Progress("digits", "open", "accuracy", "max", {}, 0.0, budget_trials=30)
    text = rendered(start)
    assert "none yet" in text
    assert "0/30 trials" in text


def test_names_are_text_and_never_markup_or_escape_codes() -> None:
    hostile = replace(
        PROGRESS, study=HOSTILE, metric=HOSTILE, best_params={HOSTILE: HOSTILE}, failures=(HOSTILE,), state=HOSTILE
    )
    console = Console(file=io.StringIO(), record=True, width=200, force_terminal=True)
    console.print(view(hostile))
    raw = console.file.getvalue()
    assert "[bold]x[/bold]" in console.export_text()
    assert "\x1b]0;title" not in raw
    assert "\r" not in raw
    stream = io.StringIO()
    trial = replace(DONE, params={HOSTILE: HOSTILE})
    print_result(hostile, [trial], files=[HOSTILE], commands=[HOSTILE], stream=stream)
    assert "[bold]x[/bold]" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_terminal_is_redrawn_at_most_eight_times_a_second() -> None:
    stream, clock = Terminal(), Clock()
    display = TerminalDisplay(Console(file=stream, force_terminal=True, width=80, height=24), clock)
    drawn = []
    for millisecond in range(0, 1000, 10):
        clock.now = millisecond / 1000
        before = stream.tell()
        display.show(PROGRESS)
        drawn.append(stream.tell() > before)
    display.close(PROGRESS)
    assert 1 < sum(drawn) <= 8


def test_closing_gives_the_cursor_back() -> None:
    stream = Terminal()
    display = TerminalDisplay(Console(file=stream, force_terminal=True, width=80, height=24))
    display.show(PROGRESS)
    display.close(PROGRESS)
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l")


# The notebook


class Tags(HTMLParser):
    """The tags of a page, and whether each that was opened was closed."""

    def __init__(self, page: str):
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(st.text(), st.text())
def test_html_holds_our_tags_only(name: str, message: str) -> None:
    page = to_html(
        replace(PROGRESS, study=name, state=name, metric=name, best_params={name: message}, failures=(message,))
    )
    tags = Tags(page)
    assert tags.seen <= {"div", "span", "b", "table", "tr", "td"}
    assert tags.open == []


def test_html_shows_what_the_terminal_shows() -> None:
    page = to_html(replace(PROGRESS, study="<digits>", failures=("trial 4: <nan>",)))
    for part in ("&lt;digits&gt;", "0.9806", "lr&nbsp;0.01235", "12/27", "7/30 trials", "trial 4: &lt;nan&gt;"):
        assert part in page
    assert page.count('role="progressbar"') == 2


def test_a_notebook_has_one_output_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    updates: list[str] = []
    handle = SimpleNamespace(update=lambda output: updates.append(output.data))

    def display(output: Any, display_id: bool) -> object:
        shown.append(output.data)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    clock = Clock()
    notebook = NotebookDisplay(clock)
    notebook.show(PROGRESS)
    notebook.show(PROGRESS)  # at once: not worth a redraw
    clock.now = 1.0
    notebook.show(PROGRESS)
    notebook.close(replace(PROGRESS, state="finished"))
    assert [len(shown), len(updates)] == [1, 2]
    assert "finished" in updates[-1]


# Which display


def test_a_pipe_gets_plain_lines_and_a_terminal_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(open_display(io.StringIO()), PlainDisplay)
    live = open_display(Terminal())
    live.close(PROGRESS)
    assert isinstance(live, TerminalDisplay)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_display(Terminal()), PlainDisplay)


def test_a_kernel_gets_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    assert isinstance(open_display(), NotebookDisplay)


def test_importing_the_display_imports_neither_rich_nor_ipython() -> None:
    code = "import sys, automl.display; print([m for m in ('rich', 'IPython') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.98, "0.9800"),
        (0.0, "0.0000"),
        (-0.0123456, "-0.01235"),
        (123.456, "123.5"),
        (12345.6, "12346"),
        (1e-9, "1.000e-09"),
        (2.5e12, "2.500e+12"),
        (7, "7"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_values_have_four_digits(value: float | None, text: str) -> None:
    assert format_value(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_formatted_value_is_the_value(value: float) -> None:
    assert float(format_value(value)) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.84, "0.8 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_read_naturally(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_estimate_is_unknown_before_the_first_trial_ends() -> None:
    assert estimate_seconds_left([], remaining=5, slots=2) is None


def test_the_estimate_shares_the_rest_among_the_slots() -> None:
    assert estimate_seconds_left([10.0, 20.0], remaining=8, slots=2) == 60.0


def test_one_trial_takes_its_time_however_many_slots() -> None:
    assert estimate_seconds_left([10.0], remaining=1, slots=8) == 10.0


def test_nothing_remaining_takes_no_time() -> None:
    assert estimate_seconds_left([], remaining=0, slots=2) == 0.0


def test_the_estimate_follows_recent_trials() -> None:
    assert estimate_seconds_left([1.0] * 500 + [60.0] * 50, remaining=2, slots=1) == 120.0


# The end


def test_the_result_names_the_best_trials_the_files_and_what_to_type_next() -> None:
    stream = io.StringIO()
    top = [replace(DONE, number=n, value=0.99 - n / 100) for n in range(8)]
    path = "/a/very/long/path" * 10 + "/model.onnx"
    print_result(replace(PROGRESS, state="finished"), top, files=[path], commands=["automl show digits"], stream=stream)
    lines = stream.getvalue().splitlines()
    assert "digits  finished   7/30 trials in 1 min 12 s" in lines
    assert [line.split()[:2] for line in lines if "lr=0.01" in line] == [
        [str(n), f"{0.99 - n / 100:.4f}"] for n in range(5)
    ]
    assert f"  {path}" in lines
    assert "  automl show digits" in lines


def test_a_search_without_a_result_says_so() -> None:
    stream = io.StringIO()
    print_result(PROGRESS, [], stream=stream)
    assert "No trial completed" in stream.getvalue()
