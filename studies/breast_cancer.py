"""Search over four families of classifiers at once: what to do with a table of numbers.

    automl run studies/breast_cancer.py --workers 2

569 real tumours, 30 measurements each (scikit-learn's breast_cancer). The first parameter is the family; every
other one belongs to one family and exists only where that family was chosen. The score is the log loss (nats,
lower is better) under 5-fold cross-validation: with so few rows accuracy moves in jumps of 0.2 %, and a
doctor needs the probability more than the verdict.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F  # noqa: N812

import automl
from automl import Budget, Choice, Float, Int, Study

table, labels = load_breast_cancer(return_X_y=True)  # (569, 30) and (569,): 1 is benign
# The same five folds for every trial: the scores differ by the model, not by the luck of the split.
folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(table, labels))


class TorchMLP:
    """One hidden layer behind scikit-learn's two verbs, trained on all rows at once."""

    def __init__(self, width: int, lr: float, weight_decay: float, seed: int):
        self.width, self.lr, self.weight_decay, self.seed = width, lr, weight_decay, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> TorchMLP:
        torch.manual_seed(self.seed)
        self.net = nn.Sequential(nn.Linear(x.shape[1], self.width), nn.ReLU(), nn.Linear(self.width, 1))
        optimizer = torch.optim.AdamW(self.net.parameters(), self.lr, weight_decay=self.weight_decay)
        inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
        for _ in range(100):
            loss = F.binary_cross_entropy_with_logits(self.net(inputs).squeeze(1), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self

    @torch.no_grad()
    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        benign = torch.sigmoid(self.net(torch.tensor(x, dtype=torch.float32)).squeeze(1)).numpy()
        return np.column_stack([1 - benign, benign])


def build_classifier(p: dict, seed: int):
    """The chosen family with its own parameters; the other families' are not in `p` at all."""
    match p["family"]:
        case "logistic":
            # The "saga" solver knows the whole range from ridge (l1_ratio 0) to lasso (1).
            return LogisticRegression(C=p["C"], l1_ratio=p["l1_ratio"], solver="saga", max_iter=300, random_state=seed)
        case "forest":
            return RandomForestClassifier(
                n_estimators=60,
                max_depth=p["forest_depth"],
                max_features=p["max_features"],
                min_samples_leaf=p["min_samples_leaf"],
                n_jobs=1,  # the parallelism is between trials
                random_state=seed,
            )
        case "boosting":
            return GradientBoostingClassifier(
                n_estimators=p["rounds"],
                learning_rate=p["boosting_lr"],
                max_depth=p["boosting_depth"],
                subsample=0.7,
                max_features="sqrt",
                random_state=seed,
            )
        case "mlp":
            return TorchMLP(p["width"], p["mlp_lr"], p["weight_decay"], seed)


def train(trial: automl.Trial) -> float:
    losses, accuracies, areas = [], [], []
    for fold, (fit_rows, test_rows) in enumerate(folds, start=1):
        # Scaled inside the fold: the test rows' mean must not leak into the training.
        scaler = StandardScaler().fit(table[fit_rows])
        model = build_classifier(trial.params, trial.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fit cut short is scored as it is
            model.fit(scaler.transform(table[fit_rows]), labels[fit_rows])
        benign = model.predict_proba(scaler.transform(table[test_rows]))[:, 1]

        losses.append(log_loss(labels[test_rows], benign))
        accuracies.append(accuracy_score(labels[test_rows], benign > 0.5))
        areas.append(roc_auc_score(labels[test_rows], benign))
        # The mean so far is the objective; accuracy and AUC are recorded next to it.
        trial.report(
            float(np.mean(losses)),
            step=fold,
            accuracy=float(np.mean(accuracies)),
            auc=float(np.mean(areas)),
        )
    return float(np.mean(losses))


study = Study(
    name="breast_cancer",
    train=train,
    space={
        "family": Choice("logistic", "forest", "boosting", "mlp"),
        # logistic regression
        "C": Float(1e-3, 1e2, log=True, when={"family": "logistic"}),
        "l1_ratio": Float(0.0, 1.0, when={"family": "logistic"}),
        # random forest
        "forest_depth": Int(2, 12, when={"family": "forest"}),
        "max_features": Float(0.05, 1.0, when={"family": "forest"}),
        "min_samples_leaf": Int(1, 20, log=True, when={"family": "forest"}),
        # gradient boosting
        "rounds": Int(20, 200, log=True, when={"family": "boosting"}),
        "boosting_lr": Float(0.01, 0.5, log=True, when={"family": "boosting"}),
        "boosting_depth": Int(1, 4, when={"family": "boosting"}),
        # neural network
        "width": Int(4, 128, log=True, when={"family": "mlp"}),
        "mlp_lr": Float(1e-3, 1e-1, log=True, when={"family": "mlp"}),
        "weight_decay": Float(1e-4, 1.0, log=True, when={"family": "mlp"}),
    },
    metrics={"log_loss": "min"},
    budget=Budget(trials=25),
)

if __name__ == "__main__":
    result = study.run(workers=2)
    print(f"best log loss {result.best_value:.4f} with {result.best_params}")
