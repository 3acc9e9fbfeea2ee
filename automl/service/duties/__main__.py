"""The process that does the duties: `processes.Keeper` starts it, and it ends with whoever started it.

What to do comes as one line of JSON on standard input. When standard input ends, however the other process ended, so
does this one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from automl import wire
from automl.engine import Engine, connect
from automl.service.config import Config
from automl.service.duties import Duty
from automl.service.duties.batches import BatchKeeper
from automl.service.duties.notifier import Notifier
from automl.service.duties.reaper import Reaper
from automl.service.duties.runner import Runner
from automl.service.duties.scheduler import Scheduler
from automl.service.duties.suggesting import Suggesting
from automl.service.duties.sweeper import DAY_S, HOUR_S, Sweeper
from automl.service.duties.verdicts import Judge
from automl.service.processes import STOP_S, Job
from automl.service.refusals import keep_logs_clean

log = logging.getLogger("automl.duties")


def duties_of(engine: Engine, config: Config, holder: str) -> list[Duty]:
    """All that there are."""
    upkeep = config.duties
    return [
        Suggesting(engine, holder, upkeep.lease_s),
        Reaper(engine, upkeep.grace_s),
        Scheduler(engine),
        Judge(engine),
        BatchKeeper(engine),
        Notifier(engine, holder, smtp=config.smtp, public_url=config.service.public_url),
        Sweeper(engine, upkeep.keep_deleted_days * DAY_S, upkeep.keep_answers_hours * HOUR_S),
    ]


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="automl: %(message)s")
    keep_logs_clean()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both processes; the other one says when to end
    signal.signal(signal.SIGTERM, _end)
    job: Job = wire.parse(Job, sys.stdin.buffer.readline())
    engine = connect(job.storage, job.artifacts)
    runner = Runner(engine, duties_of(engine, job.config, job.holder), job.holder, job.config.duties.lease_s)
    runner.start()
    with suppress(SystemExit):
        sys.stdin.buffer.read()
    ended = runner.stop(STOP_S)
    if not ended:
        log.warning("the duties did not end within %.0f s; their leases end by themselves", STOP_S)
    sys.stderr.flush()
    os._exit(0)  # not even a thread in the middle of a long calculation keeps this process


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit


if __name__ == "__main__":
    main()
