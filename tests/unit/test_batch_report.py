"""The report of a batch: self-contained, escaped, right about what changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from automl.batch_report import parts_of, write_plots
from automl.engine import Engine, connect
from automl.storage.batches import BatchStudy
from tests.unit.searches import complete, fail, spec

EVIL = '<img src=x onerror="alert(1)">&\'"'


@pytest.fixture
def engine(sqlite_url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(sqlite_url, artifacts)
    yield opened
    opened.close()


def submit(engine: Engine, *names: str, **changes: object) -> None:
    engine.batches.submit("night", [BatchStudy(spec(name, **changes), "a.py:a") for name in names])


def section(page: str, at: int) -> str:
    found = re.search(rf'<section id="study-{at}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_whatever_users_write_stays_text(engine: Engine) -> None:
    name = EVIL.replace("/", "")
    submit(engine, name, metrics={EVIL: "max"})
    record = engine.study(name)
    complete(engine, record, 0.5)
    fail(engine, record, EVIL)
    engine.stop(name, EVIL)
    page = engine.batches.report("night")
    assert "<img" not in page and page.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") >= 5
    assert "default-src 'none'" in page and "<script" not in page
    assert set(re.findall("(?:src|href|url)[=(].", page)) <= {'href="', "src=x"}


def test_each_study_shows_its_best_its_top_trials_its_failures_and_its_curve(engine: Engine) -> None:
    submit(engine, "a", "b")
    for value in (0.3, 0.7, 0.6):
        complete(engine, engine.study("a"), value)
    fail(engine, engine.study("a"), "CUDA error")
    page = engine.batches.report("night")
    first = section(page, 0)
    assert "Best score: <b>0.7000</b> (trial 1)" in first
    assert re.findall(r"<tr><td >(\d+)</td>", first) == ["1", "2", "0", "3"]
    assert "CUDA error" in first and "3 complete, 1 failed" in first
    drawing = re.search("<svg.*?</svg>", first, re.DOTALL)
    assert drawing is not None
    svg = ElementTree.fromstring(drawing[0])
    assert len(svg.findall("circle")) == 3 and len(svg.findall("path")) == 1
    assert "No trial has a result" in section(page, 1)
    assert "no run before" in page


@pytest.mark.parametrize(
    ("direction", "words"), [("max", '<span class="good">+0.2 better'), ("min", '<span class="bad">+0.2 worse')]
)
def test_the_best_is_compared_with_the_last_run_of_the_same_code(engine: Engine, direction: str, words: str) -> None:
    metrics = {"score": direction}
    for name, value in (("old", 0.9), ("last", 0.5)):
        record = engine.declare(spec(name, metrics=metrics), entrypoint="a.py:a")
        complete(engine, record, value)
    other = engine.declare(spec("other", metrics=metrics), entrypoint="b.py:b")
    complete(engine, other, 0.1)
    submit(engine, "a", metrics=metrics, seed=1)
    complete(engine, engine.study("a"), 0.7)
    first = section(engine.batches.report("night"), 0)
    assert words in first and "What changed against the last run" in first and "in last" in first
    assert 'class="last"' in first


def test_a_study_that_was_deleted_is_left_out(engine: Engine) -> None:
    submit(engine, "a", "b")
    engine.delete("a")
    page = engine.batches.report("night")
    assert 'id="study-0"' in page and 'id="study-1"' not in page


def test_plots_are_files_whose_names_are_harmless(engine: Engine, tmp_path: Path) -> None:
    submit(engine, "$x^2$ <b>", "empty")
    for value in (0.3, 0.7):
        complete(engine, engine.study("$x^2$ <b>"), value)
    found = engine.batches.get("night")
    (plot,) = write_plots(parts_of(engine, found, engine.batches.spent("night")), tmp_path / "plots")
    assert plot == tmp_path / "plots" / "1--x-2---b-.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
