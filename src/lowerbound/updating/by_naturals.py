"""The next prior by natural parameters, where q is a product of exponential families: exact in conjugate models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lowerbound.algorithms.carried import CarriedTerm, carried, kl_divergence
from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.factored import Factored
from lowerbound.closed_form import factored_of
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.factors import random_factors
from lowerbound.families import FactoredBlock
from lowerbound.fitting import Options, Session, assemble, fit_closed_form, warn_of
from lowerbound.model.base import Model
from lowerbound.model.carried import with_prior
from lowerbound.posterior import Posterior


def by_naturals(
    posterior: Posterior,
    bound: Model,
    shared: tuple[str, ...],
    forget: float,
    family: Any,
    algorithm: Any,
    options: Options,
) -> tuple[Posterior, float, str, Estimate] | None:
    """By natural parameters; None where q is not of that kind, was corrected, or another family was asked for."""
    q = posterior.q
    if family is not None or not (algorithm is None or _is_ascent(algorithm)):
        return None
    if not isinstance(q, FactoredBlock):
        return _none(algorithm, bound, f"q is of the {posterior.family_name} family")
    if posterior.corrected and not bound.discrete and algorithm is None:
        return None
    session, asked = Session(options), algorithm
    joint = random_factors(bound)
    if not isinstance(algorithm, CoordinateAscent):
        algorithm = ConjugateComputationVI() if joint.open else CoordinateAscent()
    draws = algorithm.num_draws if isinstance(algorithm, ConjugateComputationVI) else None
    found: tuple[Factored, list[CarriedTerm]] | None = None
    for joined in (True, False) if algorithm.joined else (False,):
        full = factored_of(bound, joined=joined, num_draws=draws, seed=options.seed, joint=joint)
        found = carried(full, joint, q, shared, forget=forget)
        if found is not None:
            break
    if found is None:
        return _none(asked, bound, "the model has other blocks for these rows than q")
    factored, terms = found
    model = bound
    if not bound.discrete:

        def log_prior(z: Mapping[str, Any], u: Mapping[str, Any], own: Any) -> Any:
            return sum((t.log_density(z) for t in terms), jnp.zeros(()))

        model = with_prior(bound, shared, log_prior, unconstrained=False)
    with session:
        new = assemble(fit_closed_form(model, algorithm, session, factored=factored), session)
    warn_of(new.verdict)
    assert isinstance(new.q, FactoredBlock)
    before = [CarriedTerm.of(t.block, n) for t, n in zip(terms, _naturals(q, terms), strict=True)]
    return (
        new,
        kl_divergence(before, factored, new.q.naturals),
        "the natural parameters of q",
        Estimate(0.0, 0.0),
    )


def _none(algorithm: Any, bound: Model, why: str) -> None:
    """Nothing is carried exactly; an error where the algorithm that was asked for needs that."""
    if algorithm is not None and not bound.discrete:
        named = getattr(algorithm, "name", algorithm)
        raise IncompatibleError(
            f"algorithm={named!r} carries over the natural parameters of exponential families, and {why}. Leave "
            "algorithm out: a Gaussian is then carried over. Or begin with lb.fit(..., algorithm='coordinate_ascent')."
        )


def _naturals(q: FactoredBlock, terms: list[CarriedTerm]) -> list[dict[Any, Any]]:
    """Of q's blocks, by the keys of the terms' blocks."""
    out = []
    for t in terms:
        j = next(i for i, b in enumerate(q.blocks) if b.latents == t.block.latents)
        out.append({k: q.naturals[j][o] for k, o in zip(t.block.keys, q.blocks[j].keys, strict=True)})
    return out


def _is_ascent(algorithm: Any) -> bool:
    names = (CoordinateAscent.name, ConjugateComputationVI.name)
    return isinstance(algorithm, CoordinateAscent) or (isinstance(algorithm, str) and algorithm in names)
