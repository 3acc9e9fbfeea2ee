"""A laboratory on each kind of database, and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.lab import Lab, Served

#: Suites of the engine's verbs: each test runs on SQLite, on PostgreSQL, and through a service on SQLite.
OVER_HTTP = frozenset(
    {"test_beliefs", "test_coordinator", "test_steering", "test_studies", "test_views", "test_workers"}
)

#: What of them does not: it looks behind the verbs.
DIRECT = frozenset(
    {
        # Workers that say tokens, files or results which no client sends; see tests/unit/client/test_work.py.
        *("test_a_token_that_never_was_is_refused", "test_a_lease_that_was_taken_back_is_refused"),
        *("test_a_lease_that_another_worker_has_is_refused", "test_a_lease_that_was_given_up_is_refused"),
        "test_after_the_result_everything_but_the_same_result_is_refused",
        "test_the_next_attempt_starts_from_the_last_acknowledged_checkpoint",
        *("test_an_earlier_step_never_replaces_a_later_one", "test_the_same_step_again_is_the_newer_file"),
        "test_a_result_is_accepted_with_all_that_belongs_to_it",
        "test_a_result_whose_answer_was_lost_may_be_sent_again_and_counts_once",
        "test_a_value_that_is_not_finite_is_refused_and_changes_nothing",
        "test_a_released_trial_waits_again_with_its_checkpoint_at_no_cost",
        "test_the_zombie_story_ends_well",
        # Mutants of the storage, damaged tables.
        "test_a_verb_that_does_not_look_at_the_token_is_caught",
        "test_a_claim_that_looks_first_and_takes_later_is_caught_by_the_audit",
        "test_a_claim_that_does_not_count_attempts_is_caught_by_the_audit",
        "test_a_reaper_that_does_not_count_losses_is_caught_by_the_audit",
        "test_the_audit_sees_a_row_that_was_tampered_with",
        # Heartbeats of searches that connect by themselves.
        *(
            "test_a_search_is_listed_while_it_runs_and_says_goodbye",
            "test_a_drained_worker_finishes_its_trial_claims_no_more_and_ends",
        ),
        "test_a_database_that_does_not_answer_the_heartbeat_does_not_end_a_search",
    }
)

#: Of the registry, where each promotion loads a model, those that show how it travels; of batches, what workers see.
LIGHT = frozenset(
    {
        "test_the_next_study_comes_when_the_one_before_has_nothing_left_to_start",
        "test_a_batch_of_higher_priority_comes_first_and_single_studies_have_none",
        "test_the_first_promotion_makes_a_model_of_the_best_trial",
        "test_a_model_that_is_not_there_is_told_which_are",
        "test_what_json_cannot_say_comes_back_from_a_version_as_it_was",
        "test_a_trial_that_is_not_complete_is_not_promoted",
        "test_a_violated_constraint_refuses",
        "test_two_rollbacks_in_a_row_go_two_back",
    }
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `url`, itself or by another fixture, runs once for each way to reach a database."""
    if "url" in metafunc.fixturenames:
        module, name = metafunc.module.__name__.rpartition(".")[2], metafunc.function.__name__
        over_http = (module in OVER_HTTP and name not in DIRECT) or name in LIGHT
        metafunc.parametrize("url", ["sqlite", "postgresql", *(["http"] if over_http else [])], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind; `Served`: to be reached through a service."""
    found: str = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "sqlite_url")
    return Served(found) if request.param == "http" else found


@pytest.fixture
def lab(url: str, artifacts: Path) -> Iterator[Lab]:
    """An open study on SQLite, on PostgreSQL, and over HTTP. Whatever a test did, its history must be sound."""
    opened = Lab(url, artifacts)
    yield opened
    opened.close()
