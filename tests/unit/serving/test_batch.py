"""Predictions for whole files: every format gives the same, every wrong file is refused, nothing is half-written."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import nn

from automl.errors import InvalidInput
from automl.serving import Predictor, open_model
from automl.serving.batch import predict_file, progress_bar
from automl.serving.files import read_pieces
from tests.unit.serving.zoo import FEATURES, saved

ROOT = Path(__file__).parents[3]
NAMES = [f"f{i}" for i in range(FEATURES)]
X = np.random.default_rng(0).normal(size=(50, FEATURES)).astype(np.float32)


@pytest.fixture
def predict(plain: Path) -> Predictor:
    return open_model(plain, batch_size=7)


def write(path: Path, x: np.ndarray = X, **more: Any) -> Path:
    frame = pd.DataFrame(x.reshape(len(x), -1), columns=NAMES[: x.shape[1]])
    for name, values in more.items():
        frame.insert(0, name, values)
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        parquet.write_table(pa.table(frame), path, row_group_size=20)
    return path


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    return (pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)).to_numpy()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven rows at a time, so that 50 are read in several pieces, the last of them smaller."""
    monkeypatch.setattr("automl.serving.batch._PIECE_ROWS", 11)


@pytest.mark.parametrize("output", ["pred.npy", "pred.csv", "pred.parquet"])
@pytest.mark.parametrize("kind", [".npy", ".csv", ".parquet"])
@pytest.mark.usefixtures("small_pieces")
def test_every_format_gives_the_same_predictions(tmp_path: Path, predict: Predictor, kind: str, output: str) -> None:
    seen: list[tuple[int, float]] = []
    done = predict_file(
        predict,
        write(tmp_path / f"data{kind}"),
        tmp_path / output,
        watch=lambda rows, share: seen.append((rows, share)),
    )
    np.testing.assert_allclose(read(tmp_path / output), predict(X), rtol=1e-4, atol=1e-5)
    assert (done.rows, done.target, done.skipped) == (50, tmp_path / output, ())
    assert [rows for rows, _ in seen] == [11, 22, 33, 44, 50]
    shares = [share for _, share in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"data{kind}", output])


def test_columns_are_named_after_the_output(tmp_path: Path, predict: Predictor, pair: Path) -> None:
    predict_file(predict, write(tmp_path / "x.csv"), tmp_path / "y.csv")
    assert (tmp_path / "y.csv").read_text().splitlines()[0] == "output_0,output_1,output_2"

    one = open_model(saved(tmp_path / "one", nn.Linear(FEATURES, 1), torch.ones(2, FEATURES)))
    predict_file(one, tmp_path / "x.csv", tmp_path / "one.parquet")
    assert parquet.read_schema(tmp_path / "one.parquet").names == ["output"]


def test_a_numpy_file_keeps_the_shape_and_the_dtype_of_the_output(tmp_path: Path) -> None:
    predict = open_model(saved(tmp_path / "m", nn.Unflatten(1, (2, 3)).double(), torch.ones(2, 6).double()))
    predict_file(predict, write(tmp_path / "x.npy"), tmp_path / "y.npy")
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, X.reshape(50, 2, 3))


def test_features_in_a_row_take_the_shape_of_the_models_input(tmp_path: Path) -> None:
    predict = open_model(saved(tmp_path / "m", nn.Conv1d(2, 1, 3), torch.ones(2, 2, 3)))
    for kind in (".npy", ".csv", ".parquet"):
        predict_file(predict, write(tmp_path / f"x{kind}"), tmp_path / "y.npy", overwrite=True)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), predict(X.reshape(50, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_columns_of_text_are_left_out_and_named(tmp_path: Path, predict: Predictor, kind: str) -> None:
    done = predict_file(predict, write(tmp_path / f"x{kind}", city=["Paris"] * 50), tmp_path / "y.npy")
    assert done.skipped == ("city",)
    assert "left out: city" in str(done)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), predict(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_named_columns_are_the_features_in_the_given_order(tmp_path: Path, predict: Predictor, kind: str) -> None:
    path = write(tmp_path / f"x{kind}", id=np.arange(50))
    predict_file(predict, path, tmp_path / "y.npy", columns=NAMES[::-1])
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), predict(X[:, ::-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.usefixtures("small_pieces")
def test_a_missing_number_is_nan(tmp_path: Path, predict: Predictor, kind: str) -> None:
    frame = pd.DataFrame(X, columns=NAMES)
    frame["f0"] = pd.array([None if i == 30 else i for i in range(50)], dtype="Int64")
    path = tmp_path / f"x{kind}"
    frame.to_csv(path, index=False) if kind == ".csv" else frame.to_parquet(path)
    predict_file(predict, path, tmp_path / "y.npy")
    wrong = np.isnan(np.load(tmp_path / "y.npy")).any(axis=1)
    assert wrong[30] and wrong.sum() == 1


def test_a_file_with_its_columns_one_after_the_other_is_read(tmp_path: Path, predict: Predictor) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    predict_file(predict, tmp_path / "x.npy", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), predict(X), rtol=1e-4, atol=1e-5)


def test_column_names_that_count_from_0_are_names(tmp_path: Path, predict: Predictor) -> None:
    pd.DataFrame(X).to_csv(tmp_path / "x.csv", index=False)
    assert predict_file(predict, tmp_path / "x.csv", tmp_path / "y.npy").rows == 50


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_true_and_false_are_1_and_0(tmp_path: Path, predict: Predictor, kind: str) -> None:
    path = write(tmp_path / f"x{kind}", X[:, :5], yes=X[:, 0] > 0)
    predict_file(predict, path, tmp_path / "y.npy")
    expected = predict(np.column_stack([X[:, 0] > 0, X[:, :5]]))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-5)


# -- wrong files --------------------------------------------------------------------------------------------------


def text(content: str) -> Any:
    return lambda path: path.write_text(content)


HEAD = ",".join(NAMES) + "\n"
LINE = ",".join("1" * FEATURES) + "\n"
WRONG = {
    "of no known type": ("x.txt", text("1"), "x.txt is of no known type; use a name that ends in .npy, .csv, .parquet"),
    "not there": ("x.csv", lambda path: None, "there is no file"),
    "a folder": ("x.csv", lambda path: path.mkdir(), "there is no file"),
    "an empty npy": ("x.npy", text(""), "cannot be read"),
    "an empty csv": ("x.csv", text(""), "has no rows"),
    "an empty parquet": ("x.parquet", text(""), "cannot be read"),
    "names only": ("x.csv", text(HEAD), "has no rows"),
    "no rows, npy": ("x.npy", lambda path: np.save(path, X[:0]), "has no rows"),
    "no rows, parquet": (
        "x.parquet",
        lambda path: parquet.write_table(pa.table(dict.fromkeys(NAMES, pa.array([], "f4"))), path),
        "no rows",
    ),
    "cut off, npy": ("x.npy", lambda path: path.write_bytes(npy_bytes()[:-1]), "cannot be read"),
    "cut off, parquet": ("x.parquet", lambda path: path.write_bytes(write(path).read_bytes()[:-9]), "cannot be read"),
    "pickled": ("x.npy", lambda path: path.write_bytes(pickle.dumps([1])), "pickled"),
    "objects": ("x.npy", lambda path: np.save(path, np.array([{}, 1]), allow_pickle=True), "Python objects"),
    "a single number": ("x.npy", lambda path: np.save(path, 1.0), "not an array with rows"),
    "many arrays": ("x.npy", lambda path: npz(path), "not an array with rows"),
    "text in npy": ("x.npy", lambda path: np.save(path, np.full((2, 6), "a")), "takes float32 (n, 6)"),
    "too few features": (
        "x.npy",
        lambda path: np.save(path, X[:, :5]),
        "5 features in a row, the model takes float32 (n, 6)",
    ),
    "too many features": (
        "x.csv",
        text("id," + HEAD + "7," + LINE),
        "7 features in a row, the model takes float32 (n, 6)",
    ),
    "too few beside text": ("x.csv", text("a,b\nParis,1\n"), "not numeric and left out: a"),
    "no names": ("x.csv", text(LINE.replace("1", "1.5") * 3), "the first line of"),
    "text among numbers": ("x.csv", text(HEAD + LINE * 2 + "oops,1,1,1,1,1\n"), "'f0' of"),
    "text among numbers, named": ("x.csv", text(HEAD + LINE * 30 + "oops,1,1,1,1,1\n"), "'oops' in row 31"),
    "more cells than names": ("x.csv", text(HEAD + LINE.replace("\n", ",1\n")), "more cells"),
    "rows of other lengths": ("x.csv", text(HEAD + LINE + LINE.replace("\n", ",1,1\n")), "cannot be read"),
    "semicolons": ("x.csv", text((HEAD + LINE).replace(",", ";")), "no column of numbers"),
    "not utf-8": ("x.csv", lambda path: path.write_bytes(b"\xff\xfe\n\x81"), "cannot be read"),
    "zeros": ("x.csv", lambda path: path.write_bytes(b"\0" * 99), "input:"),
    "text only, parquet": (
        "x.parquet",
        lambda path: parquet.write_table(pa.table({"a": ["x"]}), path),
        "no column of numbers",
    ),
}


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, X)
    return buffer.getvalue()


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=X)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("small_pieces")
def test_a_wrong_input_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, predict: Predictor, case: str) -> None:
    name, make, words = WRONG[case]
    make(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput) as error:
        predict_file(predict, tmp_path / name, tmp_path / "y.csv")
    assert words in str(error.value)
    assert error.value.field
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("x.csv", ["f0", "g1"], "no column 'g1'; it has city, f0"),
        ("x.parquet", ["f0", "g1"], "no column 'g1'; it has city, f0"),
        ("x.csv", ["city", *NAMES[:5]], "'city' of"),
        ("x.parquet", ["city", *NAMES[:5]], "not numeric but"),
        ("x.csv", NAMES[:2], "2 features"),
        ("x.npy", NAMES, "leave --columns out"),
    ],
)
def test_wrong_columns_are_refused(
    tmp_path: Path, predict: Predictor, name: str, columns: list[str], words: str
) -> None:
    path = write(tmp_path / name, **({} if name == "x.npy" else {"city": ["Paris"] * 50}))
    with pytest.raises(InvalidInput, match=words):
        predict_file(predict, path, tmp_path / "y.csv", columns=columns)
    assert not (tmp_path / "y.csv").exists()


def test_a_wrong_output_is_refused_before_anything_is_read(tmp_path: Path, predict: Predictor, pair: Path) -> None:
    x = write(tmp_path / "x.npy")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for name, words in {
        "y.json": "y.json is of no known type",
        "there.csv": "add --overwrite",
        "folder.csv": "cannot be written",
        "nowhere/y.csv": "folder that exists",
        "x.npy": "is the input",
    }.items():
        with pytest.raises(InvalidInput, match=words):
            predict_file(predict, x, tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(InvalidInput, match="is the input"):
        predict_file(predict, x, x, overwrite=True)
    with pytest.raises(InvalidInput, match=r"takes \['tokens', 'weight'\]"):
        predict_file(open_model(pair), x, tmp_path / "y.csv")


def test_an_output_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, predict: Predictor) -> None:
    target = tmp_path / "y.csv"
    target.write_text("mine")
    wrong = tmp_path / "x.csv"
    wrong.write_text(HEAD + LINE * 100 + "oops,1,1,1,1,1\n")

    def stop(rows: int, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InvalidInput):
        predict_file(predict, wrong, target, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        predict_file(predict, write(tmp_path / "x.npy"), target, overwrite=True, watch=stop)
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.npy", "y.csv"]
    predict_file(predict, tmp_path / "x.npy", target, overwrite=True)
    assert len(pd.read_csv(target)) == 50


def test_a_piece_of_a_csv_that_ends_early_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,2\n" * 22)
    assert [len(piece.values) for piece in read_pieces(path, 11)] == [11, 11]


def test_a_bar_is_drawn_on_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with progress_bar(io.StringIO()) as watch:
        assert watch is None
    stream = Terminal()
    with progress_bar(stream) as watch:
        watch(1234, 0.5)
    assert stream.getvalue()


MEASURE = """
import resource, sys
from pathlib import Path
import onnx, onnxruntime, pandas, pyarrow.parquet
from automl.serving.batch import predict_file
from automl.serving import open_model

def peak_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before = peak_mb()
predict_file(open_model(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(peak_mb() - before)
"""


@pytest.mark.parametrize("kind", [".npy", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, plain: Path, kind: str) -> None:
    x = np.tile(X, (60_000, 1))  # 72 MB; as float64 in the table 144 MB
    path = tmp_path / f"x{kind}"
    if kind == ".npy":
        np.save(path, x)
    else:
        parquet.write_table(pa.table({name: x[:, i].astype(float) for i, name in enumerate(NAMES)}), path)
    command = [sys.executable, "-c", MEASURE, plain, path, tmp_path / "y.npy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 65
    assert np.load(tmp_path / "y.npy", mmap_mode="r").shape == (3_000_000, 3)
