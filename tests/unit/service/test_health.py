"""Whether the service lives and is ready, and its figures as Prometheus reads them."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from automl.core import Attr, Load, WorkerRecord
from automl.engine import Engine
from automl.service.metrics import Histogram
from automl.storage.tables import trial
from tests.conformance.lab import LEASE_S, new_token, spec
from tests.unit.service.house import House, suggest

_SAMPLE = re.compile(r'([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)+\})? (-?[0-9.e+-]+)')


def figures(house: House, who: str = "admin") -> dict[str, float]:
    """What /metrics says, by name and labels; every line must be of the format."""
    answer = house.ask("GET", "/metrics", who=who)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: dict[str, float] = {}
    kinds: set[str] = set()
    for line in answer.data.decode().splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in kinds
            kinds.add(name)
        elif not line.startswith("# HELP "):
            parts = _SAMPLE.fullmatch(line)
            assert parts, line
            assert re.sub("_(bucket|sum|count)$", "", parts[1]) in kinds or parts[1] in kinds
            key = parts[1] + (parts[2] or "")
            assert key not in found
            found[key] = float(parts[3])
    return found


def search(engine: Engine) -> None:
    """A study with five suggestions; of two that were claimed one was lost half a minute ago."""
    study = engine.declare(spec("figures"))
    suggest(engine, study, 5)
    lost, kept = new_token(), new_token()
    assert engine.claim([study.id], "w-0", lost, LEASE_S)
    assert engine.claim([study.id], "w-1", kept, LEASE_S)
    database = engine.database
    found = database.all(sa.select(trial.c.id, trial.c.lease_token, trial.c.lease_expires_at).order_by(trial.c.id))
    for row in found:
        why = {Attr.WHY.value: {"ms": 10.0 * (row.id - found[0].id + 1)}}
        database.execute(sa.update(trial).where(trial.c.id == row.id).values(system_attrs=why))
        if row.lease_token is not None and row.lease_token.endswith(lost):
            past = row.lease_expires_at - LEASE_S - 30.0
            database.execute(sa.update(trial).where(trial.c.id == row.id).values(lease_expires_at=past))


def enroll(engine: Engine, name: str, *loads: float) -> None:
    gpus = tuple({"name": "gpu", "index": n, "load": load} for n, load in enumerate(loads))
    slots = tuple((str(n),) for n in range(len(loads)))
    engine.enroll(WorkerRecord(name, "host", 1, slots, Load(gpus=gpus), {}, LEASE_S, False, 0.0, 0.0, None))


def test_anybody_may_ask_whether_it_lives_and_is_ready(house: House) -> None:
    for path, said in (("/healthz", b'{"status":"ok"}'), ("/readyz", b'{"status":"ready"}')):
        answer = house.ask("GET", path, who=None)
        assert (answer.status, answer.data) == (200, said)


def test_with_another_schema_it_is_not_ready(house: House) -> None:
    house.engine.database.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    answer = house.ask("GET", "/readyz", who=None)
    assert (answer.status, house.said(answer)["code"]) == (503, "schema_mismatch")


def test_figures_are_of_the_callers_project(house: House) -> None:
    search(house.engine)
    enroll(house.engine, "w", 0.25, 0.75)
    enroll(house.engine, "v", 0.2)
    enroll(house.engine, "gone", 1.0)
    house.engine.leave("gone")
    found = figures(house, "read")
    here = '{project="default"}'
    assert found['automl_trials{project="default",state="waiting"}'] == found[f"automl_queue_depth{here}"] == 3
    assert found['automl_trials{project="default",state="running"}'] == 2
    assert found['automl_trials{project="default",state="complete"}'] == 0
    assert found[f"automl_oldest_expired_lease_seconds{here}"] == pytest.approx(30.0, abs=15.0)
    assert found[f"automl_workers{here}"] == 2
    assert found[f"automl_gpus{here}"] == 3
    assert found[f"automl_gpu_idle_share{here}"] == pytest.approx(0.6)
    assert found['automl_suggestion_milliseconds{project="default",quantile="0.5"}'] == 30.0
    assert found['automl_suggestion_milliseconds{project="default",quantile="0.99"}'] == 50.0
    assert not any("http" in name for name in found)
    foreign = figures(house, "foreign")
    assert foreign['automl_trials{project="elsewhere",state="waiting"}'] == 0
    assert foreign['automl_workers{project="elsewhere"}'] == 0
    assert not any("default" in name for name in foreign)


def test_an_admin_sees_how_requests_were_answered_and_what_duties_took(house: House) -> None:
    took = Histogram(bounds=(1.0, 10.0))
    for ms in (0.5, 1.0, 5.0, 50.0):
        took.add(ms)
    assert house.engine.duties.hold("suggestions", "me", 60.0)
    assert house.engine.duties.advance("suggestions", "me", {"suggestion_ms": took.to_json()})
    for path in ("/api/v1/nowhere/1", "/api/v1/nowhere/2", "/api/v1/tokens"):
        house.ask("GET", path)
    found = figures(house)
    assert found['automl_http_requests_total{method="GET",route="none",status="404"}'] == 2
    assert found['automl_http_requests_total{method="GET",route="/tokens",status="200"}'] == 1
    assert found['automl_http_request_seconds_count{method="GET",route="/tokens"}'] == 1
    assert found['automl_http_request_seconds_bucket{method="GET",route="/tokens",le="+Inf"}'] == 1
    duty = 'duty="suggestions"'
    assert found[f"automl_duty_held{{{duty}}}"] == 1
    assert found[f'automl_suggest_milliseconds_bucket{{{duty},le="1"}}'] == 2
    assert found[f'automl_suggest_milliseconds_bucket{{{duty},le="10"}}'] == 3
    assert found[f'automl_suggest_milliseconds_bucket{{{duty},le="+Inf"}}'] == 4
    assert found[f"automl_suggest_milliseconds_sum{{{duty}}}"] == 56.5


def test_others_may_not_see_figures(house: House) -> None:
    for who, status in (("promote", 403), ("submit", 403), (None, 401)):
        assert house.ask("GET", "/metrics", who=who).status == status
