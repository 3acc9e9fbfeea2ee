"""Batches over HTTP: the twin of `automl.storage.batches.Batches`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from urllib.parse import quote

from automl.client.transport import Transport
from automl.storage.batches import BatchStudy, Budget, Spent
from automl.team import Batch


@dataclass(frozen=True, slots=True)
class _Stopped:
    stopped: bool


class RemoteBatches:
    """The batches of one project."""

    def __init__(self, transport: Transport):
        self._transport = transport

    def submit(
        self, name: str, studies: Sequence[BatchStudy], *, priority: int = 0, budget: Budget | None = None
    ) -> Batch:
        """Queue new studies as a batch, in this order: all of them, or none.

        Raises `InvalidInput`, `StudyConflict`, `Forbidden`.
        """
        items = [
            {
                "spec": item.spec.to_json(),
                "entrypoint": item.entrypoint,
                "code_sha256": item.code_sha256,
                "package_sha256": item.package_sha256,
            }
            for item in studies
        ]
        body = {"name": name, "studies": items, "priority": priority, "budget": asdict(budget or Budget())}
        return self._transport.send("POST", "/batches", Batch, body)

    def all(self) -> list[Batch]:
        """The newest first."""
        return self._transport.get("/batches", list[Batch])

    def get(self, name: str) -> Batch:
        """Raises `NotFound`."""
        return self._transport.get(_path(name), Batch)

    def stop(self, name: str) -> bool:
        """End all its studies. False when it was over already."""
        return self._transport.send("POST", f"{_path(name)}/stop", _Stopped).stopped

    def report(self, name: str) -> str:
        """One HTML file of all its studies. Raises `NotFound`."""
        return self._transport.request("GET", f"{_path(name)}/report").data.decode()

    def spent(self, name: str) -> Spent:
        """What its studies have used so far. Raises `NotFound`."""
        return self._transport.get(f"{_path(name)}/spent", Spent)


def _path(name: str) -> str:
    return f"/batches/{quote(name, safe='')}"
