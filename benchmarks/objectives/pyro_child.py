"""Pyro's SVGD, Rényi bound and wake phase, in its own Python; one line of JSON for the request on the command line.

Run by ``race.py``; needs ``pyro-ppl``, and nothing of this library. The densities of ``targets.py`` are taken in torch,
by the few functions that they ask for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: Particles of SVGD, as of the others, and draws a step of the other two.
PARTICLES, DRAWS = 100, 10


class _Torch:
    """What targets use of an array library."""

    def __init__(self, torch: Any):
        self.torch, self.exp, self.log, self.asarray = torch, torch.exp, torch.log, torch.as_tensor

    def sum(self, a: Any, axis: int) -> Any:
        return a.sum(axis)

    def dot(self, a: Any, b: Any) -> Any:
        return a @ self.torch.as_tensor(b)

    def logaddexp(self, a: Any, b: Any) -> Any:
        return self.torch.logaddexp(*(self.torch.as_tensor(v, dtype=self.torch.float64) for v in (a, b)))


def main() -> None:
    """``pyro_child.py TARGET METHOD EVALUATIONS RATE SEED``."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVGD, SVI, RBFSteinKernel, RenyiELBO, ReweightedWakeSleep
    from pyro.infer.autoguide import AutoMultivariateNormal
    from pyro.optim import Adam

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.objectives.targets import TARGETS

    name, method, evaluations, rate, seed = sys.argv[1:6]
    target, xp = TARGETS[name], _Torch(torch)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.set_rng_seed(int(seed))

    def model() -> None:
        # A prior that is divided out again: all start from draws of it, or at its mean.
        prior = dist.Normal(torch.zeros(target.dimension), 1.0).to_event(1)
        z = pyro.sample("z", prior)
        pyro.factor("density", target.log_density(z, xp) - prior.log_prob(z))

    optimiser, evaluations = Adam({"lr": float(rate)}), int(evaluations)
    if method == "svgd":
        svgd = SVGD(model, RBFSteinKernel(), optimiser, num_particles=PARTICLES, max_plate_nesting=0)
        for _ in range(max(1, evaluations // PARTICLES)):
            svgd.step()
        particles = svgd.get_named_particles()["z"].detach().reshape(PARTICLES, -1)
        mean, sd = particles.mean(0), particles.std(0, unbiased=False)
    else:
        guide = AutoMultivariateNormal(model)
        if method == "renyi":
            loss = RenyiELBO(0.5, num_particles=DRAWS, max_plate_nesting=0, vectorize_particles=True)
        else:
            loss = ReweightedWakeSleep(
                num_particles=DRAWS, insomnia=1.0, model_has_params=False, max_plate_nesting=0, vectorize_particles=True
            )
        svi = SVI(model, guide, optimiser, loss)
        for _ in range(max(1, evaluations // DRAWS)):
            svi.step()
        q = guide.get_posterior()
        mean, sd = q.mean.detach(), q.variance.detach().sqrt()
    print(json.dumps({"mean": mean.tolist(), "sd": sd.tolist()}))


if __name__ == "__main__":
    main()
