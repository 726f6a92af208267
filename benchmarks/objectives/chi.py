"""The chi upper bound, ours and VIABEL's, by its own value: ``python -m benchmarks.objectives.chi``.

Two dimensions, so that the bound of any q, and the least that independent normals have, are known by quadrature. Shown
is the excess over the least, in nats, where both fit independent normals with equal evaluations: those that ours took
to its own stop, searches and all. VIABEL (AlphaDivergence of order 2) is run at three rates, and the one with the least
excess is shown: it is told the answer.

No bent or heavy-tailed target is among them: there p^2 / q has no integral for any Gaussian q.
"""

from __future__ import annotations

import argparse
import subprocess
import warnings

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from benchmarks.objectives.race import RATES, density_of, viabel
from benchmarks.objectives.targets import BOUNDED, Target
from benchmarks.results import number, report, table
from lowerbound import algorithms, families, objectives
from lowerbound.fitting import run
from lowerbound.kernel import Kernel
from lowerbound.model import Model

#: The grid: steps of 0.15 up to 50 on either side, some forty standard deviations: the least bound may be where it is
#: just finite, and its tail is long there. (At steps of half that length bounds are the same to 1e-9.)
_EDGE, _STEP = 50.0, 0.15


class Bound:
    """The chi bound of order 2 less the log evidence, for independent normals, by quadrature."""

    def __init__(self, target: Target):
        line = np.arange(-_EDGE, _EDGE + _STEP / 2, _STEP)
        self.z = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        value = target.log_density(self.z, np)
        self.log_p = value - logsumexp(value) - 2 * np.log(_STEP)
        weight = np.exp(self.log_p) * _STEP**2
        self.mean = weight @ self.z
        self.sd = np.sqrt(weight @ (self.z - self.mean) ** 2)

    def __call__(self, mean: np.ndarray, sd: np.ndarray) -> float:
        log_q = -0.5 * (((self.z - mean) / sd) ** 2).sum(1) - np.log(sd).sum() - np.log(2 * np.pi)
        terms = 2 * self.log_p - log_q
        # Where q is too narrow the terms still rise at the edge: the integral has no end.
        edge = np.abs(self.z).max(1) > _EDGE - _STEP
        if terms[edge].max() > terms[~edge].max() - 20:
            return np.inf
        return 0.5 * float(logsumexp(terms) + 2 * np.log(_STEP))

    def least(self) -> float:
        """Over means and sds."""
        start = np.append(np.zeros(2), np.full(2, 0.3))
        found = minimize(
            lambda t: min(self(self.mean + self.sd * t[:2], self.sd * np.exp(t[2:])), 1e6),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-10},
        )
        return float(found.fun)


def main() -> None:
    """Run it, print the table, and with ``--write`` put it into BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--viabel", help="a Python that has VIABEL; left out where there is none")
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    rows = []
    for target in BOUNDED.values():
        bound = Bound(target)
        least = bound.least()
        kernel = Kernel(Model.from_log_density(density_of(target), {}))
        with np.errstate(all="ignore"):
            q, status, _, _ = run(algorithms.MomentMatching(objectives.ChiUpperBound()), kernel, families.Diagonal())
        mine = bound(np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))) - least
        budget = kernel.evaluations
        theirs = []
        for rate in RATES if options.viabel else ():
            try:
                with np.errstate(all="ignore"):
                    theirs.append(bound(*viabel(options.viabel, "chi")(target, budget, rate)) - least)
            except subprocess.SubprocessError as e:
                print(f"  {target.name}, rate {rate}: {type(e).__name__}")
        rows.append(
            [
                target.name,
                number(least),
                f"{budget:,}",
                f"{mine:.5f}",
                status.name,
                f"{min(theirs):.5f}" if theirs else "",
            ]
        )
        print(*rows[-1], sep=" | ", flush=True)
    head = ["target", "least bound", "evaluations", "ours: excess", "status", "VIABEL: excess"]
    report("chi", table(head, rows), options.write)


if __name__ == "__main__":
    main()
