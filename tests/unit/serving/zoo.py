"""Models for the tests of serving, importable by the processes that load them."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import nn

from automl.trainers.models import export_onnx, save_model

#: Columns of the small network's input.
FEATURES = 6


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))


class Pair(nn.Module):
    """Two inputs of different kinds, two outputs."""

    def __init__(self, words: int = 11):
        super().__init__()
        self.words = words
        self.embed = nn.Embedding(words, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.head(self.embed(tokens).mean(dim=1)) * weight[:, None]
        return {"scores": scores, "label": scores.argmax(dim=1)}


class InPlace(nn.Module):
    """Changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x *= 0.0
        return self.linear(x)


class Solitary(nn.Module):
    """Cannot work for two threads at a time; `seen` are the numbers of rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 256)
        self.busy = threading.Lock()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.busy.acquire(blocking=False), "two at a time"
        try:
            self.seen.append(len(x))
            for _ in range(10):
                x = torch.tanh(self.linear(x))
            return x
        finally:
            self.busy.release()


class Crowd(nn.Module):
    """What a row gives depends on the other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y - y.mean(dim=0)


class Total(nn.Module):
    """One number for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).sum()


class Forgetful(nn.Module):
    """Cannot be rebuilt, because it does not keep `hidden`: it becomes ONNX when it is saved."""

    def __init__(self, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(3, hidden), nn.Linear(hidden, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


def example(rows: int = 4, columns: int = FEATURES) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def saved(folder: Path, model: nn.Module | None = None, inputs: object = None, *, onnx: bool = False) -> Path:
    """`folder` with a saved model; by default the small network."""
    torch.manual_seed(0)
    save_model(model or network(), folder, example_input=example() if inputs is None else inputs)
    if onnx:
        export_onnx(folder)
    return folder
