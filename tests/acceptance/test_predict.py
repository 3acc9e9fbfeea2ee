"""From a search to predictions, as a user types it: run, promote, predict."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import STUDIES, Desk

PIXELS, LABELS = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def digits(make_desk: MakeDesk) -> Desk:
    """A desk with a promoted model that reads digits, and digits to read."""
    desk = make_desk("predict")
    desk.works("run", STUDIES / "digits.py", "--trials", "2", "--workers", "2")
    desk.works("promote", "digits")
    pixels = PIXELS.astype(np.float32) / 16
    np.save(desk.folder / "digits.npy", pixels)
    frame = pd.DataFrame(pixels, columns=[f"pixel_{i}" for i in range(64)])
    frame.insert(0, "writer", "someone")
    frame.to_csv(desk.folder / "digits.csv", index=False)
    return desk


def accuracy(scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == LABELS).mean())


def test_the_champion_reads_digits_from_any_file(digits: Desk) -> None:
    said = digits.works("predict", "digits@champion", "--input", "digits.npy", "--output", "scores.npy")
    assert said.startswith("1,797 rows in ") and "rows/s" in said and said.count("\n") == 1
    scores = np.load(digits.folder / "scores.npy")
    assert scores.shape == (1797, 10)
    assert accuracy(scores) > 0.5  # two trials find no good network, but one that has learnt

    said = digits.works("predict", "digits", "--input", "digits.csv", "--output", "scores.csv", "--runtime", "torch")
    assert "left out: writer" in said
    frame = pd.read_csv(digits.folder / "scores.csv")
    assert list(frame) == [f"output_{i}" for i in range(10)]
    np.testing.assert_allclose(frame.to_numpy(), scores, rtol=1e-3, atol=1e-4)

    options = ["--batch-size", "100", "--columns", ",".join(f"pixel_{i}" for i in range(64))]
    digits.works("predict", "digits@1", "--input", "digits.csv", "--output", "scores.parquet", *options)
    np.testing.assert_allclose(
        pd.read_parquet(digits.folder / "scores.parquet").to_numpy(), frame, rtol=1e-3, atol=1e-4
    )


def test_python_predicts_the_same(digits: Desk) -> None:
    digits.write(
        "use.py",
        "import automl, numpy\n"
        "predict = automl.load_model('digits@champion')\n"
        "scores = predict(numpy.load('digits.npy').reshape(-1, 1, 8, 8))\n"
        "numpy.save('python.npy', scores)\n"
        "print(predict.version.number, predict)\n",
    )
    done = digits.python("use.py")
    assert done.status == 0, done.err
    assert "digits@1, onnx, float32 (n, 1, 8, 8) -> float32 (n, 10)" in done.out
    assert accuracy(np.load(digits.folder / "python.npy")) > 0.5


MISTAKES = {
    "no such alias": ("digits@nobody --input digits.npy --output y.npy", "nobody"),
    "no such model": ("letters --input digits.npy --output y.npy", "letters"),
    "no such file": ("digits --input nothing.npy --output y.npy", "there is no file nothing.npy"),
    "another kind of file": ("digits --input digits.xlsx --output y.npy", "digits.xlsx is of no known type"),
    "another kind of output": ("digits --input digits.npy --output y.txt", "output: y.txt"),
    "an output that exists": ("digits --input digits.npy --output digits.csv", "--overwrite"),
    "too few columns": ("digits --input digits.csv --output y.npy --columns pixel_0,pixel_1", "2 features"),
    "an unknown column": ("digits --input digits.csv --output y.npy --columns pixel_99", "pixel_99"),
    "a column of text": (
        "digits --input digits.csv --output y.npy --columns writer",
        "not numeric: 'someone' in row 1",
    ),
    "no output": ("digits --input digits.npy", "--output"),
    "another runtime": ("digits --input digits.npy --output y.npy --runtime tf", "tf"),
    "no rows at a time": ("digits --input digits.npy --output y.npy --batch-size 0", "batch-size"),
    "another name": ("digits --input digits.npy --output y.npy --name teacher", "no model 'teacher'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_gets_one_clear_line_and_leaves_nothing(digits: Desk, mistake: str) -> None:
    words, expected = MISTAKES[mistake]
    before = sorted(digits.folder.iterdir())
    done = digits.automl("predict", *words.split())
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("automl: ") and done.err.count("\n") == 1
    assert expected in done.err
    assert sorted(digits.folder.iterdir()) == before


def test_a_damaged_model_predicts_nothing(digits: Desk) -> None:
    (shown,) = [
        Path(file["path"])
        for file in digits.json("show", "digits", "--trial", str(best(digits)))["artifacts"]
        if file["name"] == "model.onnx"
    ]
    shutil.copy(shown, digits.folder / "kept")
    shown.chmod(0o644)
    shown.write_bytes(shown.read_bytes()[:-1] + b"?")
    try:
        done = digits.automl("predict", "digits", "--input", "digits.npy", "--output", "y.npy")
        assert done.status == 2
        assert "sha256" in done.err
        assert not (digits.folder / "y.npy").exists()
    finally:
        (digits.folder / "kept").replace(shown)


def best(desk: Desk) -> int:
    return desk.json("show", "digits")["best"]["number"]
