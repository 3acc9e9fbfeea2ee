"""The default sampler: Optuna's own conformance suite, hostile inputs, and that it is a function of the history."""

from __future__ import annotations

import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from automl.search import BayesianSampler


class TestOptunaContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return BayesianSampler
