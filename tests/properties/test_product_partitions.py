"""Products of blocks over any partition of the sites, in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowerbound as lb
from lowerbound.errors import IncompatibleError, LowerboundError, UnknownNameError
from lowerbound.families import Dense, Diagonal, LowRank, Product
from lowerbound.model import Model
from tests.properties.quick import quick

FAMILIES = st.sampled_from([Dense(), Diagonal(), LowRank(1), LowRank(2)])


@st.composite
def partitions(draw: st.DrawFn) -> tuple[Model, dict, list[list[str]]]:
    """A model, a Product's dictionary for it, and the groups of sites it means."""
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=2), min_size=1, max_size=5))
    sites = {f"s{i}": lb.Site(shape=tuple(s)) for i, s in enumerate(shapes)}
    model = Model.from_log_density(lb.LogDensity(lambda z: -sum((v**2).sum() for v in z.values()), sites))
    names = draw(st.permutations(list(sites)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(names) - 1)), max_size=len(names) - 1)))
    groups = [list(g) for g in np.split(np.array(names, object), cuts) if len(g)]
    rest = draw(st.booleans())
    blocks: dict = {}
    for j, g in enumerate(groups):
        if rest and j == len(groups) - 1:
            # What is left over comes in the model's order.
            blocks[...] = draw(FAMILIES)
            groups[j] = [n for n in sites if n in g]
        else:
            blocks[g[0] if len(g) == 1 and draw(st.booleans()) else tuple(g)] = draw(FAMILIES)
    return model, blocks, groups


@quick(60)
@given(partitions())
def test_the_blocks_partition_the_coordinates(partition):
    model, blocks, groups = partition
    bound = Product(blocks).bind(model)
    assert np.array_equal(np.sort(np.concatenate(bound.indices)), np.arange(model.dimension))
    assert list(bound.families) == list(blocks.values())
    for names, index in zip(groups, bound.indices, strict=True):
        expected = np.concatenate(
            [np.arange(model.sites[n].start, model.sites[n].start + model.sites[n].size) for n in names]
        )
        assert np.array_equal(index, expected)


@quick(60)
@given(partitions(), st.integers(0, 2**32 - 1))
def test_a_product_is_its_factors(partition, seed):
    model, blocks, _ = partition
    bound = Product(blocks).bind(model)
    rng = np.random.default_rng(seed)
    d = model.dimension
    shape = {k: np.shape(v) for k, v in bound.parameters(bound.build(np.zeros(d), np.ones(d))).items()}
    q = bound.from_parameters({k: 0.5 * rng.standard_normal(s) for k, s in shape.items()})
    x = rng.standard_normal((4, d))
    parts = [b.log_prob(x[:, i]) for b, i in zip(q.blocks, q.indices, strict=True)]
    np.testing.assert_allclose(q.log_prob(x), np.sum(parts, 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(q.entropy(), sum(b.entropy() for b in q.blocks), rtol=1e-12, atol=1e-12)
    covariance, expected = q.covariance(), np.zeros((d, d))
    for b, i in zip(q.blocks, q.indices, strict=True):
        np.testing.assert_array_equal(q.mean[i], b.mean)
        np.testing.assert_allclose(q.variance()[i], b.variance())
        expected[np.ix_(i, i)] = b.covariance()
    np.testing.assert_allclose(covariance, expected, rtol=1e-12)
    # transform is affine: its slope times its transpose is that covariance, in the right places.
    origin = q.transform(np.zeros((1, q.noise_dimension)))
    slope = q.transform(np.eye(q.noise_dimension)) - origin
    np.testing.assert_allclose(slope.T @ slope, covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(origin[0], q.mean, atol=1e-14)


@quick(40)
@given(partitions(), st.data())
def test_what_is_not_a_partition_is_refused(partition, data):
    model, blocks, _ = partition
    named = {k: v for k, v in blocks.items() if k is not ...}
    site = data.draw(st.sampled_from(list(model.sites)))
    if any(site in (k if isinstance(k, tuple) else (k,)) for k in named):
        with pytest.raises(LowerboundError, match=f"{site!r} is in two blocks"):
            Product({**blocks, (site, site): Dense()}).bind(model)
        without = {k: v for k, v in named.items() if site not in (k if isinstance(k, tuple) else (k,))}
        if without:
            with pytest.raises(IncompatibleError, match="in no block"):
                Product(without).bind(model)
    with pytest.raises(UnknownNameError, match="unknown site 'sigma'"):
        Product({**blocks, "sigma": Dense()}).bind(model)


@pytest.mark.parametrize("blocks", [{}, None, [Dense()], {"a": Dense}, {"a": "dense"}, {"a": Product({"b": Dense()})}])
def test_a_product_of_what_are_no_families_is_refused(blocks):
    with pytest.raises(IncompatibleError):
        Product(blocks)


def test_a_point_mass_in_a_product_is_refused():
    with pytest.raises(IncompatibleError, match="point mass has no density"):
        Product({"a": lb.families.PointMass(), ...: Dense()})


def test_an_unbound_product_cannot_be_built():
    product = Product({"a": Dense()})
    for call in (lambda: product.build(np.zeros(1), np.ones(1)), lambda: product.from_parameters({})):
        with pytest.raises(IncompatibleError, match="meets a model"):
            call()
