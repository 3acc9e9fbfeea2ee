"""Search for a network that reads handwritten digits: the example to begin with.

    automl run studies/digits.py --workers 2

The data are scikit-learn's 1797 real digits, 8x8 pixels each, so nothing is downloaded. A trial trains a small
convolutional network for up to 12 epochs, a second or two on one CPU. Thirty trials find one that reads about
99 % of the digits that it never saw.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F  # noqa: N812

import automl
from automl import Budget, Choice, Fidelity, Float, Int, Resources, Study

EPOCHS = 12

# Loaded when the file is imported: a worker imports it once and forks each trial from there, data included.
# The split is the same for every trial (random_state, not trial.seed): all are asked the same questions, so a
# higher accuracy is a better network and not an easier third of the digits.
digits = load_digits()
images = (digits.images / 16.0).astype("float32")[:, None]  # (1797, 1, 8, 8), pixels in [0, 1]
split = train_test_split(images, digits.target, test_size=0.3, stratify=digits.target, random_state=0)
train_x, valid_x, train_y, valid_y = (torch.from_numpy(part) for part in split)


def build_model(width: int, dropout: float) -> nn.Module:
    """Two convolutions of `width` and `2 * width` channels, then one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 8x8 -> 4x4
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 4x4 -> 2x2
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width * 4, 10),
    )


def build_optimizer(model: nn.Module, p: dict) -> torch.optim.Optimizer:
    if p["optimizer"] == "sgd":  # only then is there a p["momentum"]: see the space below
        return torch.optim.SGD(model.parameters(), p["lr"], p["momentum"], weight_decay=p["weight_decay"])
    return torch.optim.AdamW(model.parameters(), p["lr"], weight_decay=p["weight_decay"])


@torch.no_grad()
def evaluate(model: nn.Module) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean loss (nats) on the digits that the model never trained on."""
    model.eval()
    logits = model(valid_x)
    accuracy = (logits.argmax(dim=1) == valid_y).float().mean()
    return accuracy.item(), F.cross_entropy(logits, valid_y).item()


def train(trial: automl.Trial) -> float:
    p = trial.params
    torch.manual_seed(trial.seed)  # the first weights, and dropout: a trial can be repeated exactly
    model = build_model(p["width"], p["dropout"])
    optimizer = build_optimizer(model, p)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)

    # steps() hands out the epochs still to do. It checkpoints what it is given, so that a trial which was paused,
    # or whose machine died, goes on from its last epoch; and it ends a trial that falls behind the others.
    for epoch in trial.steps(model=model, optimizer=optimizer, scheduler=scheduler):
        model.train()
        for batch in torch.randperm(len(train_x)).split(p["batch_size"]):
            loss = F.cross_entropy(model(train_x[batch]), train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()

        accuracy, valid_loss = evaluate(model)
        trial.report(accuracy, step=epoch, loss=valid_loss)  # the objective, then anything else worth a curve

    trial.save_model(model, example_input=valid_x[:8])
    return evaluate(model)[0]


study = Study(
    name="digits",
    train=train,
    space={
        "lr": Float(1e-4, 1e-1, log=True),
        "width": Int(4, 32, log=True),
        "dropout": Float(0.0, 0.6),
        "batch_size": Choice(32, 64, 128),
        "weight_decay": Float(1e-6, 1e-1, log=True),
        "optimizer": Choice("sgd", "adamw"),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),  # AdamW has none
    },
    metrics={"accuracy": "max"},
    budget=Budget(trials=30),
    fidelity=Fidelity("epoch", min=1, max=EPOCHS),
    resources=Resources(cpus=1),
)

if __name__ == "__main__":
    result = study.run(workers=2)
    print(f"best accuracy {result.best_value:.4f} with {result.best_params}")
