"""The plan says which block and which update each latent gets, and why not where it gets none."""

from __future__ import annotations

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import lowerbound as lb
from lowerbound import plan
from lowerbound.explanation.explain import choice
from lowerbound.model.given import as_model
from tests.explanation.models import MODELS


@functools.cache
def explained(name: str) -> lb.Explanation:
    return lb.explain(*MODELS[name])


def kinds(name: str) -> dict[str, tuple[str, str]]:
    return {r.latent: (r.family, r.kind) for r in explained(name).rows}


PLANS = {
    "ard": {"a": ("Gamma", "exact"), "w": ("Gaussian", "exact"), "tau": ("Gamma", "exact")},
    "mixture": {
        "pi": ("Dirichlet", "exact"),
        "mu": ("Gaussian", "exact"),
        "L": ("Wishart", "exact"),
        "z": ("Categorical", "exact"),
    },
    "lda": {"phi": ("Dirichlet", "exact"), "theta": ("Dirichlet", "exact"), "z": ("Categorical", "exact")},
    "pca": {
        "a": ("Gamma", "exact"),
        "C": ("Gaussian", "exact"),
        "x": ("Gaussian", "exact"),
        "tau": ("Gamma", "exact"),
    },
    "logistic": {"b": ("Gaussian", "bound")},
    "poisson": dict.fromkeys(("mu", "beta", "u"), ("Gaussian", "damped")),
    "eight_schools": {
        "mu": ("Gaussian", "exact"),
        "tau": ("Gamma of tau^-2", "bound"),
        "theta": ("Gaussian", "exact"),
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_of_a_model_in_closed_form(name):
    assert kinds(name) == PLANS[name]
    assert list(kinds(name)) == list(PLANS[name]), "rows stand as the model declares its latents"
    assert explained(name).open == ()


def test_blocks_name_those_who_share_them_and_where_they_are_independent():
    rows = {n: {r.latent: r for r in explained(n).rows} for n in ("pca", "mixture", "poisson", "lda", "eight_schools")}
    assert rows["pca"]["C"].block == "Gaussian; independent along m"
    assert rows["pca"]["x"].block == "Gaussian; independent along n"
    assert rows["pca"]["a"].block == "Gamma; independent along axis 0"
    assert rows["mixture"]["L"].block == "Wishart; independent along k"
    assert rows["mixture"]["L"].shape == (3, 2, 2) and rows["mixture"]["L"].plates == ("k",)
    assert rows["lda"]["theta"].independent == ("docs",)
    assert set(rows["poisson"]["mu"].shared) == {"beta", "u"}
    assert rows["eight_schools"]["theta"].block == "Gaussian with mu"


def test_why_names_the_statistics_and_the_factors():
    tau = explained("ard").rows[2]
    assert tau.why == "E[tau], E[log tau] in factors tau, y; conjugate with y"
    assert tau.statistics == ("E[tau]", "E[log tau]") and tau.factors == ("tau", "y") and tau.conjugate
    (b,) = explained("logistic").rows
    assert b.update == "bound: Pólya–Gamma" and not b.conjugate
    assert b.why == "E[b b'] in factor b; E[b], E[b b'] in factor y"
    u = explained("poisson").rows[2]
    assert u.update == "closed form, damped (exp of an affine function)" and "E[exp(affine)]" in u.statistics
    z = explained("mixture").rows[3]
    assert "E[1[z = k]] in factors z, x" in z.why


def test_an_operation_without_a_closed_form_is_named_with_its_line():
    e = explained("added_variances")
    (o,) = e.open
    assert o.factors == ("y",) and o.latents == ("m", "s1", "s2")
    assert o.operation == "the power 0.5 of a sum"
    assert re.fullmatch(r"models\.py:\d+ \(.*jnp\.sqrt\(s1\*\*2 \+ s2\*\*2\)\), obs=y\)\)", o.line), o.line
    found = {r.latent: r for r in e.rows}
    for n in ("m", "s1", "s2"):
        assert found[n].kind == "sampled" and found[n].update == "sampled: Gaussian by score regression"
        assert found[n].why == "in y: the power 0.5 of a sum"
    assert (found["p"].family, found["p"].kind) == ("Beta", "exact"), "what has nothing to do with it keeps its update"
    assert "Without a closed form:\n  - y: the power 0.5 of a sum, at models.py:" in str(e)


def test_moments_that_no_family_has_are_named():
    e = explained("matrix_and_inverse")
    (o,) = e.open
    assert o.operation == "both 'S' and its inverse, which no family has" and set(o.factors) == {"S", "y"}
    assert [r.kind for r in e.rows] == ["sampled"]


def test_discrete_latents_beside_an_open_factor_are_refused_as_fit_refuses_them():
    model, data = MODELS["discrete_and_open"]
    e = lb.explain(model, data)
    assert [(r.latent, r.kind) for r in e.rows] == [("p", "exact"), ("a", "none"), ("z", "none")]
    assert e.algorithm is None and "lb.fit refuses the model" in e.choice.sentence
    with pytest.raises(lb.errors.IncompatibleError) as refused:
        lb.fit(model, data)
    assert e.choice.sentence == f"lb.fit refuses the model: {refused.value}"


def test_blocks_beside_a_discrete_latent_keep_their_family_where_a_factor_is_drawn():
    e = explained("discrete_and_drawn")
    assert [(r.latent, r.family, r.kind) for r in e.rows] == [
        ("p", "Dirichlet", "exact"),
        ("mu", "Gaussian", "sampled"),
        ("z", "Categorical", "exact"),
    ]
    assert e.rows[1].update == "sampled: natural gradient on fixed noise"
    assert e.algorithm == "conjugate_computation" and "tanh" in e.rows[1].why


@pytest.mark.parametrize("name", [n for n in MODELS if n != "discrete_and_open"])
def test_the_algorithm_is_that_which_fit_would_choose(name):
    family, algorithm = plan.choose(as_model(*MODELS[name]))
    e = explained(name)
    assert (e.family, e.algorithm) == (getattr(family, "name", None), algorithm.name)
    assert f"algorithm {algorithm.name}" in str(e).splitlines()[-1]
    assert choice(as_model(*MODELS[name])).algorithm == algorithm.name


@pytest.mark.parametrize("name", MODELS)
def test_the_text_is_plain_and_fits(name):
    text = str(explained(name))
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text and "\t" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert text == repr(explained(name))
    head = text.splitlines()[2]
    assert head.split() == ["latent", "block", "of", "q", "update", "why"]


def test_the_table_of_a_regression():
    assert str(explained("ard")) == (
        "Plan of ard: 3 latents in 3 blocks, 4 of 4 factors in closed form\n"
        "\n"
        "latent  block of q                    update                 why\n"
        "a (3)   Gamma; independent along      exact, in closed form  "
        "E[a], E[log a] in factors a, w; conjugate with w\n"
        "         axis 0\n"
        "w (3)   Gaussian                      exact, in closed form  "
        "E[w w'], E[w] in factors w, y; conjugate with y\n"
        "tau     Gamma                         exact, in closed form  "
        "E[tau], E[log tau] in factors tau, y; conjugate with y\n"
        "\n"
        "lb.fit with no options: algorithm score_regression, family dense."
    )


@pytest.mark.parametrize("name", ["ard", "added_variances"])
def test_a_terminal_and_a_notebook_get_tables(name):
    e = explained(name)
    console = Console(width=120, force_terminal=True)
    with console.capture() as captured:
        console.print(e)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    html = e._repr_html_()
    for r in e.rows:
        assert r.latent in shown and f">{r.latent}" in html
    assert html.count("<tr>") == 1 + len(e.rows)
    assert "<script" not in html and "E[" in html
    if e.open:
        assert "Without a closed form" in shown and "the power 0.5 of a sum" in html


def test_names_are_escaped_in_a_notebook():
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        m = numpyro.sample("<b>m</b>", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    assert "&lt;b&gt;m&lt;/b&gt;" in lb.explain(model, {"y": 1.0})._repr_html_()


def test_nothing_is_compiled_for_the_latents(monkeypatch):
    from lowerbound import compilation, kernel

    def refuse(*a, **k):
        raise AssertionError("a kernel was compiled")

    monkeypatch.setattr(compilation, "compile_lowered", refuse)
    monkeypatch.setattr(kernel.Kernel, "__init__", refuse)
    assert lb.explain(*MODELS["ard"]).open == ()


def test_a_log_density_is_one_factor():
    sites = {"x": lb.Site(shape=(3,))}
    e = lb.explain(lb.LogDensity(lambda x: -0.5 * (x**2).sum(), sites))
    assert [(r.latent, r.family, r.kind) for r in e.rows] == [("x", "Gaussian", "exact")] and e.check() < 1e-12
    e = lb.explain(lb.LogDensity(lambda x: -0.5 * jnp.sin(x.sum()) ** 2, sites))
    assert [(r.latent, r.kind) for r in e.rows] == [("x", "sampled")]
    assert "sin" in e.open[0].operation and "jnp.sin(x.sum())" in e.open[0].line
    with pytest.raises(lb.errors.IncompatibleError, match="nothing to write down"):
        e.latex()
    with pytest.raises(lb.errors.IncompatibleError, match="nothing to write down"):
        e.check()


def test_bad_input_is_refused_as_a_fit_refuses_it():
    model, data = MODELS["ard"]
    with pytest.raises(lb.errors.ModelError, match="Missing: y"):
        lb.explain(model, {"X": data["X"]})
    with pytest.raises(lb.errors.DataError):
        lb.explain(model, {**data, "y": np.full(20, np.nan)})
