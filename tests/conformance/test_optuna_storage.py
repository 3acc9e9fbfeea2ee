"""`OptunaStorage` keeps Optuna's contract on both databases."""

from __future__ import annotations

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from automl.storage import OptunaStorage


class TestOptunasContract(StorageTestCase):
    """Every test that Optuna has for a storage."""

    @pytest.fixture
    def storage(self, url: str) -> OptunaStorage:
        return OptunaStorage(url)
