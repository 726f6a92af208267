"""The identity in symbols: closed forms against known ones, every line at numbers, and LaTeX that is whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy as sp
from scipy import stats
from scipy.special import betaln, gammaln

import lowerbound as lb
from lowerbound.symbolic import Bernoulli, Beta, Binomial, Categorical, Exponential, Gamma, Model, Normal, Poisson
from lowerbound.symbolic.derivation import Line
from lowerbound.symbolic.integrals import within

MEANS = ("mu0", "mu1")
#: model, q, numbers, and log p(x) at them where it has a closed form.
CASES = {
    "normal": (
        Model(prior=Normal("m0", "tau"), likelihood=lambda z: Normal(z, "sigma"), data=("x", "y")),
        Normal("m", "s"),
        {"x": 1.3, "y": -0.4, "m0": 0.5, "tau": 2.0, "sigma": 0.5, "m": 0.7, "s": 0.4},
        stats.multivariate_normal([0.5, 0.5], [[4.25, 4.0], [4.0, 4.25]]).logpdf([1.3, -0.4]),
    ),
    "beta and bernoulli": (
        Model(prior=Beta("a", "b"), likelihood=lambda z: Bernoulli(z), data=("x", "y", "w")),
        Beta("c", "d"),
        {"x": 1, "y": 0, "w": 1, "a": 2.0, "b": 0.5, "c": 3.0, "d": 1.4},
        betaln(4.0, 1.5) - betaln(2.0, 0.5),
    ),
    "beta and binomial": (
        Model(prior=Beta(1, 1), likelihood=lambda z: Binomial(10, z)),
        Beta("c", "d"),
        {"x": 7, "c": 3.0, "d": 1.4},
        -2.3978952727983707,  # log 1/11
    ),
    "gamma and poisson": (
        Model(prior=Gamma("a", "b"), likelihood=lambda z: Poisson(z), data=("x", "y")),
        Gamma("c", "d"),
        {"x": 3, "y": 1, "a": 2.0, "b": 0.5, "c": 3.0, "d": 1.4},
        2 * np.log(0.5) - gammaln(2) + gammaln(6) - 6 * np.log(2.5) - gammaln(4) - gammaln(2),
    ),
    "exponential": (
        Model(prior=Exponential("r"), likelihood=lambda z: Exponential(z), latent="rate"),
        Gamma("c", "d"),
        {"x": 0.7, "r": 1.5, "c": 3.0, "d": 1.4},
        np.log(1.5) - 2 * np.log(2.2),
    ),
    "two states": (
        Model(prior=Categorical(["w", None]), likelihood=lambda k: Normal(MEANS[k], "sigma")),
        Categorical(["r", None]),
        {"x": 0.3, "w": 0.3, "mu0": -1.0, "mu1": 2.0, "sigma": 1.1, "r": 0.6},
        np.log(0.3 * stats.norm.pdf(0.3, -1, 1.1) + 0.7 * stats.norm.pdf(0.3, 2, 1.1)),
    ),
    "a log rate": (
        Model(prior=Normal(0, 1), likelihood=lambda z: Poisson(sp.exp(z))),
        Normal("m", "s"),
        {"x": 3, "m": 0.7, "s": 0.4},
        None,
    ),
    "a logit": (
        Model(prior=Normal(0, 1), likelihood=lambda z: Bernoulli(1 / (1 + sp.exp(-z))), seconds=0),
        Normal("m", "s"),
        {"x": 1, "m": 0.7, "s": 0.4},
        np.log(0.5),  # by symmetry
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_line_holds(name):
    model, q, values, evidence = CASES[name]
    derivation = model.derivation(q)
    found = {c.name: c for c in derivation.check(values)}
    assert list(found) == [line.name for line in derivation.lines]
    # Not the posterior: Jensen's inequality is strict, and by as much as the divergence.
    assert found["Jensen"].difference > 1e-3
    assert found["Jensen"].difference == pytest.approx(found["KL"].left, abs=1e-9)
    if evidence is not None:
        assert found["evidence"].right == pytest.approx(float(evidence), abs=1e-9)


def test_known_closed_forms():
    m = Model(prior=Normal(0, "tau"), likelihood=lambda z: Normal(z, "sigma"))
    tau, sigma = sp.symbols("tau sigma", positive=True)
    x, variance = sp.Symbol("x", real=True), tau**2 + sigma**2
    assert sp.simplify(m.evidence + x**2 / (2 * variance) + sp.log(2 * sp.pi * variance) / 2) == 0
    assert sp.simplify(m.posterior.mean - tau**2 * x / variance) == 0
    assert sp.simplify(m.posterior.sd**2 - tau**2 * sigma**2 / variance) == 0
    # At the posterior the ELBO is the evidence, and the divergence nothing: as expressions, not as numbers.
    at = m.derivation(m.posterior)
    assert sp.simplify(sp.expand_log(at.elbo - m.evidence, force=True)) == 0
    assert sp.simplify(sp.expand_log(at.kl, force=True)) == 0
    g = Model(prior=Gamma("a", "b"), likelihood=lambda z: Poisson(z))
    a, b = sp.symbols("a b", positive=True)
    assert [sp.simplify(p - e) for p, e in zip(g.posterior.parameters(), (a + x, b + 1), strict=True)] == [0, 0]


def test_without_a_closed_form_the_integral_is_left():
    model, q, _, _ = CASES["a logit"]
    derivation = model.derivation(q)
    assert model.evidence is None and model.posterior is None and derivation.kl is None
    assert derivation.evidence.has(sp.Integral) and derivation.elbo.has(sp.Integral)
    # A Normal's mean of an exponential has a rule, so that the other one's ELBO is closed where its evidence is not.
    model, q, _, _ = CASES["a log rate"]
    assert model.evidence is None and not model.derivation(q).elbo.has(sp.Integral)


@pytest.mark.parametrize("name", CASES)
def test_the_latex_is_whole(name):
    model, q, _, _ = CASES[name]
    text = model.derivation(q).latex()
    bare = text.replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for c in bare:
        depth += {"{": 1, "}": -1}.get(c, 0)
        assert depth >= 0
    assert depth == 0
    assert len(re.findall(r"\\left(?![a-z])", text)) == len(re.findall(r"\\right(?![a-z])", text))
    assert text.startswith("\\begin{aligned}\n") and text.endswith("\n\\end{aligned}")
    rows = text.split("\n")[1:-1]
    assert all(r.count(r" &") >= 1 or r.startswith("&") for r in rows)
    assert all(r.endswith(r"\\") for r in rows[:-1])


def test_a_line_that_does_not_hold_is_said(monkeypatch):
    model, q, values, _ = CASES["normal"]
    derivation = model.derivation(q)
    wrong = Line("halved", "a", "=", "b", "no reason", lambda n: (n.value(sp.Integer(1)), n.value(sp.Rational(1, 2))))
    less = Line("less", "a", r"\ge", "b", "no reason", lambda n: (n.zero, n.zero + 1))
    for line in (wrong, less):
        monkeypatch.setattr(derivation, "lines", (*derivation.lines[:1], line))
        with pytest.raises(lb.errors.DerivationError, match=f"the line '{line.name}' does not hold at"):
            derivation.check(values)
        monkeypatch.undo()


def test_errors():
    model, q, values, _ = CASES["normal"]
    derivation = model.derivation(q)
    with pytest.raises(lb.errors.DataError, match=r"Missing: \['tau'\]"):
        derivation.check({k: v for k, v in values.items() if k != "tau"})
    with pytest.raises(lb.errors.DataError, match=r"Unknown: \['rho'\]"):
        derivation.check({**values, "rho": 1.0})
    with pytest.raises(lb.errors.DataError, match=r"tau = -2; needed: a positive number"):
        derivation.check({**values, "tau": -2})
    with pytest.raises(lb.errors.ModelError, match="q is over positive, the prior over real"):
        model.derivation(Gamma(1, 1))
    with pytest.raises(lb.errors.ModelError, match="the prior is Poisson; needed"):
        Model(prior=Poisson(3), likelihood=lambda z: Normal(z, 1))
    with pytest.raises(lb.errors.ModelError, match="the likelihood gave Symbol; needed"):
        Model(prior=Normal(0, 1), likelihood=lambda z: z)
    with pytest.raises(lb.errors.ModelError, match="a parameter is -1; needed: a positive number"):
        Normal(0, -1)
    with pytest.raises(lb.errors.ModelError, match="named 'pi'"):
        Bernoulli("pi")
    with pytest.raises(lb.errors.ModelError, match="only the last may be None"):
        Categorical([None, 0.5])


def test_what_takes_too_long_is_left():
    def for_ever():
        while True:
            pass

    assert within(0.05, for_ever) is None
    assert within(5.0, lambda: 3) == 3
    assert within(0, lambda: 3) is None


def test_numbers_that_the_model_cannot_have():
    coin = Model(prior=Beta(1, 1), likelihood=lambda z: Bernoulli(z))
    with pytest.raises(lb.errors.DataError, match=r"x = 0.5, and p\(x \| z\) is Bernoulli\(z\); needed: one of 0, 1"):
        coin.derivation(Beta(2, 2)).check({"x": 0.5})
    draws = Model(prior=Beta(1, 1), likelihood=lambda z: Binomial(5, z))
    with pytest.raises(lb.errors.DataError, match=r"x = 6, and .*needed: a count"):
        draws.derivation(Beta(2, 2)).check({"x": 6})
    counts = Model(prior=Gamma(2, 1), likelihood=lambda z: Poisson(z))
    for x in (-1, 1.5):
        with pytest.raises(lb.errors.DataError, match=f"x = {x}, and .*needed: a count"):
            counts.derivation(Gamma(2, 2)).check({"x": x})
    two = Model(prior=Categorical(["w", "v", None]), likelihood=lambda k: Poisson(k + 1))
    with pytest.raises(lb.errors.DataError, match=r"has the probability -v - w \+ 1 = -0.2 at"):
        two.derivation(Categorical([0.2, 0.3, None])).check({"x": 2, "w": 0.5, "v": 0.7})
    with pytest.raises(lb.errors.ModelError, match=r"sum to 1.1.*; needed: 1"):
        Categorical([0.5, 0.6])
    with pytest.raises(lb.errors.ModelError, match=r"the last probability is -0\.1"):
        Categorical([0.5, 0.6, None])
    with pytest.raises(lb.errors.ModelError, match="needed: a probability below 1"):
        Bernoulli(1.5)
    assert Categorical([0.1] * 10).support == tuple(range(10))


def test_a_distribution_reads_as_it_is_written():
    assert repr(Model(prior=Beta(1, 1), likelihood=lambda z: Bernoulli(z)).posterior) == "Beta(x + 1, 2 - x)"
    assert repr(Normal("m", 2)) == "Normal(m, 2)"
