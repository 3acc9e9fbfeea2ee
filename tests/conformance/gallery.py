"""A lab whose trials have models: what tests of promotion begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch

from automl.core import Artifact, Promotion
from automl.promotion import Candidate
from automl.storage.registry import Registry
from automl.storage.tables import alias, model, model_file, model_version, promotion
from automl.trainers.models import save_model
from tests.conformance.lab import Lab, complete

REGISTRY_TABLES = (model, model_version, model_file, alias, promotion)


def write_onnx_model(folder: Path) -> list[Path]:
    """The files of a small model without a recipe: its class cannot be imported, so it has its ONNX file at once.

    Checking it takes onnxruntime only, a second less than torch.
    """

    class Local(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(x))

    torch.manual_seed(0)
    return save_model(Local(), folder, example_input=torch.randn(4, 3))


class Gallery(Lab):
    """A lab in which complete trials with models are made by the ordinary protocol of a worker."""

    def __init__(self, url: str, artifacts: Path, files: Sequence[Path], declared: Any = None):
        """`files`: of a model, which every trial keeps."""
        super().__init__(url, artifacts, declared)
        artifacts.mkdir(parents=True, exist_ok=True)
        self.files = files
        self.registry = Registry(self.database)

    def trained(
        self, *values: float, files: Sequence[Path] | None = None, worker: str = "alice-0", **outcome: Any
    ) -> int:
        """A complete trial with these values and files; its number. Each has one file of its own besides."""
        lease = self.claimed(worker)
        own = self.engine.artifacts.root / f"note-{lease.number}.txt"
        own.write_text(f"trial {lease.number}")
        kept = [*(self.files if files is None else files), own]
        stored = tuple(self.engine.artifacts.put(path) for path in kept)
        own.unlink()
        self.engine.finish(lease.token, complete(*values, artifacts=stored, **outcome))
        return lease.number

    def promote(self, number: int | None = None, **options: Any) -> Promotion:
        return self.engine.promote(self.study, number, **options)

    def put_up(self, number: int) -> Promotion:
        """As `promote` does, but with no gates, of which the loading takes a second."""
        version = Candidate(self.study, self.engine.trial(self.study, number), None, {}).version("lab", 0)
        history = self.registry.promotions("lab", "champion")
        seen = history[0].to_version if history else None
        draft = Promotion("lab", "champion", "promote", seen, 0, "ada", None, False, (), None, 0.0)
        return self.registry.move(version, draft, len(history))

    def named(self, name: str = "lab") -> Mapping[str, int]:
        """The version that each alias names."""
        found = {item.name: item.aliases for item in self.engine.models()}
        return found.get(name, {})

    def held(self) -> dict[str, Sequence[Any]]:
        """All that the registry holds, to show that a refused call changed nothing."""
        return {
            table.name: self.database.all(sa.select(table).order_by(*table.primary_key)) for table in REGISTRY_TABLES
        }

    def damage(self, number: int, name: str) -> Artifact:
        """Change a byte of a trial's stored file, as a broken disk does."""
        item = next(item for item in self.engine.trial(self.study, number).artifacts if item.name == name)
        path = self.engine.artifacts.path(item)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return item

    def problems(self) -> list[str]:
        """What is wrong with the registry: an alias that is not what its history says, a file that does not match."""
        found = []
        for item in self.engine.models():
            versions = {version.version: version for version in self.engine.model_versions(item.name)}
            history = self.engine.promotions(item.name)
            last = {move.alias: move.to_version for move in reversed(history)}
            if dict(item.aliases) != last:
                found.append(f"{item.name}: aliases are {item.aliases}, the history says {last}")
            if set(versions) != set(range(1, item.versions + 1)):
                found.append(f"{item.name}: versions are {sorted(versions)}")
            for version in versions.values():
                if not version.files:
                    found.append(f"{item.name}@{version.version} has no files")
                for file in version.files:
                    try:
                        self.engine.artifacts.verify(file)
                    except Exception as error:
                        found.append(str(error))
            before: dict[str, int] = {}
            for move in reversed(history):
                if move.from_version != before.get(move.alias):
                    found.append(f"{move.alias} moved from {move.from_version}, but was at {before.get(move.alias)}")
                before[move.alias] = move.to_version
        return found
