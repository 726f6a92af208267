"""What is printed is what is computed, and it is LaTeX."""

from __future__ import annotations

import re

import numpy as np
import pytest

import lowerbound as lb
from tests.explanation.models import MODELS
from tests.explanation.test_explain import explained


@pytest.mark.parametrize("name", [n for n in MODELS if n != "matrix_and_inverse"])
def test_the_written_terms_give_the_computed_elbo_and_updates(name):
    assert explained(name).check() < 1e-11


@pytest.mark.parametrize("name", ["ard", "mixture"])
def test_the_comparison_sees_a_wrong_number(name):
    import dataclasses

    e = lb.explain(*MODELS[name])
    equations = e.equations
    f = equations.factors[-1]
    wrong = dataclasses.replace(f.products[0], number=1.001 * f.products[0].number)
    factor = dataclasses.replace(f, products=(wrong, *f.products[1:]))
    e.__dict__["equations"] = dataclasses.replace(equations, factors=(*equations.factors[:-1], factor))
    assert e.check() > 1e-6


def test_the_comparison_sees_a_wrong_update():
    import dataclasses

    e = lb.explain(*MODELS["lda"])
    u = e.equations.updates[0]
    (key,) = u.axes
    lost = dataclasses.replace(u, parameters={key: {k: v for k, v in u.parameters[key].items() if k != "w"}})
    e.__dict__["equations"] = dataclasses.replace(e.equations, updates=(lost, *e.equations.updates[1:]))
    assert e.check() > 1e-3


@pytest.mark.parametrize("name", [n for n in MODELS if n != "matrix_and_inverse"])
def test_it_is_latex(name):
    text = explained(name).latex()
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") == 2
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("%"))
    assert body.isascii()
    depth = 0
    for c in re.sub(r"\\[{}]", "", body):
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    for environment in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", body, re.DOTALL):
        for row in environment.split("\\\\\n"):
            assert row.count("&") == 1, row
            assert row.count(r"\bigl") == row.count(r"\bigr") and row.count(r"\Bigl") == row.count(r"\Bigr"), row
            assert row.count(r"\langle") == row.count(r"\rangle"), row
            _check_scripts(row)


def _check_scripts(row: str) -> None:
    """No base has two subscripts, or two superscripts: TeX stops there."""
    text = re.sub(r"\\([A-Za-z]+)\{", r"{", row)
    while True:  # innermost groups first
        shorter = re.sub(r"\{[^{}]*\}", "o", text)
        if shorter == text:
            break
        text = shorter
    assert not re.search(r"_.'*(\^.)?_|\^.(_.)?\^", text.replace(" ", "|")), row


def rows(name: str) -> list[str]:
    return [r.removesuffix(r" \\") for r in explained(name).latex().splitlines()]


def test_the_update_of_a_mixture():
    text = "\n".join(rows("mixture"))
    assert (
        r"\langle \log p(z \mid \pi) \rangle &= \sum_{k,n} \langle [z_{n} = k] \rangle\, \langle \log \pi_{k} \rangle"
        in text
    )
    assert r"\eta_{\log \pi}\bigl[k\bigr] &= \sum_{n} \langle [z_{n} = k] \rangle\quad\text{from }z" in text
    assert r"q^*(\pi) &= \mathrm{Dirichlet}\bigl(\eta_{\log \pi} + 1\bigr)" in text
    assert r"q^*(z) &= \mathrm{Categorical}\bigl(\mathrm{softmax}(\eta_{z})\bigr)" in text
    assert r"\eta_{z}\bigl[n, k\bigr] &= \langle \log \pi_{k} \rangle\quad\text{from }z" in text


def test_topics_are_counted_by_brackets():
    text = "\n".join(rows("lda"))
    assert r"\langle \log \theta_{\mathrm{doc}_{w},t} \rangle" in text
    assert r"\sum_{w} [\mathrm{doc}_{w} = d]\, \langle [z_{w} = t] \rangle\quad\text{from }z" in text
    assert "% g^" not in text, "every index is an argument of the model"


def test_sums_over_rows_are_recognised():
    text = "\n".join(rows("ard"))
    assert r"\Bigl(\sum_{n} X_{ni} X_{ni'}\Bigr)\, \langle \tau \rangle\, \langle w_{i} w_{i'} \rangle" in text
    assert r"\Bigl(\sum_{n} X_{ni} y_{n}\Bigr)" in text
    assert "X^{(1)}" not in text
    assert r"\Bigl(\sum_{n} X_{ni} (y_{n} - \frac{1}{2})\Bigr)" in "\n".join(rows("logistic"))
    schools = "\n".join(rows("eight_schools"))
    assert r"\sigma_{s}^{-2}\, y_{s}" in schools


def test_an_array_that_is_not_recognised_is_numbered_and_listed():
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(0, jnp.ones(5)), obs=jnp.zeros(5))
        with numpyro.plate("rows", 5):
            u = numpyro.sample("u", dist.Normal(0, 1))
            numpyro.sample("v", dist.Normal(w + jnp.sin(x) * u, 1), obs=y)

    rng = np.random.default_rng(1)
    e = lb.explain(model, {"x": rng.normal(size=5), "y": rng.normal(size=5)})
    assert "X^{(1)}_{r}" in e.latex() and "% X^(1): an array of shape (5,) that the model computes." in e.latex()
    assert e.check() < 1e-12


def test_a_block_in_an_open_factor_has_no_update_written():
    text = "\n".join(rows("added_variances"))
    assert r"q(m) &: \text{no closed form, since }y\text{ has none}" in text
    assert r"\langle \log p(y \mid m, s_{1}, s_{2}) \rangle &: \text{no closed form}" in text
    assert r"q^*(p) &= \mathrm{Beta}" in text
