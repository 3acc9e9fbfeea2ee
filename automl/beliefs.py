"""What the trials of each study say of points that nobody has tried, kept for whoever asks again.

A posterior takes tens of milliseconds to make and under one to ask; so it is kept until a trial of its study ends. What
it is made of beyond a board, constraints, curves and noted hyperparameters, is read for the few trials that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
from optuna.distributions import json_to_distribution

from automl.board import Board, Curve
from automl.core import StudyRecord
from automl.declaration import Space, StudySpec
from automl.errors import InvalidInput
from automl.search import seen
from automl.search.encoding import Encoding
from automl.search.importance import importances
from automl.search.proposal import Fits
from automl.search.threads import one_thread
from automl.search.transfer import Source, Transfer
from automl.search.what_if import Known, Posterior, require
from automl.storage.distributions import Distributions
from automl.storage.trials import Trials

#: Among so many of the newest trials is one that notes hyperparameters, where the sampler is ours.
NOTED_WITHIN = 64
#: Our own hyperparameters are fitted again when there are this many times the results.
GROWTH = 1.25
#: Studies of which a posterior is kept; each is a few megabytes.
KEPT = 8


@dataclass(frozen=True)
class Readers:
    """Where it is read from what a board does not hold."""

    trials: Trials
    distributions: Distributions
    curves: Callable[[StudyRecord, Sequence[int]], Mapping[int, Curve]]
    sources: Callable[[StudyRecord], Sequence[Source]]


@dataclass
class _Study:
    """What is kept of one study."""

    moment: tuple[float, ...]  #: changes whenever a trial ends, becomes invalid or valid
    space: Space
    results: int = 0  #: when hyperparameters of our own were fitted
    fits: Fits | None = None
    posterior: Posterior | None = None
    importances: Mapping[str, float] | None = None
    transfer: Transfer | None = None


class Beliefs:
    """The posteriors of all studies that were asked about. Thread-safe."""

    def __init__(self, readers: Readers):
        self._readers = readers
        self._lock = RLock()
        self._studies: dict[int, _Study] = {}

    @contextmanager
    def posterior(self, board: Board) -> Iterator[Posterior]:
        """What the trials of `board` say, with one thread for its products: more only get into each other's way.

        Raises `InvalidInput` while there are too few results.
        """
        with self._lock, one_thread():
            require(board)
            kept = self._study(board)
            if kept.posterior is None:
                self._make(board, kept)
            assert kept.posterior is not None
            yield kept.posterior

    def importances(self, board: Board) -> Mapping[str, float]:
        """The share of each parameter, see `search.importance`."""
        with self._lock:
            if self.space(board) is None:
                return {}
            kept = self._study(board)
            if kept.importances is None:
                kept.importances = importances(board, kept.space)
            return kept.importances

    def space(self, board: Board) -> Space | None:
        """The declared space, or what the trials say of it; None before one of them has ended."""
        declared = (board.study.spec or {}).get("space")
        if declared is not None:
            return Space.from_json(declared)
        with self._lock:
            kept = self._studies.get(board.study.id)
            if kept is not None and kept.moment == _moment(board):
                return kept.space
            newest = self._readers.distributions.newest(board.study.id)
            return seen.learnt_space(board, {name: json_to_distribution(body) for name, body in newest.items()})

    def _study(self, board: Board) -> _Study:
        """What is kept of a study, without what is out of date."""
        space, moment = self.space(board), _moment(board)
        if space is None:
            raise InvalidInput(f"study: study {board.study.name!r} has no parameters yet", "study")
        before = self._studies.pop(board.study.id, None)
        if before is None or before.space != space:
            before = _Study(moment, space)
        elif before.moment != moment:
            before = _Study(moment, space, before.results, before.fits, transfer=before.transfer)
        self._studies[board.study.id] = before  # as the newest
        while len(self._studies) > KEPT:
            del self._studies[next(iter(self._studies))]
        return before

    def _make(self, board: Board, kept: _Study) -> None:
        record, encoding = board.study, Encoding.of(kept.space)
        spec = None if record.spec is None else StudySpec.from_json(record.spec)
        if spec is not None and spec.transfer is not None and kept.transfer is None and len(record.directions) == 1:
            kept.transfer = Transfer(encoding, self._readers.sources(record))
        rows = seen.representatives(board, encoding)
        constrained = rows[~np.isnan(board.excess[rows])]
        told = self._readers.trials.of(record.id, numbers=constrained.tolist()) if len(constrained) else []
        judges = seen.judges(board, rows)
        details = seen.Details(
            constraints={trial.number: trial.constraints for trial in told},
            curves=self._readers.curves(record, judges.tolist()) if len(judges) else {},
        )
        results = len(seen.with_result(board))
        own = kept.fits if kept.fits is not None and results <= GROWTH * kept.results else None
        noted = self._noted(board)
        known = Known(details, {**(own or {}), **noted}, None if spec is None else spec.fidelity, kept.transfer)
        kept.posterior = Posterior(board, kept.space, rows, known)
        if own is None:
            kept.results = results
        kept.fits = {name: fit for name, fit in kept.posterior.fits.items() if name not in noted}

    def _noted(self, board: Board) -> Fits:
        """The hyperparameters that our sampler has noted last, of models of the whole space."""
        numbers = range(max(0, len(board) - NOTED_WITHIN), len(board))
        for trial in reversed(self._readers.trials.of(board.study.id, numbers=numbers)):
            noted: Mapping[str, Any] = trial.why.get("fits") or {}
            if noted:
                # Of a long study it has seen a sample of the whole, or a region, of which nothing follows.
                whole = {name.removesuffix(", global"): fit for name, fit in noted.items() if name.endswith(", global")}
                whole |= {name: fit for name, fit in noted.items() if ", " not in name}
                return {name: (np.array(thetas), int(n)) for name, (thetas, n) in whole.items()}
        return {}


def _moment(board: Board) -> tuple[float, ...]:
    finished = board.finished[~np.isnan(board.finished)]
    return float(len(finished)), float(finished.max(initial=0.0)), float(board.invalid.sum()), float(len(board.params))
