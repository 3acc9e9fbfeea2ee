"""Channels and deliveries: what may be added, what is told once, how it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from automl.core import StudyState
from automl.errors import InvalidInput, NotFound
from automl.storage.channels import BACKOFF_S, MAX_TRIES, SENDING_S, Channels, Outbox, parse_subjects
from automl.storage.database import now
from automl.storage.news import LATE_S, News
from automl.storage.tables import delivery, event
from automl.team import ChannelKind, Subject
from tests.conformance.lab import Lab, complete

PUBLIC = "93.184.215.14"
URL = "https://hooks.example/a"


def channels(lab: Lab, address: str = PUBLIC, project: str = "default") -> Channels:
    """With a resolver that says so of every name."""
    return Channels(lab.database, project, lambda host, port: [address])


def test_a_channel_is_kept_without_showing_its_secret(lab: Lab) -> None:
    subjects = [Subject.FINISHED, "new-best"]
    added = channels(lab).add("team", "webhook", URL, subjects, secret="s" * 32)
    assert (added.kind, added.address, added.signed) == (ChannelKind.WEBHOOK, URL, True)
    assert added.subjects == (Subject.FINISHED, Subject.NEW_BEST)
    assert "s" * 32 not in repr(added)
    channels(lab).add("mail", ChannelKind.EMAIL, "team@example.com")
    assert [found.name for found in channels(lab).all()] == ["mail", "team"]
    assert channels(lab).get("mail").subjects == tuple(Subject)
    channels(lab).remove("mail")
    with pytest.raises(NotFound, match="there is no 'mail'; there are team"):
        channels(lab).get("mail")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"kind": "pigeon"}, "kind"),
        ({"address": "ftp://hooks.example"}, "url"),
        ({"address": "https://me:secret@hooks.example"}, "url"),
        ({"kind": "email", "address": "team@example.com\r\nBcc: all@example.com"}, "address"),
        ({"kind": "email", "address": "nobody"}, "address"),
        ({"subjects": []}, "subjects"),
        ({"subjects": ["everything"]}, "subjects"),
        ({"secret": "short"}, "secret"),
        ({"kind": "slack", "secret": "s" * 32}, "secret"),
    ],
)
def test_a_wrong_channel_is_told_which_field_is_wrong(lab: Lab, change: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {"name": "team", "kind": "webhook", "address": URL} | change
    with pytest.raises(InvalidInput) as refused:
        channels(lab).add(**given)
    assert refused.value.field == field
    assert channels(lab).all() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::ffff:127.0.0.1"])
def test_a_channel_to_a_private_address_is_refused_when_it_is_added(lab: Lab, address: str) -> None:
    with pytest.raises(InvalidInput, match="stands for") as refused:
        channels(lab, address).add("team", "webhook", URL)
    assert refused.value.field == "url" and channels(lab).all() == []


def test_private_addresses_may_be_allowed_for_a_channel(lab: Lab) -> None:
    assert channels(lab, "10.1.2.3").add("team", "webhook", URL, allow_private=True).allow_private


def test_a_name_is_taken_once_in_a_project(lab: Lab) -> None:
    channels(lab).add("team", "webhook", URL)
    with pytest.raises(InvalidInput, match="there is a channel 'team' already"):
        channels(lab).add("team", "slack", URL)
    channels(lab, project="other").add("team", "slack", URL)
    assert len(channels(lab).all()) == 1
    other = channels(lab, project="foreign")
    for verb in (other.get, other.remove, other.test, other.deliveries):
        with pytest.raises(NotFound):
            verb("team")


def test_subjects_are_read_from_words_with_commas() -> None:
    assert parse_subjects("finished, new-best,worker_lost,finished") == (
        Subject.FINISHED,
        Subject.NEW_BEST,
        Subject.WORKER_LOST,
    )


# -- deliveries -----------------------------------------------------------------------------------------------------


@pytest.fixture
def outbox(lab: Lab) -> Outbox:
    channels(lab).add("team", "webhook", URL, secret="s" * 32)
    return Outbox(lab.database)


def team(lab: Lab) -> int:
    return channels(lab).get("team").id


def hurry(lab: Lab) -> None:
    """Let the time of every delivery have come."""
    lab.database.execute(sa.update(delivery).values(next_at=now() - 1.0))


def wait_s(lab: Lab) -> float:
    row = lab.database.first(sa.select((delivery.c.next_at - now()).label("left")))
    assert row is not None
    return row.left


def test_a_channel_is_told_once_of_one_thing(lab: Lab, outbox: Outbox) -> None:
    assert outbox.put(team(lab), "study:1:2", Subject.FINISHED, {"text": "a"})
    assert not outbox.put(team(lab), "study:1:2", Subject.FINISHED, {"text": "b"})
    assert not outbox.put(12345, "study:1:2", Subject.FINISHED, {"text": "c"})  # a channel that was removed
    (found,) = channels(lab).deliveries("team")
    assert (found.payload, found.channel, found.attempts) == ({"text": "a"}, "team", 0)
    (parcel,) = outbox.take(10)
    outbox.delivered(parcel)
    assert not outbox.put(team(lab), "study:1:2", Subject.FINISHED, {"text": "d"})
    assert outbox.take(10) == []


def test_what_one_has_taken_nobody_else_takes_until_its_time_is_over(lab: Lab, outbox: Outbox) -> None:
    for number in range(40):
        outbox.put(team(lab), f"k{number}", Subject.FINISHED, {})
    with ThreadPoolExecutor(4) as pool:
        taken = [parcel for parcels in pool.map(lambda _: outbox.take(8), range(8)) for parcel in parcels]
    assert len({parcel.id for parcel in taken}) == len(taken)
    rest = [parcel for _ in range(8) for parcel in outbox.take(8)]
    assert len(taken) + len(rest) == 40
    assert {parcel.secret for parcel in taken} == {"s" * 32}
    assert wait_s(lab) == pytest.approx(SENDING_S, abs=10)
    hurry(lab)  # the one who took them was killed
    again = outbox.take(40)
    assert [parcel.attempt for parcel in again] == [2] * 40


def test_who_is_about_to_take_some_holds_up_nobody(lab: Lab, outbox: Outbox) -> None:
    if lab.database.dialect != "postgresql":
        pytest.skip("SQLite has one writer")
    for number in range(4):
        outbox.put(team(lab), f"k{number}", Subject.FINISHED, {})
    other = sa.create_engine(lab.database.url).connect()
    try:
        first = other.execute(sa.text("SELECT key FROM delivery ORDER BY next_at LIMIT 2 FOR UPDATE")).scalars().all()
        assert {parcel.key for parcel in outbox.take(9)} == {"k0", "k1", "k2", "k3"} - set(first)
    finally:
        other.close()
        other.engine.dispose()
    assert [parcel.key for parcel in outbox.take(9)] == first


def test_a_failure_is_tried_again_later_and_later_and_given_up_after_a_day(lab: Lab, outbox: Outbox) -> None:
    outbox.put(team(lab), "k", Subject.FINISHED, {})
    waited = 0.0
    for attempt in range(1, MAX_TRIES + 1):
        (parcel,) = outbox.take(1)
        assert parcel.attempt == attempt
        outbox.failed(parcel, "no answer")
        expected = BACKOFF_S[min(attempt, len(BACKOFF_S)) - 1]
        assert wait_s(lab) == pytest.approx(expected, abs=3)
        waited += expected
        hurry(lab)
    assert outbox.take(1) == []
    (found,) = channels(lab).deliveries()
    assert found.given_up_at is not None and found.delivered_at is None and found.error == "no answer"
    assert 20 * 3600 < waited - expected < 24 * 3600


def test_who_was_too_slow_does_not_disturb_who_took_over(lab: Lab, outbox: Outbox) -> None:
    outbox.put(team(lab), "k", Subject.FINISHED, {})
    (slow,) = outbox.take(1)
    hurry(lab)
    (quick,) = outbox.take(1)
    outbox.failed(slow, "late")
    assert channels(lab).deliveries()[0].error is None
    outbox.delivered(quick)
    outbox.failed(quick, "late")
    assert channels(lab).deliveries()[0].error is None


def best(lab: Lab, outbox: Outbox, number: int) -> bool:
    return outbox.put_newest(team(lab), "best:1:", f"best:1:{number}", {"trial": number})


def test_of_new_bests_the_newest_is_told_and_one_in_thirty_seconds(lab: Lab, outbox: Outbox) -> None:
    assert best(lab, outbox, 1)
    (parcel,) = outbox.take(9)
    outbox.delivered(parcel)
    assert not best(lab, outbox, 1)
    assert best(lab, outbox, 2) and best(lab, outbox, 3) and best(lab, outbox, 4)
    assert outbox.take(9) == []  # not yet
    row = lab.database.first(sa.select((delivery.c.next_at - now()).label("left")).order_by(delivery.c.id.desc()))
    assert row is not None and 25 < row.left <= 30
    assert outbox.put_newest(team(lab), "best:12:", "best:12:1", {"trial": 9})  # another study's is not held up
    assert [parcel.payload["trial"] for parcel in outbox.take(9)] == [9]
    hurry(lab)
    told = [parcel.payload["trial"] for parcel in outbox.take(9)]
    assert told == [9, 4] or told == [4, 9]


def test_old_deliveries_are_forgotten(lab: Lab, outbox: Outbox) -> None:
    for key in ("old", "new", "open"):
        outbox.put(team(lab), key, Subject.FINISHED, {})
    over = sa.update(delivery).where(delivery.c.key != "open")
    lab.database.execute(over.values(delivered_at=now()))
    lab.database.execute(sa.update(delivery).where(delivery.c.key == "old").values(delivered_at=now() - 40 * 86_400))
    assert outbox.clear() == 1
    rows = lab.database.all(sa.select(delivery.c.key).order_by(delivery.c.id))
    assert [row.key for row in rows] == ["new", "open"]


def test_removing_a_channel_removes_its_deliveries(lab: Lab, outbox: Outbox) -> None:
    outbox.put(team(lab), "k", Subject.FINISHED, {})
    channels(lab).remove("team")
    assert outbox.take(9) == [] and lab.database.all(sa.select(delivery)) == []


# -- news -----------------------------------------------------------------------------------------------------------


def keys(news: News, cursor: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    moved, found = news.since(cursor)
    return moved, [item.subject.value for item in found]


def test_what_was_before_the_first_look_is_no_news(lab: Lab) -> None:
    lab.engine.stop("lab")
    news = News(lab.database)
    cursor, found = news.since({})
    assert found == [] and news.since(cursor)[1] == []


def test_ends_of_studies_and_new_bests_are_news_with_the_same_keys_each_time(lab: Lab) -> None:
    news = News(lab.database)
    cursor, _ = news.since({})
    for value in (0.5, 0.9, 0.7):
        lab.engine.finish(lab.claimed().token, complete(value))
    lab.engine.stop("lab", "enough")
    moved, found = news.since(cursor)
    ended, best_one = found
    assert (ended.subject, ended.study, ended.data) == (
        Subject.FINISHED,
        "lab",
        {"state": "stopped", "reason": "enough"},
    )
    assert best_one.subject is Subject.NEW_BEST
    assert (best_one.data["trial"], best_one.data["value"], best_one.data["metric"]) == (1, 0.9, "score")
    assert [item.key for item in news.since(cursor)[1]] == [item.key for item in found]
    assert news.since(moved)[1] == []


def test_a_result_that_is_no_new_best_is_no_news(lab: Lab) -> None:
    news = News(lab.database)
    lab.engine.finish(lab.claimed().token, complete(0.9))
    cursor, _ = news.since({})
    lab.engine.finish(lab.claimed().token, complete(0.5))
    _, found = keys(news, cursor)
    assert found == []
    lab.engine.finish(lab.claimed().token, complete(0.95, constraints={"size": 1.0}))  # not allowed to win
    assert keys(news, cursor)[1] == []


def test_what_a_transaction_adds_late_is_read_later(lab: Lab) -> None:
    """Event numbers are given out before they can be seen: a cursor must not step over one that is still to come."""
    if lab.database.dialect != "postgresql":
        pytest.skip("SQLite has one writer")
    news = News(lab.database)
    cursor, _ = news.since({})
    other = lab.engine.declare(lab_spec("other"))
    slow = sa.create_engine(lab.database.url).connect()
    try:
        slow.execute(sa.text("UPDATE study SET state = 'stopped', reason = 'slow' WHERE name = 'lab'"))
        lab.engine.stop("other", "quick")  # a later number, seen first
        cursor, found = news.since(cursor)
        assert [item.study for item in found] == ["other"]
        cursor, found = news.since(cursor)  # the look after that, too
        slow.commit()
    finally:
        slow.close()
        slow.engine.dispose()
    cursor, found = news.since(cursor)
    assert "lab" in [item.study for item in found]
    cursor, _ = news.since(cursor)
    cursor, found = news.since(cursor)
    assert found == [] and other.id  # and the cursor goes on


def test_a_cursor_of_another_server_does_not_stand_still(lab: Lab) -> None:
    if lab.database.dialect != "postgresql":
        pytest.skip("SQLite has no numbers of transactions")
    news = News(lab.database)
    cursor, _ = news.since({})
    high = 2**40
    restored = {**cursor, "next": cursor["floor"], "end": high}
    lab.engine.stop("lab")
    moved, found = news.since(restored)
    assert [item.study for item in found] == ["lab"]
    assert moved.get("end", 0) < high


def test_what_is_older_than_a_day_is_no_news(lab: Lab) -> None:
    news = News(lab.database)
    cursor, _ = news.since({})
    lab.engine.stop("lab")
    old = sa.update(event).where(event.c.state == StudyState.STOPPED.value).values(at=event.c.at - 2 * 86_400)
    lab.database.execute(old)
    assert news.since({**cursor, "at": 0.0})[1] == []


def test_a_finished_batch_is_news_once(lab: Lab) -> None:
    from automl.storage.batches import BatchStudy

    news = News(lab.database)
    cursor, _ = news.since({})
    lab.engine.batches.submit("night", [BatchStudy(lab_spec("a"), "a.py")], priority=1)
    lab.engine.batches.stop("night")
    cursor, found = news.since(cursor)
    (told,) = (item for item in found if item.subject is Subject.BATCH_FINISHED)
    assert told.data == {"batch": "night", "trials": 0, "studies": {"a": "stopped"}}
    late = {**cursor, "at": cursor["at"] + LATE_S - 1}
    assert [item.key for item in news.since(late)[1]] == [told.key]


def lab_spec(name: str) -> Any:
    from tests.conformance.lab import spec

    return spec(name)
