"""Ours beside the same methods elsewhere, at equal evaluations: ``python -m benchmarks.objectives.race``.

For each target ours runs first, to its own stop; the evaluations that it took (searches and all) are the budget of the
others, which start as they do by default. They have no stopping rule or rate of their own, so each is run at three
rates, and what is shown is the one that came nearest to the truth. Errors are the largest over coordinates, of q's own
moments: |mean - truth| in posterior sds, and |log(sd / truth)|. Truth is exact, or NUTS (4 chains of 5,000).

* SVGD, 100 particles: ours (RBF and linear; RBF), BlackJAX's, NumPyro's SteinVI with point guides, Pyro's; all by Adam.
* Forward KL: ours, VIABEL's DISInclusiveKL, Pyro's ReweightedWakeSleep (the wake phase of its guide, ten draws a step);
  and RenyiELBO(0.5) of NumPyro, which is the nearest that it has, and of Pyro.
* Batch and match: ours; no Python package has it.

The chi upper bound, whose optimum has not the posterior's moments, has a race of its own: ``chi.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

import lowerbound as lb
from benchmarks.objectives.targets import TARGETS, Target
from benchmarks.results import number, report, table
from lowerbound import algorithms, families
from lowerbound.fitting import run
from lowerbound.kernel import Kernel
from lowerbound.model import Model

RATES = (0.003, 0.03, 0.3)
PARTICLES = 100

Moments = tuple[np.ndarray, np.ndarray]
OURS: dict[str, tuple[families.Family, algorithms.Algorithm]] = {
    "SVGD": (families.Particles(PARTICLES), algorithms.SVGD()),
    "SVGD, RBF alone": (families.Particles(PARTICLES), algorithms.SVGD(kernel="rbf")),
    "forward KL": (families.Dense(), algorithms.MomentMatching()),
    "batch and match": (families.Dense(), algorithms.BatchAndMatch()),
}


def density_of(target: Target) -> lb.LogDensity:
    """It, as ours takes it."""
    return lb.LogDensity(lambda z: target.log_density(z, jnp), {"z": lb.Site(constraints.real, (target.dimension,))})


def ours(target: Target, method: str) -> tuple[Moments, int, str]:
    """Moments of q, evaluations, status."""
    family, algorithm = OURS[method]
    kernel = Kernel(Model.from_log_density(density_of(target), {}))
    with np.errstate(all="ignore"):
        q, status, _, _ = run(algorithm, kernel, family)
    return (np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))), kernel.evaluations, status.name


def blackjax_svgd(target: Target, budget: int, rate: float) -> Moments:
    """BlackJAX, particles from N(0, I), the median heuristic at every step."""
    import blackjax
    import optax
    from blackjax.vi.svgd import rbf_kernel, update_median_heuristic

    gradient = jax.grad(lambda z: target.log_density(z, jnp))
    method = blackjax.svgd(gradient, optax.adam(rate), rbf_kernel, update_median_heuristic)
    state = method.init(jax.random.normal(jax.random.PRNGKey(0), (PARTICLES, target.dimension)))
    steps = max(1, budget // PARTICLES)
    state = jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda _, s: method.step(s), s))(state)
    x = np.asarray(state.particles)
    return x.mean(0), x.std(0)


def _numpyro_model(target: Target) -> Callable[[], None]:
    import numpyro
    import numpyro.distributions as dist

    def model() -> None:
        # A prior that is divided out again: SteinVI draws from it to find shapes.
        prior = dist.Normal(0.0, 10.0).expand([target.dimension]).to_event(1)
        z = numpyro.sample("z", prior)
        numpyro.factor("density", target.log_density(z, jnp) - prior.log_prob(z))

    return model


def numpyro_stein(target: Target, budget: int, rate: float) -> Moments:
    """NumPyro's SteinVI over point guides, which is SVGD."""
    from numpyro.contrib.einstein import RBFKernel, SteinVI
    from numpyro.infer.autoguide import AutoDelta
    from numpyro.optim import Adam

    model = _numpyro_model(target)
    stein = SteinVI(
        model, AutoDelta(model), Adam(rate), RBFKernel(), num_stein_particles=PARTICLES, num_elbo_particles=1
    )
    found = stein.run(jax.random.PRNGKey(0), max(1, budget // PARTICLES), progress_bar=False)
    x = np.asarray(found.params["z_auto_loc"])
    return x.mean(0), x.std(0)


def numpyro_renyi(target: Target, budget: int, rate: float) -> Moments:
    """NumPyro's RenyiELBO(0.5) of ten draws, a dense guide."""
    from numpyro.infer import SVI, RenyiELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal
    from numpyro.optim import Adam

    model = _numpyro_model(target)
    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, Adam(rate), RenyiELBO(0.5, num_particles=10))
    params = svi.run(jax.random.PRNGKey(0), max(1, budget // 10), progress_bar=False).params
    return np.asarray(params["auto_loc"]), np.sqrt((np.asarray(params["auto_scale_tril"]) ** 2).sum(-1))


def viabel(python: str, method: str) -> Callable[[Target, int, float], Moments]:
    """VIABEL in its own process."""
    return _child(python, "viabel_child.py", method)


def pyro(python: str, method: str) -> Callable[[Target, int, float], Moments]:
    """Pyro in its own process."""
    return _child(python, "pyro_child.py", method)


def _child(python: str, script: str, method: str) -> Callable[[Target, int, float], Moments]:
    path = str(Path(__file__).with_name(script))

    def fitted(target: Target, budget: int, rate: float) -> Moments:
        command = [python, path, target.name, method, str(budget), str(rate), "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        return np.array(found["mean"]), np.array(found["sd"])

    return fitted


def truth(target: Target) -> Moments:
    """Exact, or by NUTS."""
    if target.mean is not None and target.sd is not None:
        return target.mean, target.sd
    from numpyro.infer import MCMC, NUTS

    mcmc = MCMC(
        NUTS(_numpyro_model(target), dense_mass=True, target_accept_prob=0.95),
        num_warmup=1000,
        num_samples=5000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(1))
    z = np.asarray(mcmc.get_samples()["z"])
    return z.mean(0), z.std(0)


def errors(found: Moments, true: Moments) -> tuple[float, float]:
    """Of the mean, in sds, and of the log sd: the largest over coordinates."""
    with np.errstate(all="ignore"):
        mean, sd = np.abs((found[0] - true[0]) / true[1]).max(), np.abs(np.log(found[1] / true[1])).max()
    return float(mean), float(sd)


def _nearest(fit: Callable[[Target, int, float], Moments], target: Target, budget: int, true: Moments) -> str:
    """The errors at the rate with the smallest sum of them."""
    best: tuple[float, float] | None = None
    for rate in RATES:
        try:
            pair = errors(fit(target, budget, rate), true)
        except (subprocess.SubprocessError, FloatingPointError) as e:
            print(f"  {target.name}, rate {rate}: {type(e).__name__}")
            continue
        if np.isfinite(pair).all() and (best is None or sum(pair) < sum(best)):
            best = pair
    return "failed" if best is None else _pair(best)


def _pair(pair: tuple[float, float]) -> str:
    return f"{number(pair[0])} / {number(pair[1])}"


def main() -> None:
    """Run it, print the table, and with ``--write`` put it into BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", choices=[[], *OURS], help="which; all by default")
    parser.add_argument("--viabel", help="a Python that has VIABEL; left out where there is none")
    parser.add_argument("--pyro", help="a Python that has Pyro; left out where there is none")
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    peers: dict[str, dict[str, Callable[[Target, int, float], Moments]]] = {
        "SVGD": {"BlackJAX": blackjax_svgd, "NumPyro SteinVI": numpyro_stein},
        "forward KL": {"NumPyro RenyiELBO": numpyro_renyi},
    }
    if options.viabel:
        peers["forward KL"]["VIABEL"] = viabel(options.viabel, "forward_kl")
    if options.pyro:
        peers["SVGD"]["Pyro"] = pyro(options.pyro, "svgd")
        peers["forward KL"]["Pyro wake phase"] = pyro(options.pyro, "forward_kl")
        peers["forward KL"]["Pyro RenyiELBO"] = pyro(options.pyro, "renyi")
    rows = []
    for target in TARGETS.values():
        true = truth(target)
        for method in options.methods or OURS:
            began = time.process_time()
            found, budget, status = ours(target, method)
            spent = time.process_time() - began
            beside = [f"{n}: {_nearest(fit, target, budget, true)}" for n, fit in peers.get(method, {}).items()]
            rows.append([method, target.name, f"{budget:,}", _pair(errors(found, true)), status, "; ".join(beside)])
            print(*rows[-1], f"({spent:.1f} s)", sep=" | ", flush=True)
    head = ["method", "target", "evaluations", "ours: mean / sd", "status", "others: mean / sd"]
    report("objectives", table(head, rows), options.write and not options.methods)


if __name__ == "__main__":
    main()
