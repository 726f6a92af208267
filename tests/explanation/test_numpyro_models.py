"""NumPyro's own examples, as they are: the plan of each."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import lowerbound as lb
from tests.explanation import numpyro_models

rng = np.random.default_rng(0)
X, y = rng.normal(size=(12, 3)), rng.normal(size=12)
bits = rng.integers(0, 2, 12)
annotations = rng.integers(0, 3, (6, 4))
annotations[0, 0] = 2
positions = np.array([0, 0, 1, 2])
at_bats = {"at_bats": np.array([45, 45, 40, 30, 50]), "hits": np.array([18, 17, 10, 5, 20])}
schools = {"J": 8, "sigma": np.arange(1.0, 9.0), "y": y[:8]}
exact, none = "exact", "none"

#: name -> data, kind of each latent, and what has no closed form (factor -> words of its operation).
EXAMPLES = {
    "eight_schools": (schools, {"mu": exact, "tau": "bound", "theta": exact}, {}),
    "eight_schools_noncentered": (schools, {"mu": exact, "tau": "bound", "theta_base": exact}, {}),
    "fully_pooled": (at_bats, {"phi": exact}, {}),
    "not_pooled": (at_bats, {"phi": exact}, {}),
    "partially_pooled": (
        at_bats,
        {"m": "sampled", "kappa": "sampled", "phi": "sampled"},
        {"phi": "log Gamma of an expression of several elements"},
    ),
    "partially_pooled_with_logit": (at_bats, {"loc": "bound", "scale": "bound", "alpha": "bound"}, {}),
    "multinomial": ({"annotations": annotations}, {"zeta": exact, "pi": exact, "c": exact}, {}),
    "dawid_skene": (
        {"positions": positions, "annotations": annotations},
        {"beta": exact, "pi": exact, "c": exact},
        {},
    ),
    "mace": (
        {"positions": positions, "annotations": annotations},
        {"epsilon": none, "theta": exact, "c": none, "s": none},
        {"y": "combinations of 'c' and 's' that are impossible"},
    ),
    "hierarchical_dawid_skene": (
        {"positions": positions, "annotations": annotations},
        {"zeta": none, "Omega": none, "beta_decentered": none, "pi": exact, "c": none},
        {"y": "the normalising constant of random logits"},
    ),
    "item_difficulty": (
        {"annotations": annotations},
        {"eta": none, "Chi": none, "pi": exact, "c": none, "theta_decentered": none},
        {"y": "the normalising constant of random logits"},
    ),
    "glmm": (
        {"dept": np.repeat(np.arange(3), 4), "male": bits, "applications": np.full(12, 20), "admit": 8 + bits},
        dict.fromkeys(("v_mu", "sigma", "L_Rho", "z"), "sampled"),
        {"L_Rho": "on whose support no family is", "admit": "different elements of 'L_Rho'"},
    ),
    "bnn": (
        {"X": X, "Y": y[:, None], "D_H": 4},
        dict.fromkeys(("w1", "w2", "w3", "prec_obs"), "sampled"),
        {"Y": "tanh"},
    ),
    "horseshoe_normal": (
        {"X": X, "Y": y},
        {"lambdas": "bound", "tau": "bound", "unscaled_betas": exact, "prec_obs": exact},
        {},
    ),
    "horseshoe_bernoulli": (
        {"X": X, "Y": bits},
        dict.fromkeys(("lambdas", "tau", "unscaled_betas"), "bound"),
        {},
    ),
    "proportion_test": ({"design_matrix": X, "outcome": bits}, {"coefficients": "bound"}, {}),
    "stochastic_volatility": (
        {"returns": y},
        {"sigma": "grid", "s": "sampled", "nu": "sampled"},
        {"r": "random degrees of freedom"},
    ),
    "toy_mixture": (
        {"prior": None, "obs": {"A": bits, "C": 1 - bits}, "num_obs": 12},
        dict.fromkeys(("p_A", "p_B", "p_C", "B"), exact),
        {},
    ),
    "divorce": (
        {"marriage": y, "age": X[:, 0], "divorce": X[:, 1]},
        {"a": exact, "bM": exact, "bA": exact, "sigma": "grid"},
        {},
    ),
    "divorce_with_measurement_error": (
        {"marriage": y, "age": X[:, 0], "divorce_sd": np.abs(X[:, 2]), "divorce": X[:, 1]},
        {"a": exact, "bM": exact, "bA": exact, "sigma": "grid", "divorce_rate": exact},
        {},
    ),
}
#: These look at their data, to count classes, so that they are static.
STATIC = ("multinomial", "dawid_skene", "mace", "hierarchical_dawid_skene", "item_difficulty", "toy_mixture")


@functools.cache
def explained(name: str) -> lb.Explanation:
    model, data = getattr(numpyro_models, name), EXAMPLES[name][0]
    return lb.explain(functools.partial(model, **data)) if name in STATIC else lb.explain(model, data)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_plan(name):
    _, expected, open = EXAMPLES[name]
    e = explained(name)
    assert {r.latent: r.kind for r in e.rows} == expected
    found = {f: o.operation for o in e.open for f in o.factors}
    assert set(found) == set(open)
    for f, words in open.items():
        assert words in found[f]
    assert max(map(len, str(e).splitlines())) <= 120


def test_zero_inflation_has_no_closed_form():
    e = lb.explain(numpyro_models.zero_inflated_poisson, {"X": X, "Y": bits})
    assert [r.kind for r in e.rows] == ["sampled", "sampled"] and e.open[0].factors == ("Y",)


def test_the_line_is_in_the_example():
    (o,) = explained("bnn").open
    assert o.line.startswith("numpyro_models.py:") and "jnp.tanh(x)" in o.line


@pytest.mark.parametrize(
    "name", ["divorce_with_measurement_error", "horseshoe_bernoulli", "multinomial", "mace", "toy_mixture"]
)
def test_the_equations(name):
    assert explained(name).check() < 1e-11
    assert explained(name).latex().count(r"\begin{align*}") == 2
