"""Models: promote, roll back, list, predict with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from automl.commands.shared import (
    Alias,
    AsJson,
    Name,
    Reason,
    Storage,
    Workers,
    app,
    interruptible,
    open_engine,
    print_json,
    split_names,
)
from automl.errors import InvalidInput, PromotionRefused


@app.command(epilog="Example: automl promote digits --min accuracy=0.97 --reason 'beats the old one'")
def promote(
    name: Name,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", min=0, help="This one, not the best.")] = None,
    alias: Alias = "champion",
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The model; else STUDY.")] = None,
    reason: Reason = None,
    at_least: Annotated[list[str], typer.Option("--min", metavar="METRIC=X", help="A gate: at least this.")] = [],  # noqa: B006
    at_most: Annotated[list[str], typer.Option("--max", metavar="METRIC=X", help="A gate: at most this.")] = [],  # noqa: B006
    check: Annotated[str | None, typer.Option("--check", metavar="FILE.py:FUNCTION", help="A gate in Python.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overrule the gates; needs --reason.")] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="First race the best trials on fresh seeds.")] = False,
    workers: Workers = 1,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Let MODEL@ALIAS name the study's best model, if it passes the gates."""
    from automl.promotion import Options
    from automl.report import print_estimates, print_gates, print_promotion, promotion_json

    engine = open_engine(storage)
    record = engine.study(name)
    options: dict[str, Any] = {"alias": alias, "model": model, "reason": reason, "force": force}
    options |= {"gates": _gates(at_least, at_most), "check": _function(check) if check is not None else None}
    Options(**options)  # a mistake in them is told before minutes of training
    if confirm:
        from automl.confirmation import confirm_study

        with interruptible():
            estimates = confirm_study(engine, record, workers, not as_json)
        if not as_json:
            print_estimates(record, estimates)
    began_at = engine.clock()
    try:
        promotion = engine.promote(record, trial, **options)
    except PromotionRefused as error:
        if as_json:
            print_json({"promoted": False, "gates": [asdict(gate) for gate in error.gates]})
        else:
            print_gates(error.gates)
        raise
    moved = promotion.at >= began_at
    if as_json:
        print_json({"promoted": moved, **promotion_json(promotion)})
    else:
        print_promotion(engine, promotion, moved=moved)


@app.command(epilog="Example: automl rollback digits --reason 'slow on the new machines'")
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    alias: Alias = "champion",
    reason: Reason = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Let MODEL@ALIAS name what it named before; again: what it named before that."""
    from automl.report import print_promotion, promotion_json

    engine = open_engine(storage)
    promotion = engine.rollback(model, alias, reason=reason)
    if as_json:
        print_json(promotion_json(promotion))
    else:
        print_promotion(engine, promotion, moved=True)


@app.command(epilog="Example: automl models digits")
def models(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Show this one.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """List the models that were promoted, or the versions, aliases and history of one."""
    from automl.report import model_json, model_table, print_model

    engine = open_engine(storage)
    if model is None and as_json:
        print_json([asdict(found) for found in engine.models()])
    elif model is None:
        model_table(engine.models())
    elif as_json:
        print_json(model_json(engine, model))
    else:
        print_model(engine, model)


@app.command(epilog="Example: automl predict digits@champion --input images.npy --output scores.csv")
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL[@ALIAS]", help="As digits, digits@champion or digits@3.")],
    source: Annotated[Path, typer.Option("--input", metavar="FILE", help="Rows: .npy, .csv or .parquet.")],
    target: Annotated[Path, typer.Option("--output", metavar="FILE", help="Likewise: the model's raw outputs.")],
    columns: Annotated[str, typer.Option("--columns", metavar="A,B", help="The features; else all of numbers.")] = "",
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", min=1, help="Rows at a time.")] = None,
    runtime: Annotated[Literal["auto", "onnx", "torch"], typer.Option("--runtime", help="What runs it.")] = "auto",
    name: Annotated[str, typer.Option("--name", help="Which model, where a trial saved several.")] = "model",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    storage: Storage = None,
) -> None:
    """Predict each row of a file with a model version."""
    from automl.serving.batch import check_files, predict_file, progress_bar
    from automl.serving.predictor import load_model

    check_files(source, target, overwrite=overwrite)
    predictor = load_model(model, storage, runtime=runtime, name=name, batch_size=batch_size)
    with progress_bar(sys.stderr) as watch:
        done = predict_file(predictor, source, target, columns=split_names(columns), overwrite=overwrite, watch=watch)
    print(done)


def _gates(at_least: list[str], at_most: list[str]) -> dict[str, dict[str, float]]:
    """`--min accuracy=0.97 --max latency_ms=20` as the bounds of metrics."""
    gates: dict[str, dict[str, float]] = {}
    for side, given in (("min", at_least), ("max", at_most)):
        for text in given:
            name, _, bound = text.rpartition("=")
            try:
                gates.setdefault(name, {})[side] = float(bound)
            except ValueError:
                name = ""
            if not name:
                raise InvalidInput(f"--{side}: {text!r}; write it as accuracy=0.97", field=side)
    return gates


def _function(target: str) -> Callable[[Any], object]:
    """What FILE.py:FUNCTION names. Raises `InvalidInput`."""
    import runpy

    path, _, name = target.rpartition(":")
    if not Path(path).is_file():
        raise InvalidInput(f"--check: {target!r}: there is no file {path!r}; write FILE.py:FUNCTION", field="check")
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        found = runpy.run_path(path).get(name)
    except Exception as error:  # the file is the user's
        raise InvalidInput(f"--check: {path} raised {type(error).__name__}: {error}", field="check") from error
    if not callable(found):
        raise InvalidInput(f"--check: {path} has no function {name!r}; name one of its own", field="check")
    return found
