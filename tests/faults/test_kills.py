"""kill -9, SIGSTOP, SIGTERM, Ctrl-C and a database that goes away: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import sqlalchemy as sa

from automl.core import MAX_LOSSES, TrialState
from automl.storage.database import Database
from automl.storage.tables import report, trial
from tests.faults.theatre import DEADLINE_S, LEASE_S, Theatre, has_ended, theatre
from tests.postgres import PostgresServer

#: Python that takes the fence away: as in most job queues, the trial's id and state are all that is looked at, and a
#: worker is never told that its lease is over.
WITHOUT_THE_FENCE = """
import sqlalchemy as sa
from automl.storage import leases
from automl.storage.tables import event, trial
claimed = sa.select(event.c.trial_id).where(event.c.token == sa.bindparam("held"), event.c.cause == "claimed")
leases._HELD = sa.and_(trial.c.id == claimed.scalar_subquery(), trial.c.state == "running")
leases.Leases.renew = lambda self, tokens, lease_s: frozenset(tokens)
"""

#: Python that gives a trial which is told to stop all the time that it needs for its step.
GENEROUS = "from automl.trainers import supervisor; supervisor.GRACE_S = 30.0"

_REPORTS = (
    sa.select(report.c.step, report.c.attempt)
    .join(trial, trial.c.id == report.c.trial_id)
    .where(trial.c.number == sa.bindparam("number"))
)


def test_the_trial_of_a_worker_that_was_killed_is_taken_over_in_time(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path) as play:
        play.hold()
        play.submit()
        victim = play.worker()
        play.until("a trial runs", play.running)
        play.worker()
        play.until("the other worker has one, too", lambda: play.running(2))
        orphans = play.trial_processes(victim)
        killed_at = play.engine.clock()
        os.kill(victim.pid, signal.SIGKILL)
        lost = play.until("it is lost", lambda: [m for m in play.moves(0) if m["cause"] == "lost"])
        assert lost[0]["at"] - killed_at <= LEASE_S + 5.0  # a second, and what a busy machine takes
        assert orphans and all(map(has_ended, orphans)), "a killed worker's trial trains on"
        play.let_go()
        play.until("the study is over", play.is_over)
        assert play.problems() == []
        assert play.trial(0).attempt == 2
        assert play.causes().count("lost") == 1


def test_a_trial_whose_process_was_killed_is_tried_again(sqlite_url: str, tmp_path: Path) -> None:
    with theatre(sqlite_url, tmp_path) as play:
        play.hold()
        process = play.run(workers=1)
        play.until("a trial runs", play.running)
        (child,) = play.trial_processes(process)
        child.kill()
        play.let_go()
        assert process.wait(DEADLINE_S) == 0
        assert play.problems() == []
        assert [move["cause"] for move in play.moves(0)] == ["suggested", "claimed", "lost", "claimed", "complete"]


def test_a_template_that_was_killed_is_started_again(sqlite_url: str, tmp_path: Path) -> None:
    with theatre(sqlite_url, tmp_path) as play:
        play.hold()
        process = play.run()
        play.until("two trials run", lambda: play.running(2))
        (template,) = psutil.Process(process.pid).children()
        template.kill()
        play.let_go()
        assert process.wait(DEADLINE_S) == 0, play.said()
        assert play.problems() == []
        assert play.causes().count("lost") == 2


def test_a_search_that_is_killed_again_and_again_comes_to_its_end(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path, trials=12) as play:
        for kill in range(MAX_LOSSES - 1):
            process = play.run()
            play.until("it has come further", lambda kill=kill: play.complete() > 2 * kill)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            process.wait(DEADLINE_S)
        assert play.run().wait(DEADLINE_S) == 0, play.said()
        assert play.problems() == []


def test_a_search_that_was_killed_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path, trials=6) as play:
        first = play.run()
        play.until("some trials are complete", lambda: play.complete() >= 2)
        play.hold()
        play.until("two are under way", lambda: play.running(2) or play.is_over())
        assert not play.is_over()
        orphans = play.trial_processes(first)
        os.kill(first.pid, signal.SIGKILL)
        play.until("its trials end with it", lambda: all(map(has_ended, orphans)))
        play.let_go()
        assert play.run().wait(DEADLINE_S) == 0
        assert play.problems() == []
        assert play.causes().count("lost") == 2


def test_a_worker_that_slept_past_its_lease_is_not_heard(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path, trials=3) as play:
        play_a_sleeper(play, before="")
        assert play.problems() == []
        assert play.trial(0).attempt == 2


def test_the_checks_notice_a_worker_that_is_heard_after_its_lease(postgres_url: str, tmp_path: Path) -> None:
    with theatre(postgres_url, tmp_path, trials=3) as play:
        play_a_sleeper(play, before=WITHOUT_THE_FENCE)
        found = play.problems()
        assert any("its result came from lease" in line for line in found), found


def play_a_sleeper(play: Theatre, before: str) -> None:
    """A worker is stopped in mid-trial, another one takes over, and the first wakes up with a result in its hands."""
    play.hold()
    play.submit()
    sleeper = play.worker(before)
    play.until("a trial runs", play.running)
    (child,) = play.trial_processes(sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    play.let_go(attempt=1)
    play.until("the sleeper's trial is through", lambda: has_ended(child))
    play.worker()
    play.until("another has taken over", lambda: play.trial(0).attempt == 2 and play.running())
    sleeper.send_signal(signal.SIGCONT)
    # The next trial in the sleeper's slot is the sign that it has said all that it had to say about this one.
    play.until("the sleeper has gone on", lambda: len(play.all()) > 1 and play.trial(1).attempt == 1)
    play.let_go()
    play.until("the study is over", play.is_over)


def test_a_worker_that_is_told_to_end_hands_its_trials_back_with_their_checkpoints(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path, trials=2, checkpoints=True) as play:
        play.hold()
        play.submit()
        worker = play.start("worker", "--workers", "2", before=GENEROUS)
        play.until("two trials run", lambda: play.running(2))
        play.let_go(attempt=1)  # they are in the middle of a step, and the step ends
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_S) == 0
        for number in range(2):
            trial, last = play.trial(number), play.moves(number)[-1]
            assert (trial.state, last["cause"]) == (TrialState.WAITING, "preempted"), play.said()
            assert last["checkpoint_step"] is not None and last["checkpoint_step"] >= 3
        assert play.start("worker", "--exit-when-idle").wait(DEADLINE_S) == 0
        assert play.problems() == []


def test_a_search_that_was_interrupted_resumes_at_its_checkpoints(url: str, tmp_path: Path) -> None:
    with theatre(url, tmp_path, trials=3, checkpoints=True) as play:
        play.hold()
        first = play.start("run", str(play.file), "--workers", "2", before=GENEROUS)
        play.until("two trials run", lambda: play.running(2))
        play.let_go(attempt=1)
        first.send_signal(signal.SIGINT)
        assert first.wait(DEADLINE_S) == 130
        left = {trial.number: play.moves(trial.number)[-1] for trial in play.all() if trial.attempt}
        assert {move["cause"] for move in left.values()} == {"preempted"}, play.said()
        play.let_go()
        assert play.run().wait(DEADLINE_S) == 0
        assert play.problems() == []
        for number, move in left.items():
            # Steps that the checkpoint holds were not done again: their reports are the first attempt's.
            rows = play.engine.database.all(_REPORTS, {"number": number})
            assert {row.attempt for row in rows if row.step <= move["checkpoint_step"]} == {1}
            assert {row.attempt for row in rows if row.step > move["checkpoint_step"]} == {2}


def test_a_database_that_goes_away_for_a_while_costs_no_trial(tmp_path: Path) -> None:
    # Durable: with fsync off, as the other tests' server has it, a crash may take commits with it.
    with PostgresServer(durable=True) as server, theatre(server.create_database(), tmp_path, trials=6) as play:
        search = play.run()
        play.until("trials are under way", lambda: play.complete() >= 1)
        play.hold()
        play.until("two are in the middle", lambda: play.running(2))
        server.stop("immediate")  # as if the machine had lost power
        play.let_go()
        # More renewals fail than fit into a lease; meanwhile the trials have come to their ends.
        play.until("the outage outlasts a lease", lambda: play.said().count("leases not renewed") >= 5)
        assert search.poll() is None
        server.start()
        assert search.wait(DEADLINE_S) == 0, play.said()
        assert play.problems() == []
        assert not {"lost", "poison", "preempted"} & set(play.causes())
        assert {trial.attempt for trial in play.all()} == {1}


def test_a_database_that_refuses_connections_for_a_while_costs_no_trial(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    # As in a long recovery or behind a broken network: the server's own uptime says nothing about the outage.
    name = postgres_url.rsplit("/", 1)[1]
    admin = Database(postgres.url("postgres"))
    with theatre(postgres_url, tmp_path, trials=4) as play:
        play.hold()
        search = play.run()
        play.until("two are in the middle", lambda: play.running(2))
        admin.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        admin.all(sa.text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        play.let_go()
        play.until("the outage outlasts a lease", lambda: play.said().count("leases not renewed") >= 5)
        admin.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        assert search.wait(DEADLINE_S) == 0, play.said()
        assert play.problems() == []
        assert {trial.attempt for trial in play.all()} == {1}
    admin.close()
