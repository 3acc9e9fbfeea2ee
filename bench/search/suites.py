"""The problems by name: SUITE:FUNCTION, and :iN for an instance of it. `load` makes one.

| suite | functions | what it asks for |
|---|---|---|
| bbob-d5, bbob-d10 | 24 | continuous functions of all kinds |
| mixint-d5, mixint-d10 | 24 | the same with four of five parameters whole |
| noisy-d5 | 10 | of them, with a normal error; scored by the mean |
| training | 4 | real training; the model is a parameter, with parameters of its own |
| synthetic | 4 | a tree of choices, many categories, failures, noise |
| constrained | 2 | limits |
| multi | 3 | two objectives; scored by hypervolume |
"""

from __future__ import annotations

from problem import Problem

SUITES = ("bbob-d5", "bbob-d10", "mixint-d5", "mixint-d10", "noisy-d5", "training", "synthetic", "constrained", "multi")
#: Published functions and real data are as they are; of the others each seed has an instance of its own.
ONE_INSTANCE = ("training", "constrained")


def names(suite: str, seed: int) -> list[str]:
    """A suite's problems for a run with `seed`, which chooses the instance."""
    kind, _, _ = suite.partition("-")
    if kind in ("bbob", "mixint", "noisy"):
        import coco

        functions = [f"f{n:02d}" for n in (coco.NOISY if kind == "noisy" else coco.FUNCTIONS)]
    elif kind == "training":
        import training

        functions = list(training.DATA)
    else:
        import synthetic

        functions = list(synthetic.SUITES[kind])
    return [instance(f"{suite}:{function}", seed) for function in functions]


def instance(name: str, seed: int) -> str:
    """The instance of SUITE:FUNCTION that goes with a seed."""
    suite = name.partition(":")[0]
    return name if name.count(":") > 1 or suite in ONE_INSTANCE else f"{name}:i{seed + 1}"


def load(name: str) -> Problem:
    """The problem called SUITE:FUNCTION or SUITE:FUNCTION:iN."""
    suite, function, *rest = name.split(":")
    number = int(rest[0].removeprefix("i")) if rest else 1
    kind, _, dimension = suite.partition("-d")
    if kind in ("bbob", "mixint", "noisy"):
        import coco

        return coco.make(kind, int(dimension), int(function.removeprefix("f")), number, name)
    if kind == "training":
        import training

        return training.make(function, name)
    import synthetic

    return synthetic.make(suite, function, number, name)
