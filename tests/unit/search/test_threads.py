"""BLAS threads of a suggestion."""

from __future__ import annotations

import optuna
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from automl.search import BayesianSampler, bayesian


def _blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_a_suggestion_is_made_with_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    propose = bayesian.propose

    def watched(observations: object, request: object) -> object:
        seen.append(_blas_threads())
        return propose(observations, request)  # type: ignore[arg-type]

    monkeypatch.setattr(bayesian, "propose", watched)
    with threadpool_limits(2, user_api="blas"):
        before = _blas_threads()
        study = optuna.create_study(sampler=BayesianSampler(seed=0))
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        assert _blas_threads() == before
    assert 2 in before
    assert seen
    assert all(threads == {1} for threads in seen)
