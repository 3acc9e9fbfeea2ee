"""Writes acquisition.json, what test_acquisition.py and test_pareto.py compare with: BoTorch 0.18.1 and mpmath.

Run by hand, in an environment that has BoTorch (and mpmath, which comes with torch): python make_acquisition.py
The tests need neither. BoTorch maximises, so everything goes in with its sign turned.
"""

from __future__ import annotations

import json
from pathlib import Path

import botorch
import mpmath
import numpy as np
import torch
from botorch.acquisition.analytic import LogExpectedImprovement, LogProbabilityOfImprovement
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.testing import MockModel, MockPosterior

EXACT_Z = [
    -1e8,
    -1e6,
    -1e4,
    -300,
    -40,
    -20.5,
    -19.5,
    -5,
    -1,
    -0.25,
    0,
    0.25,
    1,
    3,
    8,
    19.5,
    20.5,
    37,
    40,
    100,
    1e4,
    1e8,
]


def normal(z):
    """phi(z), Phi(z) and h(z) in as many digits as mpmath is set to."""
    phi = mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)
    cdf = mpmath.erfc(-z / mpmath.sqrt(2)) / 2
    return phi, cdf, phi + z * cdf


def exact(z):
    z = mpmath.mpf(z)
    phi, cdf, h = normal(z)
    log_cdf = mpmath.log1p(-mpmath.erfc(z / mpmath.sqrt(2)) / 2) if z > 0 else mpmath.log(cdf)
    return [float(v) for v in (z, mpmath.log(h), cdf / h, phi / h, log_cdf, phi / cdf)]


def single(acquisition, mean, sd, best):
    """Value and derivatives of a BoTorch acquisition that is made small."""
    mean = torch.tensor(mean, dtype=torch.double).requires_grad_()
    sd = torch.tensor(sd, dtype=torch.double).requires_grad_()
    model = MockModel(MockPosterior(mean=mean[:, None, None], variance=(sd**2)[:, None, None]))
    value = acquisition(model, best_f=best, maximize=False)(torch.zeros(len(mean), 1, 1, dtype=torch.double))
    value.sum().backward()
    return {"value": value.tolist(), "d_mean": mean.grad.tolist(), "d_sd": sd.grad.tolist()}


def singles(rng):
    # A best of -1/4 has no more digits than the single precision that BoTorch puts it in.
    mean = np.concatenate([rng.normal(0.0, 2.0, 30), [5.0, 20.0, 90.0, -7.0]]).round(3)
    sd = np.concatenate([rng.lognormal(-1.0, 1.0, 30), [0.1, 0.1, 0.1, 0.5]]).round(3) + 0.01
    case = {"mean": mean.tolist(), "sd": sd.tolist(), "best": -0.25}
    return case | {
        "log_expected_improvement": single(LogExpectedImprovement, mean, sd, -0.25),
        "log_probability_below": single(LogProbabilityOfImprovement, mean, sd, -0.25),
    }


def hypervolume(rng, k, f):
    """BoTorch's analytic expected hypervolume improvement, and the derivatives of its log."""
    front = np.abs(rng.normal(size=(f, k)))
    front = (1.0 - front / np.linalg.norm(front, axis=1, keepdims=True)).round(3)
    reference = np.full(k, 1.1)
    means = rng.uniform(-0.5, 1.4, (12, k)).round(3)
    sds = rng.uniform(0.05, 0.6, (12, k)).round(3)
    mean = torch.tensor(means).requires_grad_()
    sd = torch.tensor(sds).requires_grad_()
    boxes = NondominatedPartitioning(torch.tensor(-reference), torch.tensor(-front))
    model = MockModel(MockPosterior(mean=-mean[:, None, :], variance=(sd**2)[:, None, :]))
    value = ExpectedHypervolumeImprovement(model, (-reference).tolist(), boxes)(torch.zeros(12, 1, 1).double()).log()
    value.sum().backward()
    return {
        "front": front.tolist(),
        "reference": reference.tolist(),
        "means": means.tolist(),
        "sds": sds.tolist(),
        "value": value.tolist(),
        "d_means": mean.grad.tolist(),
        "d_sds": sd.grad.tolist(),
    }


def far_hypervolume():
    """Two objectives, points so deep behind the front that the improvement itself is no floating-point number."""
    front = [[0.1, 0.9], [0.3, 0.5], [0.6, 0.4], [0.9, 0.05]]
    reference = [1.0, 1.0]
    means = [[0.7, 0.7], [5.0, 0.2], [50.0, 80.0], [1.0, 0.95]]
    sds = [[0.005, 0.005], [0.1, 0.1], [0.5, 0.1], [0.01, 0.001]]
    values = []
    for mean, sd in zip(means, sds, strict=True):

        def psi(u, j, mean=mean, sd=sd):
            return mpmath.mpf(sd[j]) * normal((mpmath.mpf(u) - mpmath.mpf(mean[j])) / mpmath.mpf(sd[j]))[2]

        edges = [None, *(x for x, _ in front), reference[0]]
        heights = [reference[1], *(y for _, y in front)]
        strips = zip(edges[:-1], edges[1:], heights, strict=True)
        total = sum((psi(u, 0) - (psi(l, 0) if l is not None else 0)) * psi(y, 1) for l, u, y in strips)
        values.append(float(mpmath.log(total)))
    return {"front": front, "reference": reference, "means": means, "sds": sds, "value": values}


def reference_points(rng):
    cases = []
    for k, f in ((2, 5), (3, 8)):
        front = np.abs(rng.normal(size=(f, k)))
        front = (1.0 - front / np.linalg.norm(front, axis=1, keepdims=True)).round(3)
        cases.append({"front": front.tolist(), "reference": (-infer_reference_point(torch.tensor(-front))).tolist()})
    return cases


def main():
    mpmath.mp.dps = 400
    rng = np.random.default_rng(7)
    tables = {
        "botorch": botorch.__version__,
        "mpmath": mpmath.__version__,
        "exact": {"columns": "z, log h, Phi / h, phi / h, log Phi, phi / Phi", "rows": [exact(z) for z in EXACT_Z]},
        "single": singles(rng),
        "hypervolume": [hypervolume(rng, k, f) for k, f in ((2, 1), (2, 3), (2, 12), (3, 1), (3, 9), (4, 2), (4, 7))],
        "far_hypervolume": far_hypervolume(),
        "reference": reference_points(rng),
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(table)}" for name, table in tables.items())
    Path(__file__).with_name("acquisition.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
