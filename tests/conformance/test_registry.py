"""Promotion and rollback on each kind of database: one moves the alias or nobody does, and the history tells it."""

from __future__ import annotations

import math
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from automl.core import Artifact, Gate, ModelVersion, Promotion, TrialState
from automl.engine import connect
from automl.errors import InvalidInput, NotFound, PromotionConflict, PromotionRefused, StorageError
from automl.storage.database import Database
from automl.storage.registry import Registry
from automl.storage.tables import alias, model_file, model_version, promotion, trial
from tests.conformance.gallery import Gallery, write_onnx_model
from tests.conformance.lab import complete, spec


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a model."""
    return write_onnx_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def gallery(url: str, artifacts: Path, files: list[Path]) -> Iterator[Gallery]:
    """An open study on SQLite, then on PostgreSQL. Whatever a test did, the registry must be sound."""
    opened = Gallery(url, artifacts, files)
    yield opened
    assert opened.problems() == []
    opened.close()


# -- promoting ----------------------------------------------------------------------------------------------------


def test_the_first_promotion_makes_a_model_of_the_best_trial(gallery: Gallery) -> None:
    gallery.trained(0.5)
    best = gallery.trained(0.9, metrics={"loss": 0.25}, facts={"data_sha256": "ab" * 32})
    before = gallery.engine.clock()
    made = gallery.promote(reason="the first", who="ada")
    assert (made.model, made.alias, made.kind, made.from_version, made.to_version) == (
        "lab",
        "champion",
        "promote",
        None,
        1,
    )
    assert (made.who, made.reason, made.forced) == ("ada", "the first", False)
    assert before <= made.at <= gallery.engine.clock()
    assert all(gate.passed and gate.figure for gate in made.gates)
    assert gallery.engine.promotions("lab") == [made]
    version = gallery.engine.model_version("lab")
    assert (version.model, version.version, version.study, version.number) == ("lab", 1, "lab", best)
    assert version.metrics == {"score": 0.9, "loss": 0.25}
    assert version.params == {"x": 0.5}
    assert version.directions == ("maximize",)
    assert version.data_sha256 == "ab" * 32
    assert version.aliases == ("champion",)
    assert version.files == gallery.engine.trial(gallery.study, best).artifacts
    (found,) = gallery.engine.models()
    assert (found.name, found.aliases, found.versions) == ("lab", {"champion": 1}, 1)


def test_promoting_what_the_alias_names_already_changes_nothing(gallery: Gallery) -> None:
    gallery.trained(0.5)
    made = gallery.promote()
    before = gallery.held()
    assert gallery.promote() == made
    assert gallery.held() == before


def test_a_trial_has_one_version_however_often_it_is_promoted(gallery: Gallery) -> None:
    one, two = gallery.trained(0.5), gallery.trained(0.6)
    assert [gallery.promote(number).to_version for number in (one, two, one)] == [1, 2, 1]
    assert gallery.promote(two, alias="fast").to_version == 2
    assert gallery.promote(two, model="other").to_version == 1
    assert gallery.named() == {"champion": 1, "fast": 2}
    assert [(version.version, version.aliases) for version in gallery.engine.model_versions("lab")] == [
        (2, ("fast",)),
        (1, ("champion",)),
    ]
    assert [move.to_version for move in gallery.engine.promotions("lab", "champion")] == [1, 2, 1]


def test_a_version_is_named_by_alias_by_number_or_by_the_model_alone(gallery: Gallery) -> None:
    one, two = gallery.trained(0.5), gallery.trained(0.6)
    gallery.promote(one, alias="small")
    gallery.promote(two)
    by_name = {name: gallery.engine.model_version(name).number for name in ("lab", "lab@champion", "lab@2")}
    assert by_name == dict.fromkeys(by_name, two)
    assert gallery.engine.model_version("lab@small") == gallery.engine.model_version("lab@1")


@pytest.mark.parametrize("reference", ["lab@7", "lab@nobody", "lab@", "lab@99999999999999999999", "lab@1@2"])
def test_a_reference_to_no_version_is_told_what_there_is(gallery: Gallery, reference: str) -> None:
    gallery.trained(0.5)
    gallery.promote(alias="small")
    with pytest.raises(NotFound, match="there are lab@small and versions 1 to 1"):
        gallery.engine.model_version(reference)


def test_a_model_that_is_not_there_is_told_which_are(gallery: Gallery) -> None:
    with pytest.raises(NotFound, match="automl promote STUDY"):
        gallery.engine.model_version("lab")
    gallery.trained(0.5)
    gallery.promote()
    for ask in (gallery.engine.model_version, gallery.engine.model_versions, gallery.engine.promotions):
        with pytest.raises(NotFound, match="there are lab"):
            ask("lap")
    with pytest.raises(NotFound, match="there are lab"):
        gallery.engine.rollback("lap")


def test_what_json_cannot_say_comes_back_from_a_version_as_it_was(gallery: Gallery) -> None:
    gallery.trained(0.5, metrics={"z": math.inf, "a": 1e300, "nan": math.nan})
    gallery.promote()
    metrics = gallery.engine.model_version("lab").metrics
    assert next(iter(metrics)) == "score"
    assert (metrics["z"], metrics["a"]) == (math.inf, 1e300)
    assert math.isnan(metrics["nan"])


def test_two_that_make_the_same_file_at_once_record_one_of_them(gallery: Gallery) -> None:
    number = gallery.trained(0.5)
    record = gallery.engine.trial(gallery.study, number)
    files = [[Artifact(f"{n}.onnx", f"{which}{n:063x}", 1) for n in range(100)] for which in "ab"]
    barrier = threading.Barrier(2, timeout=60)

    def add(which: int) -> None:
        barrier.wait()
        gallery.engine.add_artifacts(record, files[which])

    threads = [threading.Thread(target=add, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = {item.name for item in gallery.engine.trial(gallery.study, number).artifacts if item.name[0].isdigit()}
    assert len(made) == 100
    gallery.engine.delete("lab")
    gallery.engine.add_artifacts(record, files[0])  # of a trial that is gone: nothing to do


# -- refusing -----------------------------------------------------------------------------------------------------


def test_a_trial_that_is_not_complete_is_not_promoted(gallery: Gallery) -> None:
    with pytest.raises(InvalidInput, match="no trial of 'lab' is complete"):
        gallery.promote()
    with pytest.raises(NotFound, match="no trial 3"):
        gallery.promote(3)
    lease = gallery.claimed()
    with pytest.raises(InvalidInput, match="is running; choose one that is complete"):
        gallery.promote(lease.number)
    gallery.engine.finish(lease.token, replace(complete(0.5), state=TrialState.PRUNED))
    with pytest.raises(InvalidInput, match="is pruned"):
        gallery.promote(lease.number)
    assert gallery.engine.models() == []


def test_a_trial_that_is_marked_as_invalid_is_not_promoted(gallery: Gallery) -> None:
    number = gallery.trained(0.9)
    other = gallery.trained(0.5)
    gallery.database.execute(sa.update(trial).where(trial.c.number == number).values(invalid="a bug"))
    with pytest.raises(InvalidInput, match=r"marked as invalid \(a bug\)"):
        gallery.promote(number)
    gallery.promote()
    assert gallery.engine.model_version("lab").number == other


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a metric below its bound": ("score >= 0.97", {"gates": {"score": {"min": 0.97}}}, "score is 0.5"),
    "a metric above its bound": ("latency_ms <= 20", {"gates": {"latency_ms": {"max": 20}}}, "latency_ms is 30"),
    "a fact outside": ("epochs >= 9", {"gates": {"epochs": {"min": 9}}}, "epochs is 7"),
    "a metric that nobody measured": ("f1 >= 0", {"gates": {"f1": {"min": 0}}}, "no metric 'f1', it has"),
    "NaN": ("nan >= 0", {"gates": {"nan": {"min": 0}}}, "nan is nan"),
    "a check that says False": ("check", {"check": lambda version: False}, "returned False"),
    "a check that says why": ("check", {"check": lambda version: f"no v{version.version}"}, "no v1"),
    "a check that raises": ("check", {"check": lambda version: version.params["y"]}, "'y'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_gate_that_fails_alone_refuses_and_says_why(gallery: Gallery, case: str) -> None:
    name, options, why = REFUSALS[case]
    measured = {"latency_ms": 30.0, "nan": math.nan}
    number = gallery.trained(0.5, metrics=measured, facts={"epochs": 7, "host": "a"}, constraints={"size": -1.0})
    before = gallery.held()
    with pytest.raises(PromotionRefused, match="is not there yet") as refused:
        gallery.promote(number, **options)
    failed = [gate for gate in refused.value.gates if not gate.passed]
    assert [gate.name for gate in failed] == [name]
    assert why in failed[0].why
    assert why in str(refused.value)
    assert {"files", "loads (ONNX)", "constraints"} <= {gate.name for gate in refused.value.gates if gate.passed}
    assert gallery.held() == before
    assert gallery.engine.check_gates(gallery.study, number, **options)[1] == refused.value.gates
    forced = gallery.promote(number, **options, force=True, reason="the demo is today")
    assert forced.forced
    assert forced.gates == refused.value.gates
    assert gallery.engine.promotions("lab") == [forced]


def test_a_violated_constraint_refuses(gallery: Gallery) -> None:
    number = gallery.trained(0.5, constraints={"latency_ms": 3.5, "size": -1.0})
    with pytest.raises(PromotionRefused, match=r"latency_ms is 3\.5 outside") as refused:
        gallery.promote(number)
    (failed,) = (gate for gate in refused.value.gates if not gate.passed)
    assert (failed.name, failed.figure) == ("constraints", "1 of 2 violated")


def test_the_gates_of_the_study_count_like_those_of_the_call(
    url: str, artifacts: Path, files: list[Path], tmp_path: Path
) -> None:
    gallery = Gallery(url, artifacts, files, spec(gates={"score": {"min": 0.4, "max": 1.0}}))
    number = gallery.trained(0.3)
    trial_record, gates = gallery.engine.check_gates(gallery.study, number, gates={"score": {"min": 0.1}})
    assert trial_record.number == number
    figures = {gate.name: (gate.passed, gate.figure) for gate in gates if gate.name.startswith("score")}
    assert figures == {"score >= 0.4": (False, "0.3"), "score <= 1": (True, "0.3"), "score >= 0.1": (True, "0.3")}
    assert gallery.engine.models() == []
    gallery.close()


def test_a_trial_without_a_model_is_not_promoted_not_even_by_force(gallery: Gallery) -> None:
    number = gallery.trained(0.5, files=[])
    for options in ({}, {"force": True, "reason": "I insist"}):
        with pytest.raises(PromotionRefused, match=r"call trial\.save_model"):
            gallery.promote(number, **options)
    assert gallery.engine.models() == []


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_file_that_is_not_as_recorded_is_not_promoted_not_even_by_force(gallery: Gallery, how: str) -> None:
    gallery.promote(gallery.trained(0.4))
    number = gallery.trained(0.5)
    name = f"note-{number}.txt"
    item = gallery.damage(number, name)
    path = gallery.engine.artifacts.path(item)
    if how == "missing":
        path.unlink()
    before = gallery.held()
    for options in ({}, {"force": True, "reason": "I insist"}):
        with pytest.raises(PromotionRefused, match="stays at version 1") as refused:
            gallery.promote(number, **options)
        assert [gate.name for gate in refused.value.gates if not gate.passed] == ["files"]
        assert item.sha256 in str(refused.value)
    assert gallery.held() == before


def test_a_damaged_model_file_is_found_before_it_is_loaded(gallery: Gallery) -> None:
    number = gallery.trained(0.5)
    gallery.damage(number, "model.onnx")
    with pytest.raises(PromotionRefused, match="'files'") as refused:
        gallery.promote(number)
    assert not any(gate.name.startswith("loads") for gate in refused.value.gates)


def test_a_model_that_gives_something_else_than_recorded_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    others = [path for path in write_onnx_model(tmp_path) if path.name == "model.example.safetensors"]
    content = bytearray(others[0].read_bytes())
    content[-1] ^= 64  # an exponent of the recorded output
    others[0].write_bytes(content)
    mixed = [*(path for path in gallery.files if path.name != "model.example.safetensors"), *others]
    number = gallery.trained(0.5, files=mixed)
    with pytest.raises(PromotionRefused, match="loads"):
        gallery.promote(number)


def test_several_metrics_have_no_best_but_aliases_along_their_front(
    url: str, artifacts: Path, files: list[Path]
) -> None:
    gallery = Gallery(url, artifacts, files, spec(metrics={"score": "max", "ms": "min"}))
    beaten, fast, accurate = gallery.trained(0.5, 9.0), gallery.trained(0.6, 2.0), gallery.trained(0.9, 9.0)
    with pytest.raises(InvalidInput, match=f"choose with --trial N: .* are {fast}, {accurate}$"):
        gallery.promote()
    gallery.promote(fast, alias="fast")
    gallery.promote(accurate, alias="accurate")
    gallery.promote(beaten, alias="odd")
    assert gallery.named() == {"accurate": 2, "fast": 1, "odd": 3}
    assert gallery.engine.model_version("lab@fast").metrics == {"score": 0.6, "ms": 2.0}
    gallery.close()


# -- going back ---------------------------------------------------------------------------------------------------


def test_two_rollbacks_in_a_row_go_two_back(gallery: Gallery) -> None:
    for value in (0.1, 0.2, 0.3):
        gallery.promote(gallery.trained(value))
    back = gallery.engine.rollback("lab", reason="slow", who="ada")
    assert (back.kind, back.from_version, back.to_version, back.reason, back.who) == ("rollback", 3, 2, "slow", "ada")
    assert [gate.name for gate in back.gates] == ["files"]
    assert gallery.engine.rollback("lab").to_version == 1
    assert gallery.named() == {"champion": 1}
    with pytest.raises(InvalidInput, match="has named nothing before version 1"):
        gallery.engine.rollback("lab")
    assert gallery.named() == {"champion": 1}


def test_a_promotion_after_a_rollback_is_what_the_next_one_takes_back(gallery: Gallery) -> None:
    numbers = [gallery.trained(value) for value in (0.1, 0.2, 0.3)]
    gallery.promote(numbers[0])
    gallery.promote(numbers[1])
    gallery.engine.rollback("lab")  # at 1
    gallery.promote(numbers[2])  # at 3; 2 was taken back and is not what was before
    assert gallery.engine.rollback("lab").to_version == 1


def test_a_rollback_moves_its_alias_only(gallery: Gallery) -> None:
    one, two = gallery.trained(0.1), gallery.trained(0.2)
    for name in ("champion", "fast"):
        gallery.promote(one, alias=name)
        gallery.promote(two, alias=name)
    gallery.engine.rollback("lab", "fast")
    assert gallery.named() == {"champion": 2, "fast": 1}
    with pytest.raises(NotFound, match="lab@champion, lab@fast"):
        gallery.engine.rollback("lab", "small")


def test_a_rollback_to_a_file_that_does_not_match_is_refused(gallery: Gallery) -> None:
    one = gallery.trained(0.1)
    gallery.promote(one)
    gallery.promote(gallery.trained(0.2))
    item = gallery.damage(one, f"note-{one}.txt")
    before = gallery.held()
    with pytest.raises(PromotionRefused, match="is not rolled back") as refused:
        gallery.engine.rollback("lab")
    assert [gate.name for gate in refused.value.gates] == ["files"]
    assert gallery.held() == before
    gallery.engine.artifacts.path(item).write_text(f"trial {one}")  # restored
    assert gallery.engine.rollback("lab").to_version == 1


def test_versions_and_files_outlive_their_study(gallery: Gallery) -> None:
    one, two = gallery.trained(0.1), gallery.trained(0.2)
    gallery.promote(one)
    gallery.promote(two)
    versions = gallery.engine.model_versions("lab")
    gallery.engine.delete("lab")
    assert gallery.engine.model_versions("lab") == versions
    assert all(gallery.engine.artifacts.verify(item) for version in versions for item in version.files)
    assert gallery.engine.rollback("lab").to_version == 1
    before = gallery.held()
    with pytest.raises(NotFound):
        gallery.promote(two)
    again = gallery.engine.declare(spec())
    assert again.id != gallery.study.id
    assert gallery.held() == before
    gallery.study = again
    number = gallery.trained(0.9)
    assert number == one  # the same number in a new study of that name is another trial
    assert gallery.promote().to_version == 3


# -- at the same time ---------------------------------------------------------------------------------------------


def a_version(number: int, name: str = "race") -> ModelVersion:
    files = (Artifact("model.onnx", "0" * 64, 1),)
    return ModelVersion(name, 0, "s", 1, number, number, {}, {}, ("maximize",), files, None, None, {}, 0.0)


def a_move(from_version: int | None, name: str = "race") -> Promotion:
    gates = (Gate("files", True, "3 files"),)
    return Promotion(name, "champion", "promote", from_version, 0, "ada", None, False, gates, None, 0.0)


def contend(url: str, which: int, rounds: int, wait: Callable[[], object], won: Any) -> None:
    """Look, wait until the other has looked, too, then move; `rounds` times, each to a version of its own."""
    database = Database(url)
    registry = Registry(database)
    for turn in range(rounds):
        wait()
        history = registry.promotions("race", "champion")
        wait()
        try:
            made = registry.move(
                a_version(2 * turn + which), a_move(history[0].to_version if history else None), len(history)
            )
            won.put((turn, which, made.to_version))
        except PromotionConflict:
            won.put((turn, which, None))
    database.close()


def check_the_race(gallery: Gallery, results: list[tuple[int, int, int | None]], rounds: int) -> None:
    for turn in range(rounds):
        assert sum(version is not None for number, _, version in results if number == turn) == 1, turn
    history = gallery.engine.promotions("race")
    assert [move.to_version for move in history] == list(range(rounds, 0, -1))
    assert [move.from_version for move in history] == [*range(rounds - 1, 0, -1), None]
    assert {version.number for version in gallery.engine.model_versions("race")} == {
        2 * turn + which for turn, which, version in results if version is not None
    }


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_two_moves_at_once_give_one_success_and_one_conflict(url: str, artifacts: Path, kind: str) -> None:
    gallery = Gallery(url, artifacts, [])
    rounds = 100 if kind == "threads" else 50
    context: Any = multiprocessing.get_context("spawn") if kind == "processes" else threading
    barrier = context.Barrier(2, timeout=60)
    manager = multiprocessing.get_context("spawn")
    won = manager.Queue()
    start = context.Process if kind == "processes" else threading.Thread
    wait = barrier.wait
    racers = [start(target=contend, args=(url, which, rounds, wait, won)) for which in (0, 1)]
    for racer in racers:
        racer.start()
    results = [won.get(timeout=60) for _ in range(2 * rounds)]
    for racer in racers:
        racer.join()
    check_the_race(gallery, results, rounds)
    gallery.close()


def test_two_promotions_that_passed_their_gates_together_give_one_success_and_one_conflict(gallery: Gallery) -> None:
    gallery.promote(gallery.trained(0.1))
    pair = [gallery.trained(0.2), gallery.trained(0.3)]
    both_looked = threading.Barrier(2, timeout=60)
    outcomes: dict[int, object] = {}

    def promote(number: int) -> None:
        try:
            outcomes[number] = gallery.promote(number, check=lambda version: both_looked.wait() and None)
        except PromotionConflict as error:
            outcomes[number] = error

    threads = [threading.Thread(target=promote, args=(number,)) for number in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (made,) = (outcome for outcome in outcomes.values() if isinstance(outcome, Promotion))
    (error,) = (outcome for outcome in outcomes.values() if isinstance(outcome, PromotionConflict))
    assert "theirs stands" in str(error)
    assert gallery.engine.promotions("lab")[0] == made
    assert gallery.named() == {"champion": 2}
    assert len(gallery.engine.model_versions("lab")) == 2


def test_a_conflict_leaves_nothing(gallery: Gallery) -> None:
    before = gallery.held()
    number = gallery.trained(0.5)
    other = gallery.trained(0.6)

    def overtake(version: ModelVersion) -> None:
        nonlocal before
        gallery.promote(other)
        before = gallery.held()

    with pytest.raises(PromotionConflict):
        gallery.promote(number, check=overtake)
    assert gallery.held() == before


def test_an_alias_that_went_away_and_came_back_is_a_conflict(gallery: Gallery) -> None:
    one, two = gallery.trained(0.5), gallery.trained(0.6)
    gallery.promote(one)

    def there_and_back(version: ModelVersion) -> None:
        gallery.promote(two)
        gallery.engine.rollback("lab")

    with pytest.raises(PromotionConflict):
        gallery.promote(gallery.trained(0.7), check=there_and_back)
    assert [move.kind for move in gallery.engine.promotions("lab")] == ["rollback", "promote", "promote"]


def test_a_version_that_somebody_made_of_other_files_is_a_conflict(gallery: Gallery) -> None:
    number = gallery.trained(0.5)
    with_more = gallery.engine.artifacts.put(gallery.files[0], "more.txt")

    def add_a_file_and_promote(version: ModelVersion) -> None:
        gallery.engine.add_artifacts(gallery.engine.trial(gallery.study, number), [with_more])
        gallery.promote(number, alias="other")

    with pytest.raises(PromotionConflict, match="other files"):
        gallery.promote(number, check=add_a_file_and_promote)
    assert gallery.named() == {"other": 1}


@pytest.mark.parametrize(
    "tampering",
    [
        sa.update(model_version).values(metrics={"score": 1.0}),
        sa.update(model_file).values(sha256="0" * 64),
        sa.update(promotion).values(who="nobody"),
        sa.delete(promotion),
        sa.delete(model_file),
        sa.delete(model_version),
    ],
    ids=str,
)
def test_what_the_registry_holds_cannot_be_changed(gallery: Gallery, tampering: Any) -> None:
    gallery.trained(0.5)
    gallery.promote()
    before = gallery.held()
    with pytest.raises((StorageError, DBAPIError), match="never changed"):
        gallery.database.execute(tampering)
    assert gallery.held() == before


def test_the_checks_notice_an_alias_that_moved_without_its_history(
    url: str, artifacts: Path, files: list[Path]
) -> None:
    """The mutant of these tests: were `problems` blind, nothing above would mean much."""
    gallery = Gallery(url, artifacts, files)
    gallery.promote(gallery.trained(0.5))
    gallery.promote(gallery.trained(0.6))
    gallery.database.execute(
        sa.update(alias).values(version_id=sa.select(sa.func.min(model_version.c.id)).scalar_subquery())
    )
    gallery.damage(0, "note-0.txt")
    found = gallery.problems()
    assert any("the history says {'champion': 2}" in problem for problem in found)
    assert any("recorded was" in problem for problem in found)
    gallery.close()


def test_another_process_sees_a_promotion_at_once(gallery: Gallery) -> None:
    gallery.trained(0.5)
    made = gallery.promote()
    other = connect(gallery.url, gallery.engine.artifacts.root)
    assert other.promotions("lab") == [made]
    other.close()
