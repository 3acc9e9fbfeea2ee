"""Results and failures of training functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from automl.core import FailureKind
from automl.trainers.checkpoint import state_of
from automl.trainers.failures import BadResult, NonFinite, failure_of, number, result_values


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        np.array([2]),
        torch.tensor(2),
        torch.tensor([2.0]),
        Fraction(2),
    ],
)
def test_numbers_of_every_library_are_numbers(value: Any) -> None:
    assert number(value) == 2.0 and type(number(value)) is float


@pytest.mark.parametrize("value", ["2", None, True, np.bool_(True), [2], {}, 2j, torch.ones(2), np.ones(3), object()])
def test_other_things_are_not(value: Any) -> None:
    assert number(value) is None


@pytest.mark.parametrize("result", [0.5, [0.5], (0.5,), {"score": 0.5}, torch.tensor(0.5)])
def test_one_metric_comes_in_many_forms(result: Any) -> None:
    assert result_values(result, ["score"]) == ((0.5,), {})


@pytest.mark.parametrize("result", [(1, 2), [1, 2], {"b": 2, "a": 1}])
def test_several_metrics_come_by_name_or_in_order(result: Any) -> None:
    assert result_values(result, ["a", "b"]) == ((1.0, 2.0), {})


def test_further_keys_are_further_metrics_and_may_be_anything_numeric() -> None:
    values, metrics = result_values({"score": 1, "time": 3, "gap": math.nan}, ["score"])
    assert values == (1.0,) and metrics["time"] == 3.0 and math.isnan(metrics["gap"])


@pytest.mark.parametrize(
    ("result", "metrics", "says"),
    [
        (None, ["score"], "None (is a `return` missing?); return a number"),
        ("0.5", ["score"], "'0.5' (str); return a number, or a dict of numbers with the key 'score'"),
        (True, ["score"], "True (bool)"),
        ({}, ["score"], "without ['score']"),
        ({"loss": 1}, ["score"], "without ['score']"),
        ({"score": "good"}, ["score"], "'good' (str) as 'score'"),
        ((1, 2), ["score"], "(1, 2) (tuple)"),
        (0.5, ["a", "b"], "0.5 (float); return a dict of numbers with the keys ['a', 'b'], or as many"),
        ((1, 2, 3), ["a", "b"], "(1, 2, 3)"),
        ({"a": 1}, ["a", "b"], "without ['b']"),
        (None, ["a", "b"], "None"),
        (torch.ones(2), ["score"], "tensor([1., 1.]) (Tensor)"),
    ],
)
def test_what_is_no_result_is_named_with_the_cure(result: Any, metrics: list[str], says: str) -> None:
    with pytest.raises(BadResult) as caught:
        result_values(result, metrics)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_an_objective_that_is_not_finite_ends_the_trial(value: float) -> None:
    with pytest.raises(NonFinite, match="score"):
        result_values({"score": value}, ["score"])


def _raise(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("bad"), FailureKind.ERROR),
        (SystemExit(3), FailureKind.ERROR),
        (KeyboardInterrupt(), FailureKind.ERROR),
        (BadResult("no"), FailureKind.ERROR),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureKind.OUT_OF_MEMORY),
        (ValueError("CUDA out of memory"), FailureKind.ERROR),
        (NonFinite("nan"), FailureKind.NON_FINITE),
    ],
)
def test_failures_have_their_kind(error: BaseException, kind: FailureKind) -> None:
    assert failure_of(error).kind == kind


def test_the_message_is_one_line_and_the_traceback_has_causes() -> None:
    try:
        try:
            _raise(KeyError("inner"))()
        except KeyError as inner:
            raise ValueError("first\nsecond") from inner
    except ValueError as error:
        failure = failure_of(error)
    assert failure.message == "ValueError: first"
    assert "KeyError: 'inner'" in failure.traceback and "second" in failure.traceback


def test_frames_of_the_trainers_are_not_in_the_traceback() -> None:
    try:
        state_of({"a": object()})
    except AttributeError as error:
        text = failure_of(error).traceback
    assert "test_failures.py" in text and "checkpoint.py" not in text


def test_a_missing_gpu_has_a_cure() -> None:
    assert "Resources(gpus=1)" in failure_of(RuntimeError("No CUDA GPUs are available")).message


def test_an_exception_without_a_text_does_no_harm() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert failure_of(Mute()).message == "Mute"
