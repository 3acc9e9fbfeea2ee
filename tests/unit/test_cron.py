"""When schedules come: what is refused, days with 23 and 25 hours, leap days, and a slow oracle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from automl.cron import Cron, Plan
from automl.errors import InvalidInput
from automl.promotion import check_alias


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def coming(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next local times, with their offset."""
    cron = Cron(expression, zone)
    return [f"{cron.local(tick):%m-%d %H:%M %z}" for tick in islice(cron.ticks(moment(after)), count)]


@pytest.mark.parametrize(
    ("expression", "zone", "field", "said"),
    [
        ("99 * * * *", "UTC", "cron", "the minute is wrong"),
        ("* 24 * * *", "UTC", "cron", "the hour is wrong"),
        ("* * * * * *", "UTC", "cron", "six fields; searches start on full minutes"),
        ("*/5 * * * * *", "UTC", "cron", "six fields"),
        ("* * * *", "UTC", "cron", "4 of five fields"),
        ("", "UTC", "cron", "0 of five fields"),
        ("@daily", "UTC", "cron", "1 of five fields"),
        ("0 0 30 2 *", "UTC", "cron", "never comes"),
        ("0 0 31 4,6 *", "UTC", "cron", "never comes"),
        ("*/0 * * * *", "UTC", "cron", "the minute is wrong"),
        ("5-1 * * * *", "UTC", "cron", "the minute is wrong"),
        ("1," * 200 + "1 * * * *", "UTC", "cron", "give minute, hour"),
        ("0 2 * * *\n", "UTC", "cron", "give minute, hour"),
        ("0 2 * * *", "Europe/Pariss", "timezone", "did you mean 'Europe/Paris'?"),
        ("0 2 * * *", "Paris", "timezone", "did you mean 'Europe/Paris'?"),
        ("0 2 * * *", "../../etc/passwd", "timezone", "is unknown"),
        ("0 2 * * *", "", "timezone", "is unknown"),
        ("0 2 * * *", "right/Europe/Paris", "timezone", "is unknown"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field_and_the_cure(
    expression: str, zone: str, field: str, said: str
) -> None:
    with pytest.raises(InvalidInput, match=field) as refused:
        Cron(expression, zone)
    assert refused.value.field == field
    assert said in str(refused.value)


def test_a_time_of_the_day_that_is_left_out_comes_once_when_the_clocks_were_put_forward() -> None:
    before, night = "2026-03-28T12:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]
    assert coming("30 2 * * *", "Europe/Paris", before, 2) == night
    assert coming("*/30 2 * * *", "Europe/Paris", before, 2) == ["03-29 03:00 +0200", "03-30 02:00 +0200"]
    assert coming("0 */2 * * *", "Europe/Paris", "2026-03-28T23:30", 2) == ["03-29 03:00 +0200", "03-29 04:00 +0200"]
    assert coming("0 0 * * *", "America/Havana", "2026-03-07T12:00", 2) == ["03-08 01:00 -0400", "03-09 00:00 -0400"]


def test_a_time_of_the_day_that_comes_twice_counts_the_first_time() -> None:
    before, nights = "2026-10-24T12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    assert coming("30 2 * * *", "Europe/Paris", before, 2) == nights
    between = "2026-10-25T01:10"  # 02:10 for the second time
    assert coming("30 2 * * *", "Europe/Paris", between, 1) == nights[1:]
    assert coming("*/30 2 * * *", "Europe/Paris", before, 3) == [
        "10-25 02:00 +0200",
        "10-25 02:30 +0200",
        "10-26 02:00 +0100",
    ]


def test_an_hourly_job_comes_in_each_real_hour() -> None:
    autumn = ["10-25 01:30 +0200", "10-25 02:30 +0200", "10-25 02:30 +0100", "10-25 03:30 +0100"]
    assert coming("30 * * * *", "Europe/Paris", "2026-10-24T23:00", 4) == autumn
    assert coming("30 0-23 * * *", "Europe/Paris", "2026-10-24T23:00", 4) == autumn
    spring = ["03-29 01:30 +0100", "03-29 03:30 +0200"]
    assert coming("30 * * * *", "Europe/Paris", "2026-03-29T00:00", 2) == spring


def test_a_leap_day_comes_every_four_years() -> None:
    ticks = islice(Cron("0 0 29 2 *").ticks(moment("2026-01-01")), 3)
    assert [datetime.fromtimestamp(tick, UTC).year for tick in ticks] == [2028, 2032, 2036]


def test_it_is_explained_in_words() -> None:
    assert Cron("0 2 * * *", "Europe/Paris").explain() == "At 02:00 every day"


def test_the_newest_of_many_ticks_are_found_without_counting_them_all() -> None:
    cron = Cron("* * * * *")
    newest, is_all = cron.newest(0.0, moment("2026-05-05T12:00"), 3)
    assert [f"{cron.local(tick):%H:%M}" for tick in newest] == ["11:58", "11:59", "12:00"]
    assert not is_all
    few, is_all = cron.newest(moment("2026-05-05T11:58"), moment("2026-05-05T12:00:30"), 3)
    assert (len(few), is_all) == (2, True)
    assert Cron("0 0 1 1 *").newest(moment("2020-01-01"), moment("2026-05-05"), 2) == (
        [moment("2025-01-01"), moment("2026-01-01")],
        False,
    )


MINUTES, HOURS = (
    st.sampled_from(["0", "30", "15,45", "*/20", "*", "59"]),
    st.sampled_from(["0", "1", "2", "3", "1,2", "2-3", "*/2", "*", "0-23", "23"]),
)
#: Their changes within ten days of these dates: an hour in both directions, at midnight, half an hour, none.
ZONES = {
    "Europe/Paris": ("2026-03-27", "2026-10-23"),
    "America/New_York": ("2026-03-06", "2026-10-30"),
    "America/Havana": ("2026-03-06", "2026-10-30"),
    "Australia/Lord_Howe": ("2026-04-03", "2026-10-02"),
    "Asia/Kolkata": ("2026-03-27", "2026-10-23"),
    "Africa/Cairo": ("2026-04-22", "2026-10-28"),
}


def slowly(minutes: set[int], hours: set[int], zone: str, after: float, until: float) -> list[float]:
    """By looking at each minute of the real clock, and at each of the wall's where hours are named."""
    if len(hours) == 24:
        real = range(int(after) // 60 * 60 + 60, int(until) + 1, 60)
        return [float(t) for t in real if datetime.fromtimestamp(t, ZoneInfo(zone)).minute in minutes]
    found = set()
    wall = datetime.fromtimestamp(after, ZoneInfo(zone)).replace(tzinfo=None, second=0, microsecond=0) - timedelta(
        days=1
    )
    end = datetime.fromtimestamp(until, ZoneInfo(zone)).replace(tzinfo=None) + timedelta(days=1)
    while wall < end:
        wall += timedelta(minutes=1)
        if wall.minute in minutes and wall.hour in hours:
            there = wall
            while (
                datetime.fromtimestamp(there.replace(tzinfo=ZoneInfo(zone)).timestamp(), ZoneInfo(zone)).replace(
                    tzinfo=None
                )
                != there
            ):
                there += timedelta(minutes=1)
            found.add(there.replace(tzinfo=ZoneInfo(zone)).timestamp())
    return sorted(tick for tick in found if after < tick <= until)


@example("30", "*", "Australia/Lord_Howe", 0, 0)  # 01:30 comes twice, and the clocks are put back to it
@given(MINUTES, HOURS, st.sampled_from(sorted(ZONES)), st.integers(0, 1), st.integers(0, 2 * 24 * 60))
def test_it_comes_when_looking_at_each_minute_says_so(
    minute: str, hour: str, zone: str, season: int, later: int
) -> None:
    cron = Cron(f"{minute} {hour} * * *", zone)
    after = moment(ZONES[zone][season]) + 60.0 * later + 0.5
    until = after + 3.5 * 86_400
    found = []
    for tick in cron.ticks(after):
        if tick > until:
            break
        found.append(tick)
    assert found == slowly(_values(minute, 60), _values(hour, 24), zone, after, until)


def _values(field: str, size: int) -> set[int]:
    if field.startswith("*"):
        return set(range(0, size, int(field[2:] or 1)))
    if "-" in field:
        low, high = map(int, field.split("-"))
        return set(range(low, high + 1))
    return set(map(int, field.split(",")))


@given(st.text(alphabet="0123456789*/-,#LW ² SUNJAN", max_size=24))
def test_whatever_is_written_is_a_time_or_is_refused(text: str) -> None:
    try:
        cron = Cron(text)
    except InvalidInput as error:
        assert error.field == "cron"
    else:
        assert next(cron.ticks(0.0)) > 0.0
        assert cron.explain()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cron": "99 * * * *"}, "cron"),
        ({"timezone": "Mars"}, "timezone"),
        ({"catch_up": "some"}, "catch_up"),
        ({"overlap": "kill"}, "overlap"),
        ({"promote": "7up"}, "promote"),
        ({"entrypoint": ""}, "entrypoint"),
        ({"entrypoint": "a\0.py"}, "entrypoint"),
    ],
)
def test_a_plan_names_what_is_wrong_with_it(changes: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Plan(**{"spec": {}, "entrypoint": "digits.py:digits", "cron": "0 2 * * *", **changes})
    assert refused.value.field == field


@pytest.mark.parametrize("alias", ["champion", "a.b-c_1", "7", "", "with space", "ä", "x" * 101])
def test_a_plan_takes_the_aliases_that_a_promotion_takes(alias: str) -> None:
    def taken() -> bool:
        try:
            Plan({}, "digits.py", "0 2 * * *", promote=alias)
        except InvalidInput:
            return False
        return True

    try:
        check_alias(alias)
        assert taken()
    except InvalidInput:
        assert not taken()
