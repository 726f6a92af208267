"""Every public method has its row: in the test table, and among the library's short names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import lowerbound
from lowerbound import algorithms, families, gradients, objectives, registry
from tests.registry import (
    ALGORITHMS,
    AMORTIZED,
    CLOSED,
    CLOUDS,
    FACTORED,
    FAMILIES,
    GRADIENTS,
    MIXTURES,
    OBJECTIVES,
    POINTS,
    REFUSED,
    SHAPED,
    SITE_GRADIENTS,
    UNBOUND,
)

#: package, its contract, the subjects in the test table, the short names, and what can have no short name
KINDS = {
    "blocks": (
        families,
        families.Block,
        {type(s.block) for s in FAMILIES + SHAPED + POINTS + CLOUDS} | {type(b) for b in MIXTURES + FACTORED},
        None,
        set(),
    ),
    "families": (
        families,
        families.Family,
        {type(s.family) for s in FAMILIES + SHAPED + POINTS + CLOUDS} | {type(f) for f, _ in UNBOUND},
        registry.FAMILIES,
        {families.Product, families.BoundProduct},  # they need sites
    ),
    "algorithms": (
        algorithms,
        algorithms.Algorithm,
        {type(f.algorithm()) for f in ALGORITHMS} | set(CLOSED) | set(AMORTIZED),
        registry.ALGORITHMS,
        set(),
    ),
    "objectives": (
        objectives,
        objectives.Objective,
        {type(make(2)) for make in OBJECTIVES},
        registry.OBJECTIVES,
        {objectives.MMD},  # it needs draws
    ),
    "gradients": (
        gradients,
        gradients.Gradient,
        {type(g) for g in GRADIENTS},
        registry.GRADIENTS,
        set(),
    ),
    "site_gradients": (
        gradients,
        gradients.SiteGradient,
        {type(g) for g in SITE_GRADIENTS},
        registry.SITE_GRADIENTS,
        set(),
    ),
}


def _concrete(package, contract: type) -> set[type]:
    """Every class of the package that fulfils the contract, exported or not, private ones aside."""
    found = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, contract) and not inspect.isabstract(value) and not value.__name__.startswith("_"):
                found.add(value)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_is_public_and_in_the_test_table(kind):
    package, contract, rows, _, _ = KINDS[kind]
    found = _concrete(package, contract)
    assert found, f"no {kind} found: the search is broken"
    hidden = {c.__name__ for c in found} - set(package.__all__)
    assert not hidden, f"not in {package.__name__}.__all__: {sorted(hidden)}"
    missing = {c.__name__ for c in found - rows}
    assert not missing, f"{kind} without a row in tests/registry.py: {sorted(missing)}"


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v[3] is not None])
def test_every_class_has_a_short_name_which_is_its_name(kind):
    package, contract, _, table, unnamed = KINDS[kind]
    made = {name: make() for name, make in table.items()}
    assert {type(v) for v in made.values()} | unnamed == _concrete(package, contract)
    assert {name: v.name for name, v in made.items()} == {name: name for name in made}
    singular = {"families": "family"}.get(kind, kind.removesuffix("s"))
    for name, value in made.items():
        assert type(registry.resolve(singular, name, table, contract)) is type(value)


def test_every_algorithm_meets_every_family_in_one_of_the_two_tables():
    # A pair of algorithm and family is either fitted or refused; a new one cannot be left out of both.
    fitted = {(type(f.algorithm()), type(f.family())) for f in ALGORITHMS}
    refused = {(a, type(f())) for a, f in REFUSED}
    assert not fitted & refused
    for algorithm in _concrete(algorithms, algorithms.Algorithm):
        known = {f for a, f in fitted | refused if a is algorithm}
        assert known, f"{algorithm.__name__} is in neither table"
        assert families.PointMass in known, f"{algorithm.__name__}: is a point mass fitted or refused?"


def test_the_top_level_names_all_resolve():
    for name in lowerbound.__all__:
        assert getattr(lowerbound, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'adviate'"):
        _ = lowerbound.adviate
