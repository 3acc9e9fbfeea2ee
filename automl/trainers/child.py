"""The process of one attempt: forked from the template, it runs the training function and tells what came of it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from automl.core import Failure, FailureKind, Outcome, TrialState
from automl.errors import AutoMLError
from automl.trainers import wire
from automl.trainers.context import Ledger, Trial
from automl.trainers.failures import (
    BadResult,
    Interrupted,
    NonFinite,
    Pruned,
    constraint_values,
    failure_of,
    is_optuna_pruned,
    result_values,
)
from automl.trainers.link import Link, SocketLink
from automl.trainers.suggestions import Suggestions

#: The exit status when this module itself failed: sysexits.h's EX_SOFTWARE.
_INTERNAL_ERROR = 70
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run(declared: Any, job: wire.Job, connection: socket.socket, log_fd: int) -> NoReturn:
    """Be the process of a trial: run it, send its result over `connection`, and exit.

    Called right after the fork. It never returns into the template's code, whatever happens.
    """
    status = _INTERNAL_ERROR
    try:
        _redirect(log_fd)
        _take_resources(job)
        seed_everything(job.seed)
        link = SocketLink(connection, on_lost=_end_group)
        link.send(_exported(job.export) if job.export is not None else attempt(declared, job, link))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # No atexit handlers: those registered in the template belong to the template, and must not run per trial.
        _flush()
        os._exit(status)


def attempt(declared: Any, job: wire.Job, link: Link) -> wire.Done | wire.Failed | wire.Interrupted:
    """Run the function of `declared` that the job names once, and say how it ended. Reports go out over `link`."""
    ledger = Ledger()
    suggestions = Suggestions(job, declared=declared.spec.space is not None)
    result, raised = None, None
    try:
        function = declared.evaluate if job.held_out else declared.train
        result = function(Trial(job, link, suggestions, ledger))
    except BaseException as error:  # SystemExit and KeyboardInterrupt of user code are its failures too
        raised = error
    # What `trial` raised into the function counts, even if an `except:` or a `finally: return` swallowed it.
    ended = ledger.ended or raised
    if isinstance(ended, Interrupted):
        return wire.Interrupted()
    if isinstance(ended, Pruned) or is_optuna_pruned(ended):
        return wire.Done(_outcome(TrialState.PRUNED, _last_value(ledger), {}, job, ledger, suggestions))
    if ended is None:
        try:
            values, metrics = _values(result, ledger, list(job.metrics))
            state = TrialState.PRUNED if ledger.told_to_prune else TrialState.COMPLETE
            return wire.Done(_outcome(state, values, metrics, job, ledger, suggestions))
        except (BadResult, NonFinite) as error:
            ended = error
    failure = failure_of(ended)
    print(failure.traceback or failure.message, file=sys.stderr)
    return wire.Failed(failure)


def _exported(folder: str) -> wire.Done | wire.Failed:
    """Make the ONNX file of a saved model, here, where the classes of the study's own file are at hand."""
    from automl.trainers.models import export_onnx

    try:
        export_onnx(folder)
    except AutoMLError as error:
        return wire.Failed(Failure(FailureKind.ERROR, str(error)))
    return wire.Done(Outcome(TrialState.COMPLETE, None))


def _values(result: Any, ledger: Ledger, metrics: list[str]) -> tuple[tuple[float, ...] | None, Mapping[str, float]]:
    try:
        return result_values(result, metrics)
    except BadResult:
        if ledger.told_to_prune:  # `if trial.should_prune(): return` is a fair way to end
            return _last_value(ledger), {}
        raise


def _last_value(ledger: Ledger) -> tuple[float, ...] | None:
    return None if ledger.last_value is None else (ledger.last_value,)


def _outcome(
    state: TrialState,
    values: tuple[float, ...] | None,
    metrics: Mapping[str, float],
    job: wire.Job,
    ledger: Ledger,
    suggestions: Suggestions,
) -> Outcome:
    """`metrics` are the further ones that were returned; what was only reported counts as last reported.

    Raises `BadResult`, `NonFinite` when a complete trial leaves a declared constraint unknown.
    """
    params, distributions = suggestions.found
    further = {**ledger.metrics, **metrics}
    objectives = dict(zip(job.metrics, values or (), strict=False))  # of a pruned trial at most the first is known
    complete = state is TrialState.COMPLETE and not job.held_out  # which says what it likes beside the metric
    # What the function said itself, by the name of a declared constraint, needs no metric.
    bounds = {name: bound for name, bound in job.constraints.items() if name not in ledger.constraints}
    declared = constraint_values(bounds, {**ledger.facts, **further, **objectives}, complete=complete)
    return Outcome(
        state,
        values,
        further,
        params,
        distributions,
        tuple(ledger.artifacts.values()),
        ledger.facts,
        {**declared, **ledger.constraints},
    )


def _redirect(log_fd: int) -> None:
    """Send what the trial prints, and what its libraries and subprocesses print, to its log."""
    for stream in (1, 2):
        os.dup2(log_fd, stream)
    os.close(log_fd)
    sys.stdout, sys.stderr = (
        os.fdopen(stream, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        for stream in (1, 2)
    )
    faulthandler.enable(sys.stderr)  # a segmentation fault then leaves its stack in the log


def _take_resources(job: wire.Job) -> None:
    """Show the trial its GPUs and no others, and give its libraries as many threads as it has CPUs."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.gpus)
    for name in _THREADS:
        os.environ[name] = str(job.cpus)  # for subprocesses, and for libraries that are imported from here on
    if job.cpus == 1:
        return  # what the template started with
    if "numpy" in sys.modules or "torch" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(job.cpus)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.cpus)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python and of NumPy and torch, where the study imported them."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _end_group() -> None:
    """The supervisor is gone: end, with every process that the trial started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have closed or replaced them
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # os._exit skips the C library's buffers
