"""The arrow of a model, found from its gradients: plates, vectors, crossed, nested effects; None without one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms import structure
from lowerbound.algorithms.structure import find_layout
from lowerbound.errors import IncompatibleError
from lowerbound.families import Arrow, ArrowLayout, Dense, Diagonal
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from lowerbound.plan import choose, refine


def layout_of(model, data=None) -> tuple[Model, ArrowLayout | None]:
    bound = Model.from_log_density(model, data) if isinstance(model, lb.LogDensity) else Model.from_numpyro(model, data)
    return bound, find_layout(Kernel(bound))


def groups(model: Model, layout: ArrowLayout) -> set[frozenset[str]]:
    """The groups by the names of their coordinates."""
    names, out = np.array(model.coordinate_names())[layout.order[layout.globals :]], set()
    for n, d, place, _ in layout.parts:
        out |= {frozenset(g) for g in names[place].reshape(n, d).tolist()}
    return out


def globals_of(model: Model, layout: ArrowLayout) -> set[str]:
    return set(np.array(model.coordinate_names())[layout.order[: layout.globals]])


def plated(g, y, groups):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("groups", groups):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(theta[g] + slope[g] * jnp.arange(len(g)) / 50, 1), obs=y)


def vectors(g, y, groups):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(2))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([groups]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([groups]).to_event(1))
    numpyro.sample("y", dist.Normal(theta[g] + slope[g] * jnp.arange(len(g)) / 50, 1), obs=y)


@pytest.mark.parametrize("model", [plated, vectors])
@pytest.mark.parametrize("count", [9, 100])  # from the Hessian's pattern, and from shapes
def test_groups_under_common_scales(model, count):
    data = {"g": np.repeat(np.arange(count), 3), "y": np.random.default_rng(0).standard_normal(3 * count)}
    bound, layout = layout_of(model, data | {"groups": count})
    assert layout is not None
    assert globals_of(bound, layout) == {"mu", "tau"}
    assert groups(bound, layout) == {frozenset({f"theta[{j}]", f"slope[{j}]"}) for j in range(count)}


def test_of_two_crossed_effects_the_smaller_is_global():
    def crossed(i, j, y):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([7]).to_event(1))
        b = numpyro.sample("b", dist.Normal(0, 1).expand([150]).to_event(1))
        numpyro.sample("y", dist.Normal(a[i] + b[j], 1), obs=y)

    i, j = np.divmod(np.arange(7 * 150), 150)
    bound, layout = layout_of(crossed, {"i": i, "j": j, "y": np.random.default_rng(1).standard_normal(len(i))})
    assert layout is not None
    assert globals_of(bound, layout) == {f"a[{k}]" for k in range(7)}
    assert groups(bound, layout) == {frozenset({f"b[{k}]"}) for k in range(150)}


@pytest.mark.parametrize("few", [0, 50])
def test_groups_within_regions_of_unequal_sizes(few, monkeypatch):
    # Shapes offer the groups, with all 30 regions global. If that is too many, regions with their groups are found.
    monkeypatch.setattr(structure, "_FEW", few)
    rng = np.random.default_rng(2)
    region = np.sort(np.concatenate([np.arange(30), rng.integers(0, 30, 90)]))

    def nested(region, y):
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        r = numpyro.sample("r", dist.Normal(0, 1).expand([30]).to_event(1))
        g = numpyro.sample("g", dist.Normal(r[region], tau).to_event(1))
        numpyro.sample("y", dist.Normal(g, 1).to_event(1), obs=y)

    bound, layout = layout_of(nested, {"region": region, "y": rng.standard_normal(120)})
    assert layout is not None
    if few:
        assert globals_of(bound, layout) == {"tau", *(f"r[{k}]" for k in range(30))}
        return
    assert globals_of(bound, layout) == {"tau"}
    expected = {frozenset([f"r[{k}]", *(f"g[{i}]" for i in np.flatnonzero(region == k))]) for k in range(30)}
    assert groups(bound, layout) == expected
    assert len(layout.classes) == len(set(np.bincount(region)))


def test_sites_of_one_size_that_are_no_groups_are_not_taken_for_them():
    # A sum over each site couples all of it, though the shapes look like a plate.
    def density(a, b):
        return -0.5 * (a**2).sum() - 0.5 * (b**2).sum() - 0.1 * a.sum() ** 2 - 0.1 * (jnp.cumsum(b)[-1]) ** 2

    sites = {"a": lb.Site(shape=(100,)), "b": lb.Site(shape=(100,))}
    _, layout = layout_of(lb.LogDensity(density, sites))
    assert layout is not None and layout.globals == 0
    assert layout.classes.tolist() == [[2, 100]]


@pytest.mark.parametrize("p", [900, 2000])
def test_where_everything_is_coupled_there_is_none(p):
    target = lb.LogDensity(lambda x: -0.5 * (x**2).sum() - 0.5 * x.sum() ** 2, {"x": lb.Site(shape=(p,))})
    _, layout = layout_of(target)
    assert layout is None
    with pytest.raises(IncompatibleError, match="has no arrow"):
        lb.fit(target, family="arrow")


def test_the_choice():
    def groups_of(n):
        return lb.LogDensity(
            lambda mu, x: -0.5 * mu**2 - 0.5 * ((x - mu) ** 2).sum(),
            {"mu": lb.Site(), "x": lb.Site(shape=(n,))},
        )

    coupled = lb.LogDensity(lambda x: -0.5 * (x**2).sum() - 0.5 * x.sum() ** 2, {"x": lb.Site(shape=(900,))})
    chosen = {}
    for name, target in {
        "small": groups_of(50),
        "large": groups_of(500),
        "huge": groups_of(1500),
        "none": coupled,
    }.items():
        model = Model.from_log_density(target)
        chosen[name] = [type(c) for c in refine(Kernel(model), *choose(model))]
    assert chosen == {
        "small": [Dense, lb.algorithms.ScoreRegression],
        "large": [Arrow, lb.algorithms.ScoreRegression],
        "huge": [Arrow, lb.algorithms.ScoreRegression],
        "none": [Dense, lb.algorithms.ScoreRegression],
    }
    chain = lb.LogDensity(lambda x: -0.5 * x[0] ** 2 - 0.5 * (jnp.diff(x) ** 2).sum(), {"x": lb.Site(shape=(1200,))})
    model = Model.from_log_density(chain)
    assert [type(c) for c in refine(Kernel(model), *choose(model))] == [Diagonal, lb.algorithms.SampleAverage]


def test_a_layout_names_each_coordinate_once():
    with pytest.raises(IncompatibleError, match=r"needed: each of 0\.\.p-1"):
        ArrowLayout.of([0, 1], [[2, 3], [3]])
    with pytest.raises(IncompatibleError, match="has no layout"):
        Arrow().build(np.zeros(3), np.ones(3))
    with pytest.raises(IncompatibleError, match="arrows, flows and sinh-arcsinh are fitted to all sites together"):
        lb.families.Product({"a": Arrow(), ...: Diagonal()})
    target = lb.LogDensity(lambda x: -0.5 * (x**2).sum(), {"x": lb.Site(shape=(3,))})
    with pytest.raises(IncompatibleError, match="score_regression finds it"):
        lb.fit(target, family="arrow", algorithm="sample_average")
