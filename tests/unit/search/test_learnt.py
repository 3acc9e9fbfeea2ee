"""The space that nobody declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl.search.learnt import LearntSpace

MODEL = CategoricalDistribution(["linear", "net"])
NUMBER = FloatDistribution(0.0, 1.0)


def trial(number: int, params: Mapping[str, Any], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    found = create_trial(
        state=state,
        params=dict(params),
        distributions={name: MODEL if name == "model" else NUMBER for name in params},
        value=0.0 if state == TrialState.COMPLETE else None,
    )
    found.number = number
    return found


TREE = [
    trial(0, {"model": "linear", "c": 0.5}),
    trial(1, {"model": "net", "width": 0.5, "rate": 0.1}),
    trial(2, {"model": "net", "width": 0.1}),
]


def test_a_parameter_that_comes_with_one_choice_alone_depends_on_it():
    encoding = LearntSpace().after(TREE)
    assert encoding is not None
    assert encoding.names == ("model", "c", "width", "rate")
    found = {
        name: [(i, u.tolist()) for i, u in held] for name, held in zip(encoding.names, encoding.conditions, strict=True)
    }
    assert found == {"model": [], "c": [(0, [0.25])], "width": [(0, [0.75])], "rate": []}
    assert encoding.sometimes == {"rate"}  # nobody knows when


def test_the_order_in_which_trials_end_does_not_matter():
    late = LearntSpace()
    for one in reversed(TREE):
        late.after([one])
    encoding, at_once = late.after(TREE), LearntSpace().after(TREE)
    assert encoding is not None
    assert at_once is not None
    assert encoding.same_as(at_once)


def test_the_columns_stay_where_they_are_when_another_branch_becomes_more_frequent():
    space = LearntSpace()
    before = space.after(TREE)
    after = space.after([*TREE, *(trial(i, {"model": "linear", "c": 0.1}) for i in range(3, 20))])
    assert before is not None
    assert after is not None
    assert before.names == after.names


def test_a_trial_that_still_asks_says_nothing():
    space = LearntSpace()
    assert space.after([trial(0, {"model": "net"}, TrialState.RUNNING)]) is None
    encoding = space.after([trial(0, {"model": "net"}, TrialState.RUNNING), trial(1, {"model": "net", "width": 0.5})])
    assert encoding is not None
    assert np.array_equal(encoding.is_category, [True, False])
    assert not encoding.sometimes
