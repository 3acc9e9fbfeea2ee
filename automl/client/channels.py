"""Channels over HTTP: the twin of `automl.storage.channels.Channels`. All of it takes the scope `admin`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from automl.client.transport import Transport
from automl.storage.channels import parse_subjects
from automl.team import Channel, ChannelKind, Delivery, Subject


class RemoteChannels:
    """Where a project's notifications go."""

    def __init__(self, transport: Transport):
        self._transport = transport

    def add(
        self,
        name: str,
        kind: ChannelKind | str,
        address: str,
        subjects: Sequence[Subject | str] = tuple(Subject),
        *,
        secret: str | None = None,
        allow_private: bool = False,
    ) -> Channel:
        """Tell this address of these subjects from now on. Raises `InvalidInput`."""
        body: dict[str, Any] = {"name": name, "kind": str(kind), "address": address, "allow_private": allow_private}
        body |= {"subjects": [subject.value for subject in parse_subjects(subjects)], "secret": secret}
        return self._transport.send("POST", "/channels", Channel, body)

    def all(self) -> list[Channel]:
        """By name."""
        return self._transport.get("/channels", list[Channel])

    def get(self, name: str) -> Channel:
        """Raises `NotFound`."""
        return self._transport.get(_path(name), Channel)

    def remove(self, name: str) -> None:
        """With its deliveries, those on their way too. Raises `NotFound`."""
        self._transport.request("DELETE", _path(name))

    def test(self, name: str) -> Delivery:
        """Put a test message on its way. Raises `NotFound`."""
        return self._transport.send("POST", f"{_path(name)}/test", Delivery)

    def deliveries(self, name: str | None = None, limit: int = 100) -> list[Delivery]:
        """What was sent or is to be sent, the newest first. Raises `NotFound`."""
        return self._transport.get("/deliveries", list[Delivery], channel=name, limit=limit)


def _path(name: str) -> str:
    return f"/channels/{quote(name, safe='')}"
