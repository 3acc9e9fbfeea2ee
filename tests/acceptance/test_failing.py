"""Training that cannot work: it ends early, with exit status 1 and the user's own traceback."""

from __future__ import annotations

import pytest

from tests.acceptance.desk import TOY, Desk

RETURN = "    return score\n"

#: The last line of the training function, how many trials are tried, what the answer must contain.
BROKEN = {
    "a typo": ("    return scroe\n", 3, ["toy.py", "return scroe", "NameError"]),
    "None": ("    pass\n", 3, ["returned None", "`return`"]),
    "a wrong metric": ("    return {'accuracy': score}\n", 3, ["without ['score']", "'score'"]),
    "a text": ("    return 'good'\n", 3, ["'good'", "return a number"]),
    "NaN": ("    return float('nan')\n", 6, ["no trial completed", "score = nan"]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_training_function_that_cannot_work_ends_the_search_with_1(desk: Desk, what: str) -> None:
    last_line, tried, parts = BROKEN[what]
    assert TOY.count(RETURN) == 1
    desk.write("toy.py", TOY.replace(RETURN, last_line))
    done = desk.automl("run", "toy.py")
    assert done.status == 1
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("automl: study 'toy' failed")
    for part in parts:
        assert part in done.err
    assert desk.trained == list(range(tried))
    assert "automl/trainers" not in done.err, "frames of ours say nothing to the user"
    assert desk.json("show", "toy")["best"] is None


def test_once_it_is_mended_the_same_command_goes_on(desk: Desk) -> None:
    desk.write("toy.py", TOY.replace(RETURN, "    return scroe\n"))
    assert desk.automl("run", "toy.py").status == 1
    failed = desk.json("show", "toy")
    assert failed["state"] == "failed"
    assert "NameError" in failed["reason"]
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py")
    assert desk.json("show", "toy")["trials"]["complete"] == 3
    assert "NameError" in desk.works("show", "toy", "--trial", "0")


def test_a_trial_that_fails_now_and_then_does_not_end_the_search(desk: Desk) -> None:
    desk.write("toy.py", TOY.replace(RETURN, "    if trial.number % 2:\n        raise OSError('flaky')\n" + RETURN))
    said = desk.works("run", "toy.py")
    assert said.count("OSError: flaky") == 3
    trials = desk.json("show", "toy")["trials"]
    assert (trials["complete"], trials["failed"]) == (3, 3)
