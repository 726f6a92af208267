"""A number that is not finite is told with its site, operation, row, line and remedy; a model for each break."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.diagnostics.density import blame as module
from lowerbound.diagnostics.density.blame import blame
from lowerbound.diagnostics.density.nonfinite import _by_site, forensics
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

ONE = {"x": lb.Site()}
THREE = {"x": lb.Site(constraints.real, (3,))}
Y = np.array([0.3, -1.2, 2.5, 0.7])
ROWS = np.array([1.0, 2.0, -3.0, 4.0])


def underflowing_scale(y):
    log_scale = numpyro.sample("log_scale", dist.Normal(0, 1))
    scale = jnp.exp(log_scale - 746)  # broken here
    numpyro.sample("y", dist.Normal(0, scale), obs=y)


def negative_rate(y, x):
    b = numpyro.sample("b", dist.HalfNormal(1))
    with numpyro.plate("n", len(y)):
        eta = jnp.log(b * x)  # broken here
        numpyro.sample("y", dist.Normal(eta, 1), obs=y)


def transformed_data(y, x):
    b = numpyro.sample("b", dist.Normal(0, 1))
    z = jnp.log(x)  # broken here
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(b * z, 1), obs=y)


def not_positive_definite(y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    root = jnp.linalg.cholesky(jnp.exp(a) * jnp.ones((4, 4)))  # broken here
    numpyro.sample("y", dist.MultivariateNormal(0, scale_tril=root), obs=y)


def overflowing_rate(y, x):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("n", len(y)):
        rate = jnp.exp((b + 1) * x)  # broken here
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def infinite_logits(y, x):
    b = numpyro.sample("b", dist.Normal(0, 1))
    p = jnp.clip(0.5 + (b + 1) * x, 0, 1)
    logits = jnp.log(p) - jnp.log1p(-p)  # broken here
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def untaken_branch(x):
    root = jnp.where(x > 1, jnp.sqrt(x - 1), 0.0)  # broken here
    return -0.5 * x**2 + root


def norm_at_zero(x):
    distance = jnp.sqrt(jnp.sum((x - x) ** 2))  # broken here
    return -0.5 * jnp.sum(x**2) - distance


def zero_denominator(x, z):
    ratio = 1.0 / (x - x)  # broken here
    return -0.5 * (x**2 + z**2) + ratio


def overflowing_product(x):
    huge = (1e200 + x) * (1e200 - x)  # broken here
    return -0.5 * x**2 + huge


def overflowing_exp(x):
    growth = jnp.exp(800 + x)  # broken here
    return -0.5 * x**2 - growth


def written_in(x):
    value = jnp.where(x**2 > -1, jnp.nan, x)  # broken here
    return value


def in_a_loop(x):
    def turn(carry, t):
        carry = jnp.log(carry - t)  # broken here
        return carry, None

    return jax.lax.scan(turn, 5.0 + x, jnp.arange(4.0))[0]


def in_a_while(x):
    def turn(carry):
        i, c = carry
        return i + 1, jnp.sqrt(c - 2.0)  # broken here

    return -(x**2) + jax.lax.stop_gradient(jax.lax.while_loop(lambda c: c[0] < 5, turn, (0, x + 5.0))[1])


def negative_variance(x):
    sd = jnp.sqrt(x[0] - 2.0)  # broken here
    return -jnp.sum(x**2) - sd


def zero_log(p):
    entropy = -jnp.sum(jnp.round(p) * jnp.log(jnp.round(p)))  # broken here
    return entropy


@jax.custom_jvp
def _callback(x):
    give_nan = lambda a: np.full(np.shape(a), np.nan)  # noqa: E731
    return jax.pure_callback(give_nan, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")


_callback.defjvp(lambda primals, tangents: (_callback(*primals), tangents[0]))


def from_a_callback(x):
    value = _callback(x)  # broken here
    return -(x**2) + value


def branch_of_a_cond(x):
    def bad(x):
        return jnp.log(x - 1)  # broken here

    return jax.lax.cond(x > -1, bad, lambda x: x, x)


class Break(NamedTuple):
    """What is broken and what must be said of it."""

    model: object
    data: dict | None
    operation: str
    sites: tuple[str, ...]
    row: int | None
    suggestion: str


def density(fn, sites=ONE):
    return lb.LogDensity(fn, sites)


TWO = {"x": lb.Site(), "z": lb.Site()}
SIMPLEX = {"p": lb.Site(constraints.simplex, (3,))}
TABLE = {
    b.model.fn.__name__ if isinstance(b.model, lb.LogDensity) else b.model.__name__: b
    for b in (
        Break(underflowing_scale, {"y": Y}, "division of 0.3 by 0", ("log_scale",), 0, "bounded away from 0"),
        Break(negative_rate, {"y": Y, "x": ROWS}, "log of -3", ("b",), 2, "jax.nn.softplus"),
        Break(transformed_data, {"y": Y, "x": ROWS}, "log of -3", (), 2, "this row of the data"),
        Break(not_positive_definite, {"y": Y}, "Cholesky factor of a matrix", ("a",), 0, "jitter"),
        Break(
            overflowing_rate,
            {"y": np.arange(4), "x": np.array([1.0, 2.0, 800.0, 3.0])},
            "exp of 800",
            ("b",),
            2,
            "standardise the covariates",
        ),
        Break(
            infinite_logits,
            {"y": np.array([1, 0, 1, 0]), "x": np.array([0.1, 0.2, -3.0, 0.3])},
            "log of 0",
            ("b",),
            2,
            "infinite logits",
        ),
        Break(density(untaken_branch), None, "square root of -1", ("x",), None, "double-where"),
        Break(density(norm_at_zero, THREE), None, "division of 0.5 by 0", ("x",), None, "add a small constant inside"),
        Break(density(zero_denominator, TWO), None, "division of 1 by 0", ("x",), None, "denominator away from 0"),
        Break(density(overflowing_product), None, "product of 1e+200 and 1e+200", ("x",), None, "units in which"),
        Break(density(overflowing_exp), None, "exp of 800", ("x",), None, "logsumexp"),
        Break(density(written_in), None, "constant nan in the model", (), None, "large finite number"),
        Break(density(in_a_loop), None, "log of -2.495", ("x",), None, "softplus"),
        Break(density(in_a_while), None, "square root of -0.2679", ("x",), None, "must not be negative"),
        Break(density(negative_variance, THREE), None, "square root of -2", ("x",), None, "must not be negative"),
        Break(density(zero_log, SIMPLEX), None, "log of 0", ("p",), 0, "xlogy"),
        Break(density(from_a_callback), None, "value that a callback returned", ("x",), None, "behind the callback"),
        Break(density(branch_of_a_cond), None, "log of -1", ("x",), None, "softplus"),
    )
}


def line_of(fn):
    """The number and text of the line marked as broken; a callback's is its own."""
    fn = fn.fn if isinstance(fn, lb.LogDensity) else fn
    lines, start = inspect.getsourcelines(fn)
    [i] = [i for i, text in enumerate(lines) if "# broken here" in text]
    return start + i


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_what_broke_is_named(case):
    kernel = Kernel(as_model(case.model, case.data))
    x = np.zeros(kernel.dimension)
    with np.errstate(all="ignore"):
        value, _ = kernel(x[None])
    found = blame(kernel, x, gradient=bool(np.isfinite(value[0])), kinds=_by_site(kernel.model, x)[1])
    assert found is not None
    assert case.operation in found.operation
    assert found.sites == case.sites
    assert found.row == case.row
    assert case.suggestion in found.suggestion
    if case.operation != "value that a callback returned":
        assert found.line.startswith(f"test_forensics.py:{line_of(case.model)} (")
    else:
        assert found.line.startswith("test_forensics.py:")
    # ... and the person is told so, with the site that is not finite.
    told = " ".join(forensics(kernel, x))
    assert case.operation in told and case.suggestion in told and "Suggestion: " in told
    assert all(f"{s} = " in told for s in case.sites)


def test_the_table_has_every_way_to_break():
    assert len(TABLE) >= 12
    assert len({b.suggestion for b in TABLE.values()}) >= 12


def test_the_turn_of_a_loop_is_told():
    for name, turn in (("in_a_loop", "turn 2 of the scan"), ("in_a_while", "turn 1 of the while")):
        kernel = Kernel(as_model(TABLE[name].model))
        assert turn in " ".join(forensics(kernel, np.zeros(1)))


def test_an_underflow_is_followed_back_to_its_exp():
    [*_, told] = forensics(Kernel(as_model(underflowing_scale, {"y": Y})), np.zeros(1))
    assert "0 is exp of -746, which underflows" in told


def test_values_are_told_with_their_transforms():
    told = forensics(Kernel(as_model(negative_rate, {"y": Y, "x": ROWS})), np.array([0.5]))
    assert "b = 1.649 (ExpTransform of 0.5)" in told[-1]


def test_what_does_no_harm_is_not_blamed():
    def honest(x):
        hidden = jnp.where(x > -9, x, jnp.log(-1 - x**2))  # infinite, and never taken
        return -0.5 * hidden**2 + jax.scipy.special.logsumexp(jnp.array([0.0, -jnp.inf]))

    kernel = Kernel(as_model(lb.LogDensity(honest, ONE)))
    assert forensics(kernel, np.array([0.5])) == [] or "gradient" in forensics(kernel, np.array([0.5]))[0]
    assert blame(kernel, np.array([0.5])) is None


def test_without_the_record_of_lines_only_the_line_is_lost(monkeypatch):
    from jax._src import source_info_util

    def gone(*_):
        raise AttributeError

    monkeypatch.setattr(source_info_util, "user_frames", gone)
    found = blame(Kernel(as_model(negative_rate, {"y": Y, "x": ROWS})), np.zeros(1))
    assert found is not None and found.line == "" and found.operation == "log of -3"


def test_a_model_too_large_is_explained_by_its_sites(monkeypatch):
    from lowerbound.diagnostics.density import tape

    monkeypatch.setattr(tape, "LARGEST", 1)
    kernel = Kernel(as_model(negative_rate, {"y": Y, "x": ROWS}))
    assert blame(kernel, np.zeros(1)) is None
    [told] = forensics(kernel, np.zeros(1))
    assert "observed site 'y' (Normal): log probability is nan in row 2" in told


def test_a_start_that_is_not_finite_is_told_by_fit():
    line = line_of(negative_rate)
    with pytest.raises(
        lb.errors.NotFiniteError,
        match=rf"observed site 'y' \(Normal\).*log of -3 gives nan in row 2 at test_forensics\.py:{line} "
        r"\(eta = jnp\.log\(b \* x\).*where b = 1 \(ExpTransform of 0\)\. Suggestion: ",
    ):
        lb.fit(negative_rate, {"y": Y, "x": ROWS})


def edge(x):
    return -0.5 * x**2 + 1e-3 * jnp.log(x + 1.5)


def test_a_share_of_the_draws():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(lb.LogDensity(edge, ONE))
    assert any(
        re.search(r"not finite somewhere: first not finite: the log of -.* gives nan at test_", r)
        for r in posterior.verdict.reasons
    )


def test_in_the_middle_of_a_fit():
    with pytest.warns(lb.errors.TrustWarning, match="last good state.*softplus"):
        posterior = lb.fit(lb.LogDensity(edge, ONE), family="diagonal", algorithm="gradient_vi")
    assert posterior.status is lb.Status.NOT_FINITE
    [where] = [r for r in posterior.verdict.reasons if "stopped being finite in phase" in r]
    assert re.search(r"phase '[a-z ]+', step \d+ of gradient_vi; the fit went back to its last good state", where)
    assert "softplus" in posterior.verdict.next_step
    # The state that is returned is a good one.
    assert np.isfinite(posterior.mean()["x"]) and np.isfinite(posterior.log_prob(posterior.mean()))


def test_the_words_are_for_operations_that_exist():
    assert {"div", "log", "exp", "cholesky"} <= set(module._WORDS)
