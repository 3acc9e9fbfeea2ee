from __future__ import annotations

import numpy as np
import pytest

from automl.board import Curve
from dashboard.figures.trial import attempt_lines, attempts, curve, parameter_rows
from dashboard.theme import LIGHT
from tests.unit.dashboard.apps import opened, words
from tests.unit.dashboard.conftest import Made
from tests.unit.dashboard.searched import EVIL


def labels(app: object) -> list[str]:
    return [button.label for button in app.button]  # type: ignore[attr-defined]


def test_a_complete_trial_shows_what_it_tried_and_came_to(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = made.engine.trial(made.record, 3)
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="3")
    text = words(page)
    assert "Trial 3" in text
    assert f"{trial.value:.4f}"[:6] in text
    assert "size below 200" in text
    assert "handed back; goes on from step 1" in text  # its first attempt
    assert "model.bin" in text and trial.artifacts[0].sha256[:12] in text
    assert "c0dec0dec0de" in text
    assert len(page.get("plotly_chart")) == 1
    assert {"Run again", "Mark as invalid", "Promote"} <= set(labels(page))


def test_users_text_stays_text(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("3", "5", "9"):
        text = words(opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial=number))
        assert EVIL not in text
        assert "&lt;script&gt;" in text
        assert "<b>dropout</b>" not in text


def test_a_failed_trial_shows_its_message_and_traceback_and_cannot_be_promoted(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="5")
    text = words(page)
    assert "Failed: error" in text and "train.py" in text
    assert "Promote" not in labels(page)


def test_an_invalid_trial_says_why_and_can_be_restored(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="9")
    assert "Counts for nothing: the labels leaked" in words(page)
    assert "Restore" in labels(page)
    assert not {"Mark as invalid", "Promote"} & set(labels(page))


def test_a_waiting_trial_has_parameters_and_no_result(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="24")
    assert "no result" in words(page)
    assert not {"Mark as invalid", "Promote"} & set(labels(page))


def test_the_best_trial_is_marked(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    best = made.engine.board(made.record).best
    assert best is not None
    text = words(opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial=str(best)))
    assert "★" in text and "rank 1 of" in text


def test_the_log_of_an_earlier_attempt_can_be_chosen(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="3")
    assert "attempt 2 of trial 3 begins" in words(page)
    page.selectbox[0].set_value(1).run()
    assert "attempt 1 of trial 3 begins" in words(page)


def test_an_action_asks_first(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(monkeypatch, made.url, made.artifacts, "trial", study="lab", trial="11")
    page.button(key="trial-invalid").click().run()
    assert page.button(key="dialog-do").disabled  # until there is a reason
    assert made.engine.trial(made.record, 11).invalid is None


@pytest.mark.parametrize(
    ("study", "trial", "says"), [("lab", "999", "no trial 999"), ("lab", "x", "no number"), ("none", "1", "none")]
)
def test_what_is_not_there_is_said(
    made: Made, monkeypatch: pytest.MonkeyPatch, study: str, trial: str, says: str
) -> None:
    text = words(opened(monkeypatch, made.url, made.artifacts, "trial", study=study, trial=trial))
    assert "Not here" in text and says in text


# -- its figures -------------------------------------------------------------------------------------------------------


def test_attempts_are_told_from_the_moves() -> None:
    def move(state: str, cause: str, attempt: int, at: float, step: int | None = None) -> dict[str, object]:
        return {
            "state": state,
            "cause": cause,
            "attempt": attempt,
            "worker": f"w-{attempt}",
            "checkpoint_step": step,
            "at": at,
        }

    found = attempts(
        [
            move("waiting", "suggested", 0, 0),
            move("running", "claimed", 1, 10),
            move("waiting", "lost", 1, 30, 4),
            move("running", "claimed", 2, 40, 4),
            move("failed", "out_of_memory", 2, 50, 4),
            move("failed", "invalidated", 2, 60, 4),
        ]
    )
    assert [(a.number, a.started_at, a.ended_at, a.waits) for a in found] == [(1, 10, 30, True), (2, 40, 50, False)]
    assert [a.end for a in found] == ["lost: its worker is gone", "out of memory"]
    html = attempt_lines(found, 100.0)
    assert "left:0.00%;width:50.00%" in html and "left:75.00%;width:25.00%" in html
    assert "goes on from step 4" in html
    running = attempts([move("running", "claimed", 1, 10)])
    assert running[0].ended_at is None and "running" in attempt_lines(running, 20.0)
    assert attempt_lines([], 0.0) == ""


def test_a_parameter_stands_where_it_is_on_its_own_scale(made: Made) -> None:
    board = made.engine.board(made.record)
    trial = made.engine.trial(made.record, 3)
    rows = parameter_rows(board, 3, trial.params)
    place = (np.log10(trial.params["lr"]) + 4.0) / 3.0
    assert f'<i style="left:{100 * place:.1f}%"></i>' in rows[0][2]
    assert "on a log scale" in rows[0][2]
    assert board.best is not None
    assert all(row[3] == "" for row in parameter_rows(board, board.best, trial.params))


def test_the_curve_of_the_best_trial_is_behind(made: Made) -> None:
    board = made.engine.board(made.record)
    mine, best = (Curve(np.arange(1, 4), np.array([0.1, 0.2, top])) for top in (0.3, 0.4))
    drawn = curve(board, 3, mine, best, LIGHT)
    assert [trace["name"] for trace in drawn["data"]] == [f"best, trial {board.best}", "accuracy"]
    assert board.best is not None
    assert len(curve(board, board.best, best, best, LIGHT)["data"]) == 1
