"""Real training: which model of scikit-learn, and with which parameters, on data that it carries.

The value is the error of a cross-validation with fixed folds and seeds, so equal configurations have equal values.
A configuration names a model and has that model's parameters, and preprocessing with a parameter of its own.
Some tens of milliseconds an evaluation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from problem import Config, Param, Problem
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

FOLDS = 3
#: Digits has 1,797 rows; this many keep an evaluation short.
MAX_ROWS = 500

C = Param("C", "float", 1e-3, 1e3, log=True)
GAMMA = Param("gamma", "float", 1e-5, 10.0, log=True)
DEPTH = Param("max_depth", "int", 1, 16)
SHARE = Param("max_features", "float", 0.05, 1.0)
TREES = Param("n_estimators", "int", 2, 20)
BOOSTING = (
    Param("n_estimators", "int", 5, 30),
    Param("learning_rate", "float", 1e-2, 1.0, log=True),
    Param("max_depth", "int", 1, 4),
    Param("subsample", "float", 0.3, 1.0),
)
NEIGHBOURS = (
    Param("n_neighbors", "int", 1, 50, log=True),
    Param("weights", "cat", choices=("uniform", "distance")),
    Param("p", "float", 1.0, 4.0),
)
NETWORK = (
    Param("hidden_layer_sizes", "int", 2, 32, log=True),
    Param("alpha", "float", 1e-5, 10.0, log=True),
    Param("learning_rate_init", "float", 1e-4, 1e-1, log=True),
    Param("max_iter", "int", 5, 40, log=True),
)

#: Name -> the class, its parameters, and what is fixed.
MODELS: dict[str, tuple[Callable[..., Any], tuple[Param, ...], dict[str, Any]]] = {
    "logistic": (LogisticRegression, (C,), {"max_iter": 100}),
    "svm": (SVC, (C, GAMMA), {}),
    "forest": (RandomForestClassifier, (TREES, DEPTH, SHARE), {"random_state": 0}),
    "boosting": (GradientBoostingClassifier, BOOSTING, {"random_state": 0}),
    "neighbours": (KNeighborsClassifier, NEIGHBOURS, {}),
    "network": (MLPClassifier, NETWORK, {"random_state": 0}),
    "quadratic": (QuadraticDiscriminantAnalysis, (Param("reg_param", "float", 1e-4, 1.0, log=True),), {}),
    "ridge": (Ridge, (Param("alpha", "float", 1e-4, 1e3, log=True),), {}),
    "svr": (SVR, (replace(C, high=1e4), GAMMA, Param("epsilon", "float", 1e-2, 50.0, log=True)), {}),
    "forest_r": (RandomForestRegressor, (TREES, DEPTH, SHARE), {"random_state": 0}),
    "boosting_r": (GradientBoostingRegressor, BOOSTING, {"random_state": 0}),
    "neighbours_r": (KNeighborsRegressor, NEIGHBOURS, {}),
}


@dataclass(frozen=True)
class Data:
    """A data set, what is scored on it, and the models to choose from."""

    load: Callable[..., tuple[Any, Any]]
    scoring: str
    models: tuple[str, ...]
    max_components: int  #: of the principal components


DATA = {
    "digits": Data(datasets.load_digits, "accuracy", ("logistic", "svm", "forest", "neighbours"), 40),
    "breast_cancer": Data(
        datasets.load_breast_cancer, "neg_log_loss", ("logistic", "forest", "boosting", "network"), 20
    ),
    "wine": Data(datasets.load_wine, "neg_log_loss", ("logistic", "forest", "network", "quadratic", "neighbours"), 12),
    "diabetes": Data(
        datasets.load_diabetes,
        "neg_root_mean_squared_error",
        ("ridge", "svr", "forest_r", "boosting_r", "neighbours_r"),
        9,
    ),
}


def make(data: str, name: str) -> Problem:
    """`data` is a key of DATA."""
    chosen = DATA[data]
    x, y = chosen.load(return_X_y=True)
    x, y = x[:MAX_ROWS], y[:MAX_ROWS]
    splits = (KFold if "squared" in chosen.scoring else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)

    def error(config: Config) -> float:
        steps = [] if config["scale"] == "no" else [StandardScaler()]
        if config["reduce"] == "pca":
            steps.append(PCA(config["pca.n_components"], random_state=0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # models that have not converged, and collinear columns
            scores = cross_val_score(make_pipeline(*steps, _model(config)), x, y, scoring=chosen.scoring, cv=splits)
        return float(1.0 - scores.mean() if chosen.scoring == "accuracy" else -scores.mean())

    return Problem(name, _params(chosen), error)


def _params(data: Data) -> tuple[Param, ...]:
    own = [
        replace(p, name=f"{model}.{p.name}", when=("model", (model,)))
        for model in data.models
        for p in MODELS[model][1]
    ]
    return (
        Param("model", "cat", choices=data.models),
        Param("scale", "cat", choices=("no", "standard")),
        Param("reduce", "cat", choices=("no", "pca")),
        Param("pca.n_components", "int", 2, data.max_components, when=("reduce", ("pca",))),
        *own,
    )


def _model(config: Config) -> Any:
    model = config["model"]
    build, params, fixed = MODELS[model]
    return build(**{p.name: config[f"{model}.{p.name}"] for p in params}, **fixed)
