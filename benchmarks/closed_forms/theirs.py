"""BayesPy on one problem, in a process of its own: ``python -m benchmarks.closed_forms.theirs FILE``.

Runs under the Python that has BayesPy, which need have nothing of ours. Nodes are given to ``VB`` in the order in which
they are updated: those with a start last, so that their start is used.
"""

from __future__ import annotations

from benchmarks.closed_forms.stamps import Stamps

STAMPS = Stamps()

import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

#: BayesPy ends when its bound changes by less than this, relatively.
TOLERANCE = 1e-10


def regression(data: dict[str, Any], start: dict[str, Any]) -> list[Any]:
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    d = data["X"].shape[1]
    a = Gamma(1e-3, 1e-3, plates=(d,))
    w = GaussianARD(0, a, shape=(d,))
    tau = Gamma(1e-3, 1e-3)
    y = GaussianARD(SumMultiply("i,i", w, data["X"]), tau)
    y.observe(data["y"])
    return [y, w, a, tau]


def mixture(data: dict[str, Any], start: dict[str, Any]) -> list[Any]:
    import numpy as np
    from bayespy.nodes import Categorical, Dirichlet, Gaussian, Mixture, Wishart

    (n, d), k = data["X"].shape, data["K"]
    pi = Dirichlet(np.ones(k))
    z = Categorical(pi, plates=(n,))
    mu = Gaussian(np.zeros(d), 0.01 * np.eye(d), plates=(k,))
    precision = Wishart(d + 2, np.eye(d), plates=(k,))
    y = Mixture(z, Gaussian, mu, precision)
    z.initialize_from_value(start["z"])
    y.observe(data["X"])
    return [y, mu, precision, pi, z]


def pca(data: dict[str, Any], start: dict[str, Any]) -> list[Any]:
    from bayespy.nodes import Dot, Gamma, GaussianARD

    (m, n), k = data["Y"].shape, data["K"]
    x = GaussianARD(0, 1, shape=(k,), plates=(1, n))
    a = Gamma(1e-5, 1e-5, plates=(k,))
    c = GaussianARD(0, a, shape=(k,), plates=(m, 1))
    tau = Gamma(1e-5, 1e-5)
    y = GaussianARD(Dot(c, x), tau)
    y.observe(data["Y"])
    c.initialize_from_value(start["C"][:, None])
    return [y, x, c, a, tau]


def lda(data: dict[str, Any], start: dict[str, Any]) -> list[Any]:
    import numpy as np
    from bayespy.nodes import Categorical, Dirichlet, Gate

    n = len(data["word"])
    theta = Dirichlet(np.full(data["K"], 0.1), plates=(data["D"],))
    phi = Dirichlet(np.full(data["V"], 0.1), plates=(data["K"],))
    z = Categorical(Gate(data["doc"], theta), plates=(n,))
    w = Categorical(Gate(z, phi), plates=(n,))
    w.observe(data["word"])
    z.initialize_from_value(start["z"])
    return [w, phi, theta, z]


def main(path: str) -> dict[str, Any]:
    import bayespy
    import numpy as np
    from bayespy.inference import VB

    from benchmarks.closed_forms.problems import Problem

    STAMPS.phase("imports")
    problem = Problem.load(Path(path))
    np.random.seed(0)
    nodes = {"regression": regression, "mixture": mixture, "pca": pca, "lda": lda}[problem.model]
    engine = VB(*nodes(problem.data, problem.start))
    STAMPS.phase("setup")
    for _ in range(problem.sweeps):
        engine.update(tol=TOLERANCE, verbose=False)
        STAMPS.sweep(engine.L[engine.iter - 1], engine.iter)
        if engine.converged:
            break
    cpu, wall = STAMPS.read()

    from benchmarks.memory import peak_memory

    versions = {"bayespy": bayespy.__version__, "BayesPy's numpy": np.__version__}
    row = {"cpu": cpu, "wall": wall, "memory": peak_memory(), "settled": bool(engine.converged), "versions": versions}
    return row | STAMPS.row()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1])))
