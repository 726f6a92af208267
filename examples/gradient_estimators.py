"""Gradient VI with the three gradient estimators, beside the default algorithm.

At the same q all three have the same mean and different variances; near the optimum sticking the landing has
the least. The default needs neither a gradient of q nor a learning rate.

Run: python examples/gradient_estimators.py
"""

from __future__ import annotations

import optax

import lowerbound as lb
from lowerbound import examples


def main() -> None:
    example = examples.load("logistic-regression")
    default = lb.fit(example.model, example.data)
    mean, sd = default.mean()["beta"], default.sd()["beta"]
    algorithms = {"score_regression": None}
    for gradient in (lb.gradients.Reparameterized(), lb.gradients.StickingTheLanding(), lb.gradients.ScoreFunction()):
        algorithms[gradient.name] = lb.algorithms.GradientVI(
            objective=lb.objectives.ELBO(num_samples=8), gradient=gradient, optimizer=optax.adam(0.02)
        )
    print(f"{'':22}{'ELBO':>18}{'gradients':>11}{'seconds':>9}{'mean error / sd':>17}")
    for name, algorithm in algorithms.items():
        posterior = lb.fit(example.model, example.data, algorithm=algorithm)
        # q itself, before any correction: these sites are unconstrained, so q's mean is theirs.
        error = abs(posterior.q.mean[1:] - mean).max() / sd.min()
        evaluations, seconds = posterior.counts["evaluations"], posterior.timings["fit"]
        print(f"{name:22}{posterior.elbo!s:>18}{evaluations:>11,}{seconds:>9.2f}{error:>17.3f}")


if __name__ == "__main__":
    main()
