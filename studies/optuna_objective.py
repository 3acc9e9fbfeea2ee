"""An ordinary Optuna program. Nothing in it knows of automl, and automl runs it as it is:

    automl run studies/optuna_objective.py --direction maximize --trials 20

Plain Optuna runs it too: `python studies/optuna_objective.py`. It asks for parameters while it runs, other ones
in each branch; one branch trains in epochs and lets itself be pruned. The value is the accuracy on a fixed
third of scikit-learn's digits.
"""

from __future__ import annotations

import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

x, y = load_digits(return_X_y=True)
train_x, valid_x, train_y, valid_y = train_test_split(x / 16.0, y, test_size=0.33, stratify=y, random_state=0)


def objective(trial: optuna.Trial) -> float:
    classifier = trial.suggest_categorical("classifier", ["svm", "linear"])
    if classifier == "svm":
        model = SVC(
            C=trial.suggest_float("C", 1e-2, 1e3, log=True),
            gamma=trial.suggest_float("gamma", 1e-4, 1e0, log=True),
        )
        model.fit(train_x, train_y)
        trial.set_user_attr("support_vectors", int(model.n_support_.sum()))
        return model.score(valid_x, valid_y)

    model = SGDClassifier(
        loss=trial.suggest_categorical("loss", ["hinge", "log_loss", "modified_huber"]),
        alpha=trial.suggest_float("alpha", 1e-6, 1e-1, log=True),
        learning_rate="constant",
        eta0=trial.suggest_float("eta0", 1e-4, 1e0, log=True),
        random_state=0,
    )
    for epoch in range(1, 21):
        model.partial_fit(train_x, train_y, classes=np.unique(y))
        accuracy = model.score(valid_x, valid_y)
        trial.report(accuracy, step=epoch)
        if trial.should_prune():
            trial.set_user_attr("pruned_at_epoch", epoch)
            raise optuna.TrialPruned()
    trial.set_user_attr("weights", int(model.coef_.size))
    return accuracy


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_warmup_steps=3))
    study.optimize(objective, n_trials=20)
    print(f"best accuracy {study.best_value:.4f} with {study.best_params}")
