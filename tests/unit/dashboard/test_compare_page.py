from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from automl.core import StudyState
from automl.engine import Engine
from dashboard.figures.compare import Group, Run, groups_of, parameter_table, progress, quartiles, run_of
from dashboard.theme import LIGHT
from tests.unit.dashboard.apps import opened, sound, words
from tests.unit.dashboard.searched import EVIL_NAME, searched


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Engine]]:
    """Two runs of one method, another study with a tag, and one that measures something else."""
    folder = tmp_path_factory.mktemp("compare")
    url, artifacts = f"sqlite:///{folder / 'lab.db'}", folder / "artifacts"
    engine, _ = searched(url, artifacts, name=EVIL_NAME, trials=6)
    engine.tag(EVIL_NAME, ["night"])
    for seed in (1, 2):
        searched(url, artifacts, name=f"tpe-{seed}", trials=5, seed=seed, sampler="random")[0].close()
    searched(url, artifacts, name="loss", trials=3, metrics={"loss": "min"}, sampler="random")[0].close()
    yield url, artifacts, engine
    engine.close()


def run(name: str, best: list[float], *, is_over: bool = True, params: dict[str, object] | None = None) -> Run:
    k = len(best)
    ended = np.arange(1, k + 1)
    return Run(name, "accuracy", -1.0, is_over, ended, 60.0 * ended, np.array(best), 0, params or {}, k)


def test_studies_stand_beside_each_other(several: tuple[str, Path, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    url, artifacts, _ = several
    page = opened(monkeypatch, url, artifacts, "compare")
    page.multiselect[0].set_value(["tpe-1", "tpe-2", EVIL_NAME]).run()
    text = words(sound(page))
    assert "tpe × 2" in text and "other &lt;script&gt;" in text
    assert "<script>" not in text
    assert "Parameters of their best trials" in text and 'class="am-apart"' in text
    page.segmented_control(key="compare-by").set_value("time").run()
    assert len(sound(page).get("plotly_chart")) == 1


def test_a_tag_stands_for_its_studies(several: tuple[str, Path, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    url, artifacts, _ = several
    page = opened(monkeypatch, url, artifacts, "compare")
    page.multiselect[0].set_value(["#night"]).run()
    text = words(sound(page))
    assert "other &lt;script&gt;" in text and "tpe" not in text


def test_what_cannot_be_compared_is_told_apart(
    several: tuple[str, Path, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, artifacts, _ = several
    page = opened(monkeypatch, url, artifacts, "compare")
    page.multiselect[0].set_value(["tpe-1", "tpe-2", "loss"]).run()
    assert "best accuracy" in words(sound(page))
    page.segmented_control(key="compare-metric").set_value("loss (min)").run()
    text = words(sound(page))
    assert "best loss" in text and "tpe" not in text


def test_nothing_chosen_and_nothing_there_are_said(
    several: tuple[str, Path, Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, artifacts, _ = several
    page = opened(monkeypatch, url, artifacts, "compare")
    page.multiselect[0].set_value([]).run()
    assert "Choose some studies" in words(sound(page))
    empty = opened(monkeypatch, f"sqlite:///{tmp_path / 'empty.db'}", artifacts, "compare")
    assert "Nothing to compare yet" in words(empty)


# -- its figures -------------------------------------------------------------------------------------------------------


def test_names_that_differ_by_a_number_at_their_end_are_runs_of_one_method() -> None:
    names = ["tpe-1", "tpe-2", "gp_10", "gp 11", "resnet50", "2024"]
    groups = groups_of([run(name, [1.0]) for name in names])
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("tpe", 2),
        ("gp", 2),
        ("resnet50", 1),
        ("2024", 1),
    ]


def test_the_band_is_the_quartiles_of_the_runs_and_one_that_is_over_keeps_its_value() -> None:
    group = Group("a", (*(run(f"a{i}", [0.1 * i, 0.1 * i + 0.5]) for i in range(4)), run("a5", [0.9])))
    x, low, middle, high = quartiles(group)
    assert x.tolist() == [1.0, 2.0]
    assert middle.tolist() == pytest.approx([0.2, 0.7])
    assert low[1] == pytest.approx(0.6) and high[1] == pytest.approx(0.8)
    going = Group("b", (run("b1", [0.1], is_over=False), run("b2", [0.2, 0.3]), run("b3", [0.3, 0.4])))
    assert quartiles(going)[2].tolist() == pytest.approx([0.2, 0.35])
    assert quartiles(Group("c", (run("c1", []), run("c2", []))))[0].size == 0


def test_a_group_is_a_band_and_a_single_study_a_line() -> None:
    groups = groups_of([run("a1", [0.1, 0.4]), run("a2", [0.2, 0.3]), run("b", [0.5, 0.6])])
    drawn = progress(groups, LIGHT)
    assert [trace.get("name") for trace in drawn["data"]] == [None, None, "a (median of 2)", "b"]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "trials that have ended"
    assert progress(groups, LIGHT, by_time=True)["layout"]["xaxis"]["title"]["text"] == "minutes"


def test_the_best_study_comes_first_and_what_differs_from_it_is_marked() -> None:
    head, rows = parameter_table(
        [
            run("worse", [0.1], params={"lr": 0.0105, "<b>": "x", "width": 3.0}),
            run("better", [0.2], params={"lr": 0.01, "<b>": "x", "width": 9.0}),
        ]
    )
    assert head == ["parameter", "better", "worse"]
    assert ["am-apart" in row[2] for row in rows] == [False, False, True]
    assert rows[1][0] == "&lt;b&gt;"


def test_a_run_counts_failed_trials_and_begins_with_the_first_start(several: tuple[str, Path, Engine]) -> None:
    engine = several[2]
    board = engine.board(engine.study(EVIL_NAME))
    found = run_of(board)
    assert found.ended == 6  # trial 5 has failed, and its time was used all the same
    assert len(found.best) == len(board.by_finish) and found.value == board.best_so_far[-1]
    assert found.seconds[0] >= 0.0
    assert not found.is_over and board.study.state is StudyState.OPEN
