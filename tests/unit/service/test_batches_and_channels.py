"""Batches and channels over HTTP: the client does what the engine does, and says what the engine says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from automl.client.batches import RemoteBatches
from automl.client.channels import RemoteChannels
from automl.client.transport import Transport
from automl.errors import Forbidden, InvalidInput, NotFound, StudyConflict
from automl.storage.batches import BatchStudy, Budget
from automl.team import Subject
from tests.unit.searches import complete, spec
from tests.unit.service.house import House

ADDRESS = "https://93.184.215.14/hook"


@pytest.fixture
def wire(house: House) -> Iterator[dict[str, Transport]]:
    """A transport for each of the house's tokens."""
    made = {who: Transport(house.url, token) for who, token in house.tokens.items()}
    yield made
    for transport in made.values():
        transport.close()


def item(name: str) -> BatchStudy:
    return BatchStudy(spec(name), f"{name}.py:{name}", "a" * 64)


def test_a_batch_over_http_is_the_engines(house: House, wire: dict[str, Transport]) -> None:
    batches = RemoteBatches(wire["submit"])
    made = batches.submit("night 1", [item("a"), item("b")], priority=5, budget=Budget(trials=7, hours=1.5))
    assert made == house.engine.batches.get("night 1")
    assert (made.studies, made.priority, made.max_trials, made.max_hours) == (("a", "b"), 5, 7, 1.5)
    complete(house.engine, house.engine.study("a"), 0.5)
    reader = RemoteBatches(wire["read"])
    assert reader.all() == house.engine.batches.all() and reader.get("night 1").made == 1
    assert reader.spent("night 1").trials == 1
    assert "0.5000" in reader.report("night 1")
    with pytest.raises(Forbidden):
        reader.stop("night 1")
    assert batches.stop("night 1") and not batches.stop("night 1")


def test_a_batch_that_cannot_be_is_refused_over_http(house: House, wire: dict[str, Transport]) -> None:
    batches = RemoteBatches(wire["submit"])
    batches.submit("night", [item("a")])
    with pytest.raises(StudyConflict, match="anew"):
        batches.submit("later", [item("b"), item("a")])
    with pytest.raises(InvalidInput, match="there is a batch 'night' already"):
        batches.submit("night", [item("b")])
    with pytest.raises(NotFound):
        RemoteBatches(wire["read"]).get("later")
    with pytest.raises(Forbidden, match="submit-code"):
        batches.submit("code", [BatchStudy(spec("c"), "c.py", None, "b" * 64)])
    foreign = RemoteBatches(wire["foreign"])
    assert foreign.all() == []
    for verb in (foreign.get, foreign.stop, foreign.report, foreign.spent):
        with pytest.raises(NotFound):
            verb("night")


def test_a_report_in_a_browser_may_do_nothing(house: House, wire: dict[str, Transport]) -> None:
    RemoteBatches(wire["submit"]).submit("night", [item("a")])
    answer = house.ask("GET", "/api/v1/batches/night/report", who="read")
    assert answer.headers["content-type"].startswith("text/html")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_channels_over_http_are_the_engines_and_an_admins(house: House, wire: dict[str, Transport]) -> None:
    channels = RemoteChannels(wire["admin"])
    made = channels.add("team", "webhook", ADDRESS, ["finished", Subject.NEW_BEST], secret="s" * 32)
    assert made == house.engine.channels.get("team") and made.signed
    assert channels.all() == [made] and channels.get("team") == made
    sent = channels.test("team")
    assert channels.deliveries("team") == [sent] == house.engine.channels.deliveries()
    for who in ("read", "submit"):
        with pytest.raises(Forbidden):
            RemoteChannels(wire[who]).all()
    assert RemoteChannels(wire["foreign"]).all() == []
    channels.remove("team")
    with pytest.raises(NotFound):
        channels.remove("team")
    answer = house.ask("POST", "/api/v1/channels", json={"name": "x", "kind": "webhook", "address": ADDRESS})
    assert answer.status == 201 and b"secret" not in answer.data


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5432/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://localhost/",
        "http://[::ffff:10.0.0.1]/",
        "file:///etc/passwd",
    ],
)
def test_a_channel_to_a_place_that_nobody_may_reach_is_refused(house: House, address: str) -> None:
    body = {"name": "x", "kind": "webhook", "address": address}
    answer = house.ask("POST", "/api/v1/channels", json=body)
    assert answer.status == 422 and answer.json()["error"]["field"] == "url"
    assert house.engine.channels.all() == []


def test_a_projects_admin_cannot_open_the_services_network(house: House, wire: dict[str, Transport]) -> None:
    with pytest.raises(Forbidden, match="allow_private"):
        RemoteChannels(wire["admin"]).add("x", "webhook", "http://10.0.0.1/", allow_private=True)
    house.app.state.private_hooks = True
    assert RemoteChannels(wire["admin"]).add("x", "webhook", "http://10.0.0.1/", allow_private=True).allow_private
