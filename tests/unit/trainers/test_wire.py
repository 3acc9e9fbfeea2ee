"""Messages between processes."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.core import Artifact, Checkpoint, Failure, FailureKind, Outcome, TrialState
from automl.trainers import wire

NUMBERS = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3)
JSON = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=3)
MESSAGES = st.one_of(
    st.builds(
        wire.Reported,
        st.integers(0, 10**9),
        st.none() | st.floats(allow_nan=False),
        NUMBERS,
        st.none() | JSON,
        st.none() | JSON,
    ),
    st.just(wire.PruneAsked()),
    st.just(wire.Interrupted()),
    st.builds(wire.Checkpointed, st.builds(Checkpoint, st.integers(0, 100), st.text(), st.text())),
    st.builds(wire.Noted, JSON),
    st.builds(wire.Failed, st.builds(Failure, st.sampled_from(FailureKind), st.text(), st.text())),
    st.builds(
        wire.Done,
        st.builds(
            Outcome,
            st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED]),
            st.none() | st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
            NUMBERS,
            st.none() | JSON,
            st.none() | JSON,
            st.lists(st.builds(Artifact, st.text(), st.text(), st.integers(0)), max_size=2).map(tuple),
            JSON,
            NUMBERS,
        ),
    ),
)


@given(MESSAGES)
def test_decoding_is_the_inverse_of_encoding(message: wire.Message) -> None:
    data = wire.encode(message)
    assert data.endswith(b"\n") and data.count(b"\n") == 1
    assert wire.decode(data[:-1]) == message


def test_nan_and_infinity_pass() -> None:
    sent = wire.Reported(1, 0.5, {"a": math.nan, "b": -math.inf})
    received = wire.decode(wire.encode(sent))
    assert isinstance(received, wire.Reported)
    assert math.isnan(received.metrics["a"]) and received.metrics["b"] == -math.inf


@given(st.lists(MESSAGES, max_size=5), st.data())
def test_a_stream_may_be_cut_anywhere(messages: list[wire.Message], data: st.DataObject) -> None:
    stream = b"".join(map(wire.encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    buffer = wire.LineBuffer()
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [wire.decode(line) for chunk in chunks for line in buffer.feed(chunk)] == messages


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"{}",
        b'{"type": 3}',
        b'{"type": []}',
        b'{"type": "Exited", "status": 0}',
        b'{"type": "Reported"}',
        b'{"type": "Reported", "step": "x", "value": 1, "metrics": {}, "params": null, "distributions": null}',
        b'{"type": "Reported", "step": 1, "value": [], "metrics": 3, "params": null, "distributions": null}',
        b'{"type": "Done", "outcome": {"state": "running"}}',
        b'{"type": "Failed", "failure": {"kind": "bad luck", "message": "", "traceback": ""}}',
        b'{"type": "Checkpointed", "checkpoint": 3}',
        b'{"type": "Noted"}',
    ],
)
def test_anything_else_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(data)


def test_an_endless_line_is_a_wire_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 100)
    with pytest.raises(wire.WireError, match="100"):
        list(wire.LineBuffer().feed(b"x" * 101))


@pytest.mark.parametrize("checkpoint", [None, Checkpoint(3, "checkpoints/1/a1-s3-0.pt", "0" * 64)])
def test_a_job_survives_the_wire(job: wire.Job, checkpoint: Checkpoint | None) -> None:
    fields: dict[str, Any] = {**vars(job), "checkpoint": checkpoint, "gpus": ("0", "GPU-1")}
    fields["constraints"] = {"ms": {"max": 20.0}}
    sent = wire.Job(**{**fields, "params": MappingProxyType({"x": 1, "y": None})})
    received = wire.Job.from_json(json.loads(json.dumps(sent.to_json())))
    assert received == wire.Job(**{**fields, "params": {"x": 1, "y": None}})
