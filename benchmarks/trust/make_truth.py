"""Store moments that have no closed form: ``python -m benchmarks.trust.make_truth NAME ...``.

The case's ``reference``, a NumPyro model of the same posterior that samples well, goes one of two ways:

* up to three unconstrained dimensions: a product grid about the mass, centred and scaled twice by the moments found,
  with the density at its edges and the change on a coarser grid as the error;
* more: NumPyro's NUTS, four chains; at least 5,000 effective draws and R-hat below 1.005 for every mean compared.

A reference that is a function of a random generator samples by itself, four chains, and is held to the same.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import scipy.optimize
from jax.flatten_util import ravel_pytree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

from benchmarks.trust.quadrature import moments
from benchmarks.trust.registry import REGISTRY
from benchmarks.trust.target import STORED, Case

CHAINS = 4
RHAT, EFFECTIVE = 1.005, 5000
#: Nats below the mode that the density must be at the edges of a grid.
EDGE = -16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust.make_truth", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--draws", type=int, default=10_000, help="of each chain, after warm-up; default %(default)s")
    parser.add_argument("--warmup", type=int, default=2000, help="of each chain; default %(default)s")
    parser.add_argument("--side-by-side", action="store_true", help="run the chains as one batch: quicker on big data")
    options = parser.parse_args()
    numpyro.enable_x64()
    for name in options.names:
        case = REGISTRY[name].build()
        if case.reference is None:
            raise SystemExit(f"{name!r} has no reference to sample: its truth is computed when it is built.")
        by_name, how = solve(case, options.draws, options.warmup, options.side_by_side)
        STORED.mkdir(exist_ok=True)
        kept = {k: {"mean": rounded(m), "sd": rounded(s)} for k, (m, s) in by_name.items()}
        (STORED / f"{name}.json").write_text(json.dumps({"how": how, "moments": kept}) + "\n")
        print(name, how, flush=True)


def rounded(values: Any) -> Any:
    """Seven digits: far more than are known, and shorter."""
    return json.loads(json.dumps(np.asarray(values).tolist()), parse_float=lambda v: float(f"{float(v):.7g}"))


def solve(case: Case, draws: int, warmup: int, batch: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    assert case.reference is not None
    if list(inspect.signature(case.reference).parameters) == ["rng"]:
        return summarise(case, case.reference(np.random.default_rng(0)), {"method": "own sampler"})
    start = initialize_model(jax.random.key(0), case.reference, model_kwargs=case.data or {})
    flat, back = ravel_pytree(start.param_info.z)
    if flat.size <= 3:
        return grid(case, lambda u: -start.potential_fn(back(u)), lambda u: start.postprocess_fn(back(u)), flat.size)
    return chains(case, draws, warmup, batch)


def chosen(case: Case, values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in case.look(values).items() if k in case.compared or not case.compared}


def grid(case: Case, log_density: Callable, constrain: Callable, p: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested grids of decreasing step on whitened coordinates."""
    value = jax.jit(log_density)
    gradient = jax.jit(jax.grad(log_density))
    tries = [
        scipy.optimize.minimize(lambda u: -float(value(u)), u, jac=lambda u: -np.asarray(gradient(u)), method="BFGS")
        for u in np.random.default_rng(0).uniform(-1.5, 1.5, (8, p))
    ]
    best = min(tries, key=lambda r: r.fun)
    centre, root = best.x, np.linalg.cholesky(np.linalg.inv(np.asarray(jax.hessian(lambda u: -value(u))(best.x))))
    n = {1: 20_001, 2: 601, 3: 121}[p]
    many = jax.jit(lambda u: jax.lax.map(log_density, u, batch_size=512))

    def at(n: int, width: float) -> tuple[np.ndarray, np.ndarray, float]:
        axes = np.meshgrid(*[np.linspace(-width, width, n)] * p, indexing="ij")
        unit = np.stack([a.ravel() for a in axes], 1)
        points = centre + unit @ root.T
        density = np.nan_to_num(np.asarray(many(jnp.asarray(points))), nan=-np.inf)
        edge = float(density[(np.abs(unit) > width * (1 - 1e-9)).any(1)].max() - density.max())
        return points, density, edge

    for _ in range(3):  # the first by the curvature at the mode, the others by the moments found
        points, density, _ = at(n, 12.0)
        w = np.exp(density - density.max())
        centre = w @ points / w.sum()
        root = np.linalg.cholesky((points - centre).T @ ((points - centre) * w[:, None]) / w.sum())
    for width in (9.0, 14.0, 22.0, 34.0):  # long exponential tails need the wider ones
        out = []
        for m in (n, int(n * 0.8) | 1):
            points, density, edge = at(m, width)
            keep = density > density.max() - 60
            sites = jax.vmap(constrain)(jnp.asarray(points[keep]))
            kept = chosen(case, {k: np.asarray(v) for k, v in sites.items()})
            out.append({k: moments(density[keep], v) for k, v in kept.items()})
            if edge > EDGE:
                break
        if edge <= EDGE:
            break
    fine, coarse = out[0], out[-1]
    change = max(
        float(np.max(np.abs(a - b) / fine[k][1])) for k in fine for a, b in zip(fine[k], coarse[k], strict=True)
    )
    if change > 1e-3 or edge > EDGE:
        raise SystemExit(f"the grid is not fine or wide enough: change {change:.2g} sd, edge {edge:.1f} nats below.")
    how = {"method": "grid", "points": n, "width": width, "change": float(f"{change:.2g}"), "edge": round(edge, 1)}
    return fine, how


def chains(case: Case, draws: int, warmup: int, batch: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    assert case.reference is not None
    mcmc = MCMC(
        NUTS(case.reference, target_accept_prob=0.9),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=CHAINS,
        chain_method="vectorized" if batch else "sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), **(case.data or {}))
    by_chain = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    divergent = int(mcmc.get_extra_fields()["diverging"].sum())
    return summarise(case, by_chain, {"method": "NUTS", "warmup": warmup, "draws": draws, "divergent": divergent})


def summarise(
    case: Case, by_chain: dict[str, np.ndarray], how: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Moments of draws ``[chains, draws, *shape]``, or the end of the program where they are not good enough."""
    shape = next(iter(by_chain.values())).shape[:2]
    together = chosen(case, {k: v.reshape(-1, *v.shape[2:]) for k, v in by_chain.items()})
    columns = {k: v.reshape(*shape, -1) for k, v in together.items()}
    columns = {k: v[..., v.reshape(-1, v.shape[-1]).std(0) > 0] for k, v in columns.items()}
    rhat = max(float(np.max(split_gelman_rubin(v))) for v in columns.values())
    effective = min(float(np.min(effective_sample_size(v))) for v in columns.values())
    how |= {"chains": shape[0], "rhat": round(rhat, 4), "effective": round(effective)}
    if rhat > RHAT or effective < EFFECTIVE:
        raise SystemExit(f"not good enough to be called the truth: {how}. More --draws, or another reference.")
    return {k: (v.mean(0), v.std(0, ddof=1)) for k, v in together.items()}, how


if __name__ == "__main__":
    main()
