"""Mathematics of the search: spaces, samplers, pruners, suggestions. No I/O, no clock, no storage."""

from automl.search.bayesian import BayesianSampler
from automl.search.grid import GridExhausted, GridSampler
from automl.search.history import History
from automl.search.independent import independent
from automl.search.pruners import make_pruner, should_prune
from automl.search.samplers import make_sampler, reseed
from automl.search.skopt_sampler import SkoptSampler
from automl.search.space import from_distribution, from_unit, to_distribution, to_distributions, to_unit
from automl.search.suggest import Suggestion, suggest

__all__ = [
    "BayesianSampler",
    "GridExhausted",
    "GridSampler",
    "History",
    "SkoptSampler",
    "Suggestion",
    "from_distribution",
    "from_unit",
    "independent",
    "make_pruner",
    "make_sampler",
    "reseed",
    "should_prune",
    "suggest",
    "to_distribution",
    "to_distributions",
    "to_unit",
]
