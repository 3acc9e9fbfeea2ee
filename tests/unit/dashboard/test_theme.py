"""Numbers, times and users' text on the pages."""

from __future__ import annotations

import pytest

from automl.core import TrialState
from dashboard import pieces, theme


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "now"),
        (12, "12 s ago"),
        (61, "1 min ago"),
        (7300, "2 h ago"),
        (90_000, "25 h ago"),
        (260_000, "3 days ago"),
    ],
)
def test_a_time_is_told_in_the_unit_that_people_would_use(seconds: float, words: str) -> None:
    assert theme.ago(seconds) == words


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert [theme.number(value) for value in (None, float("nan"), 0.98765)] == ["–", "–", "0.9877"]
    assert theme.duration(None) == theme.amount(None) == "–"
    assert theme.amount(1_500_000) == "1.5 MB"


@pytest.mark.parametrize(
    "text", ["$x$", ":red[hot]", "[a](javascript:alert(1))", "<b>", "**bold**", "`code`", "# title", "1. one", "a|b"]
)
def test_no_letter_of_markdown_keeps_its_meaning(text: str) -> None:
    written = theme.markdown_text(text)
    for sign in set(text) & set("$[]()<*`#|:."):
        assert written.count(f"\\{sign}") == text.count(sign)


@pytest.mark.parametrize("text", [":smile:", ":material/delete:", "https://a.example", "a->b", "a--b", "www.a.example"])
def test_what_streamlit_reads_behind_the_backslashes_is_broken_up(text: str) -> None:
    assert text not in theme.markdown_text(text).replace("\\", "")


def test_html_is_escaped_in_text_and_in_attributes() -> None:
    assert theme.escape("<b a=\"1\" c='2'>&\x1b[31m") == "&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;"
    assert "<script>" not in pieces.chip("<script>") + pieces.tags(["<script>"]) + pieces.link("<script>", '"<script>')


def test_every_state_of_a_trial_has_a_colour_and_a_shape_of_its_own() -> None:
    for palette in (theme.LIGHT, theme.DARK):
        assert len({palette.state(state) for state in TrialState}) == len(TrialState)
    assert len({theme.SYMBOLS[state] for state in TrialState}) == len(TrialState)
    assert len({theme.GLYPHS[state] for state in TrialState}) == len(TrialState)


def test_a_bar_of_states_never_gets_wider_than_its_place() -> None:
    counts = {"complete": 30, "failed": 10, "pruned": 0, "running": 0, "waiting": 5}
    bar = pieces.stacked_bar(counts, 20)  # as after a budget was made smaller
    widths = [float(part.split("%")[0]) for part in bar.split("width:")[1:]]
    assert sum(widths) <= 100
    assert 'aria-label="30 complete, 10 failed"' in bar


def test_a_sparkline_needs_two_values_and_leaves_out_what_is_no_number() -> None:
    assert pieces.sparkline([1.0, float("nan")], "red") == ""
    assert pieces.sparkline([1.0, float("nan"), 1.0], "red").startswith("<img")
