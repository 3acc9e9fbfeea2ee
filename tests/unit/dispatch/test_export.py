"""The ONNX file of a search that is over: welcome, and never a reason to fail."""

from __future__ import annotations

import pytest

from automl.core import Artifact, StudyState
from automl.dispatch.export import export_best_model
from tests.unit.dispatch.conftest import Lab


def test_a_model_that_lies_on_another_machine_leaves_the_search_a_success(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    path = lab.write("def train(trial): return trial.params['x']")
    record = lab.search(path)
    assert record.state is StudyState.FINISHED
    engine = lab.engine()
    engine.add_artifacts(engine.best_trials(record)[0], [Artifact("model.json", "0" * 64, 1)])
    export_best_model(engine, record, lab.host(path))
    assert "no ONNX file of the best model" in caplog.text
    assert "is missing" in caplog.text


def test_a_dead_template_leaves_the_search_a_success(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    path = lab.write("def train(trial): return trial.params['x']")
    record = lab.search(path)
    engine = lab.engine()
    (lab.folder / "model.json").write_text("{}")
    model = engine.artifacts.put(lab.folder / "model.json")
    engine.add_artifacts(engine.best_trials(record)[0], [model])
    host = lab.host(path)
    host.close()
    export_best_model(engine, record, host)
    assert "the template is dead" in caplog.text
