"""Whatever the API's own description allows, and what it forbids, asked of a running `automl serve`.

Schemathesis makes the requests. `pytest tests/attacks/test_fuzz.py --fuzz 100000 -o timeout=0 -s` is the
long form.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from schemathesis.generation import GenerationMode

from automl.engine import Engine, connect
from automl.service.openapi import operations
from automl.team import Scope
from tests.attacks.knocks import serving
from tests.conformance.lab import complete, new_token, spec
from tests.unit.service.house import suggest

#: It has no end: a client of it waits for what happens.
ENDLESS = "events_listen"
#: Seconds within which each answer has to come: in the long form, which has the machine to itself, and beside others.
SLOWEST_S, SLOWEST_BESIDE_S = 1.0, 10.0
#: Of the requests, this share is sent by sequences in which an answer's ids go into the next request.
STATEFUL = 0.3
#: MiB by which the server may grow in the second half: caches that have an end fill.
GROWTH_MIB = 32.0
STUDIES, TRIALS = 10, 30


@dataclass
class Asked:
    """A running server, how it is asked, and what was wrong with its answers."""

    url: str
    token: str
    process: psutil.Process
    engine: Engine
    slowest_s: float = SLOWEST_BESIDE_S
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    resident: list[float] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def send(self, case: Any) -> Any:
        """Ask, and look at the answer."""
        operation = case.operation.definition.raw["operationId"]
        if operation == "tokens_revoke" and str(case.path_parameters["token"]) in ("fuzz", self.token.split("_")[1]):
            case.path_parameters["token"] = "another"  # without its own the test would ask for nothing any more
        headers = {"Authorization": f"Bearer {self.token}"}
        gc.disable()  # what Schemathesis leaves behind takes more than a second to collect
        began = time.perf_counter()
        try:
            answer = case.call(base_url=self.url, session=self.session, headers=headers, timeout=30)
        except (requests.exceptions.InvalidHeader, UnicodeEncodeError):  # this client will not even send it
            hypothesis.reject()
        finally:
            took = time.perf_counter() - began
            gc.enable()
        self.slowest = max(self.slowest, took)
        self.statuses[answer.status_code] += 1
        self.resident.append(self.process.memory_info().rss / 2**20)
        what = f"{operation} -> {answer.status_code} in {took:.2f} s: {case.as_curl_command()[:2000]}"
        if answer.status_code >= 500 or answer.status_code == 401 or took > self.slowest_s:
            self.wrong.append(f"{what}\n{answer.content[:500]!r}")
        if answer.status_code >= 400 and set(json.loads(answer.content or b"{}")) - {"error"}:
            self.wrong.append(f"{what}: an error in another form")
        if operation == "work_claim" and answer.status_code == 200 and (lease := answer.json()):
            self.leases.append(lease["token"])
        return answer

    def made_real(self, case: Any) -> Any:
        """The request with ids, names and leases of what there is, instead of those that were thought of."""
        there = [record.id for record in self.engine.studies()]
        if not there:
            self.populate()
            there = [record.id for record in self.engine.studies()]
        study = self.dice.choice(there)
        trials = self.engine.trials(self.engine.study_by_id(study), limit=TRIALS)
        trial = self.dice.choice(trials) if trials else None
        lease = self.dice.choice(self.leases) if self.leases else new_token()
        real = {"study_id": study, "study": study, "study_ids": [study], "schedule_id": 1, "reference": "lab@1"}
        real |= {"trial_id": trial.id if trial else 1, "number": trial.number if trial else 0, "lease_s": 60.0}
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                place.update({name: value for name, value in real.items() if name in place})
        if isinstance(case.body, dict) and "token" in case.body:
            case.body["token"] = new_token() if case.operation.path.endswith("/claim") else lease
        return case

    def populate(self) -> None:
        """Studies with trials that wait, run and have ended."""
        for n in range(STUDIES):
            record = self.engine.declare(spec(f"fuzzed {n} {new_token()}", trials=10_000), queued=True)
            suggest(self.engine, record, TRIALS)
            for _ in range(TRIALS // 2):
                held = new_token()
                assert self.engine.claim([record.id], "fuzz", held, 3600.0)
                self.engine.finish(held, complete(self.dice.random(), metrics={"loss": self.dice.random()}))


@pytest.fixture
def asked(url: str, artifacts: Path, tmp_path: Path) -> Iterator[Asked]:
    engine = connect(url, artifacts)
    token, _ = engine.tokens.create("fuzz", tuple(Scope))
    with serving(url, artifacts, tmp_path, "--no-dashboard") as served:
        found = Asked(served.url, token, psutil.Process(served.process.pid), engine)
        found.populate()
        yield found
        found.session.close()
    engine.close()


def _operations(described: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for _, _, operation in operations(described)]


def settings(examples: int, **further: Any) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=max(1, examples),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # what goes wrong is gathered, not looked into
        suppress_health_check=list(HealthCheck),
        **further,
    )


def test_no_request_that_can_be_thought_of_is_too_much_for_it(asked: Asked, pytestconfig: pytest.Config) -> None:
    wanted = pytestconfig.getoption("--fuzz")
    is_long = wanted > 1000
    asked.slowest_s = SLOWEST_S if is_long else SLOWEST_BESIDE_S
    headers = {"Authorization": f"Bearer {asked.token}"}
    described = requests.get(f"{asked.url}/api/v1/openapi.json", headers=headers, timeout=30).json()
    for operation in (described, described["components"], *_operations(described)):
        operation.pop("security", operation.pop("securitySchemes", None))  # who asks is said by `send` alone
    schema = schemathesis.openapi.from_dict(described).exclude(operation_id=ENDLESS)
    known = [found.ok() for found in schema.get_all_operations()]

    seeds = count(random.randrange(2**32) if is_long else 5)

    @hypothesis.seed(next(seeds))
    @settings(int(wanted * (1 - STATEFUL)))
    @hypothesis.given(st.data())
    def stateless(data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(known))
        mode = data.draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
        case = data.draw(operation.as_strategy(mode))
        asked.send(asked.made_real(case) if data.draw(st.booleans()) else case)

    stateless()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def call(self, case: Any, **options: Any) -> Any:
            return asked.send(case)

        def validate_response(self, *given: Any, **options: Any) -> None:
            """What is wrong was noted."""

    began = time.monotonic()
    while sum(asked.statuses.values()) < wanted and time.monotonic() - began < 60 + wanted / 10:
        seeded = hypothesis.seed(next(seeds))(Machine)
        with suppress(Flaky):  # the same request again finds another database
            run_state_machine_as_test(seeded, settings=settings(5, stateful_step_count=8))
    quarters = [asked.resident[len(asked.resident) * n // 4 - (n == 4)] for n in range(5)]
    print(f"{dict(asked.statuses)}, the slowest took {asked.slowest:.2f} s; MiB: {[round(mib) for mib in quarters]}")
    half, end = quarters[2], quarters[4]
    assert asked.wrong == [], "\n\n".join(asked.wrong[:20])
    assert sum(asked.statuses.values()) >= wanted / 2, "too few requests were sent"
    assert {200, 404, 422} <= asked.statuses.keys(), "they did not come far"
    assert end - half < GROWTH_MIB, f"the server grew from {half:.0f} to {end:.0f} MiB"
