"""`AUTOML_STORAGE=http://...`: the same commands through a service, from a folder that knows no database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from automl.declaration import Budget
from automl.service.app import create_app
from automl.service.auth import TokenAuthenticator
from automl.team import Scope
from tests.acceptance.desk import Desk, Done
from tests.conformance.gallery import Gallery, write_onnx_model
from tests.conformance.lab import spec
from tests.service import running


@dataclass
class Afar:
    """A desk with nothing on it but an address and a token."""

    there: Gallery  #: beside the database
    desk: Desk
    token: str

    def types(self, *words: str) -> Done:
        return self.desk.automl(*words, AUTOML_TOKEN=self.token)

    def works(self, *words: str) -> str:
        done = self.types(*words)
        assert done.status == 0, done.err + done.out
        return done.out

    def json(self, *words: str) -> Any:
        return json.loads(self.works(*words, "--json"))


@pytest.fixture(scope="module")
def afar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Afar]:
    """Two trials with models, in a database that the desk cannot reach."""
    folder = tmp_path_factory.mktemp("there")
    there = Gallery(f"sqlite:///{folder}/automl.db", folder / "artifacts", write_onnx_model(folder))
    there.trained(0.5)
    there.trained(0.9)
    there.engine.declare(spec("other", budget=Budget(trials=5)))
    token, _ = there.engine.tokens.create("ada", [Scope.READ, Scope.SUBMIT, Scope.PROMOTE])
    with running(create_app(there.engine, TokenAuthenticator(there.engine))) as address:
        desk = Desk(tmp_path_factory.mktemp("desk"), address)
        yield Afar(there, desk, token)
        desk.leave()
    there.close()


def test_what_is_there_is_listed_and_shown(afar: Afar) -> None:
    assert [item["name"] for item in afar.json("ls")] == ["lab", "other"]
    shown = afar.json("show", "lab")
    assert (shown["trials"]["complete"], shown["best"]["number"], shown["best"]["value"]) == (2, 1, 0.9)
    assert "2 of 100 done" in afar.works("show", "lab")
    trial = afar.json("show", "lab", "--trial", "1")
    assert trial["values"] == [0.9] and [move["state"] for move in trial["history"]][-1] == "complete"
    assert not (afar.desk.folder / ".automl" / "automl.db").exists()


def test_a_study_is_steered(afar: Afar) -> None:
    afar.works("pause", "other")
    assert afar.there.engine.study("other").paused
    afar.works("resume", "other")
    assert "9 trials" in afar.works("extend", "other", "--trials", "9")
    assert "trial 0 of other is queued" in afar.works("enqueue", "other", "x=0.25")
    assert afar.there.engine.trial(afar.there.engine.study("other"), 0).params == {"x": 0.25}
    afar.works("stop", "other")
    assert afar.there.engine.study("other").state.value == "stopped"


def test_a_model_is_promoted_in_the_name_of_the_token_and_comes_here(afar: Afar) -> None:
    refused = afar.types("promote", "lab", "--min", "score=0.99")
    assert refused.status == 1 and "score" in refused.err
    afar.works("promote", "lab", "--reason", "the first")
    (move,) = afar.there.engine.promotions("lab")
    assert (move.who, move.reason, move.alias) == ("ada", "the first", "champion")
    assert afar.json("models")[0]["aliases"] == {"champion": 1}
    assert "the first" in afar.works("models", "lab")
    afar.works("export", "lab", "--csv", "trials.csv", "--model", "model")
    assert len((afar.desk.folder / "trials.csv").read_text().splitlines()) == 3
    mine, theirs = (afar.desk.folder / "model" / "model.onnx"), afar.there.files
    assert mine.read_bytes() == next(path for path in theirs if path.name == "model.onnx").read_bytes()


def test_what_only_a_database_can_do_is_said_in_one_line(afar: Afar) -> None:
    done = afar.types("export", "lab", "--optuna", "sqlite:///out.db")
    assert done.status == 2 and "is a service, and Optuna works with a database only" in done.err
    assert len(done.err.splitlines()) == 1 and not (afar.desk.folder / "out.db").exists()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AUTOML_TOKEN": "automl_000000000000_nonsense"}, "token"),
        ({"AUTOML_TOKEN": ""}, "token"),
        ({"AUTOML_STORAGE": "http://127.0.0.1:9"}, "no answer"),
        ({"AUTOML_STORAGE": "http://example.org", "AUTOML_TOKEN": "automl_0_0"}, "use https://"),
    ],
    ids=["a bad token", "no token", "nobody there", "readable by others"],
)
def test_who_cannot_come_in_is_told_so(afar: Afar, environment: dict[str, str], said: str) -> None:
    done = afar.desk.automl("ls", **{"AUTOML_TOKEN": afar.token, **environment})
    assert (done.status, len(done.err.splitlines())) == (2, 1) and said in done.err


def test_what_the_token_does_not_allow_is_refused(afar: Afar, tmp_path: Path) -> None:
    token, _ = afar.there.engine.tokens.create("reader", [Scope.READ])
    done = afar.desk.automl("stop", "lab", AUTOML_TOKEN=token)
    assert done.status == 2 and "'submit'" in done.err
    assert afar.there.engine.study("lab").state.value == "open"
