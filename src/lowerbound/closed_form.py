r"""What of a model has a closed form: its exact ELBO, and what follows from its structure before anything is fitted.

Whether discrete latents can be summed out, whether one block of q is the posterior itself, whether latents multiply
each other; and which algorithm for exact expectations is the right one.
"""

from __future__ import annotations

from typing import Any

from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.factored import Factored, Sampling
from lowerbound.algorithms.marginal import marginal, summable
from lowerbound.algorithms.memoized_vi import MemoizedVI
from lowerbound.algorithms.starts import multiplies
from lowerbound.algorithms.stochastic_vi import StochasticVI
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.factors import Joint, random_factors
from lowerbound.families.exponential import TabulatedBlock
from lowerbound.model.base import Model, is_real

#: Algorithms on closed forms, which derive the family from the model.
CLOSED = (CoordinateAscent, MemoizedVI, StochasticVI)
ClosedAlgorithm = CoordinateAscent | MemoizedVI | StochasticVI


def is_closed(algorithm: Any) -> bool:
    """Whether an algorithm, or the short name of one, works on closed forms."""
    return isinstance(algorithm, CLOSED) or algorithm in [a.name for a in (*CLOSED, ConjugateComputationVI)]


def factored_of(
    model: Model, *, joined: bool = True, num_draws: int | None = None, seed: int = 0, joint: Joint | None = None
) -> Factored:
    """The exact ELBO of a model.

    Args:
        model: Bound to its data.
        joint: Its factors, where they are known already.
        joined: Whether Gaussian sites share blocks.
        num_draws: Draws of fixed noise for each factor without a closed form; None refuses such.
        seed: Of that noise.

    Raises:
        IncompatibleError: a factor has no closed form; names the operation, the line and the rewrite.
    """
    sample = None if num_draws is None else Sampling(model, num_draws, seed)
    try:
        joint = random_factors(model) if joint is None else joint
        return Factored.of(joint, joined=joined, sample=sample)
    except NotClosedForm as e:
        drawn = joint is not None and bool(joint.open) and sample is None
        advice = [] if model.discrete else ["leave algorithm out"]
        advice += ["rewrite that line"]
        advice += ["use algorithm='conjugate_computation', which draws such factors"] if drawn else []
        advice += ["sum the discrete latents out by hand"] if model.discrete and not drawn else []
        said = f"{', '.join(advice[:-1])}, or {advice[-1]}."
        raise IncompatibleError(
            f"{model.name!r} has an expectation without a closed form"
            f"{'' if sample is None else ', which cannot be sampled'}: {e}. {said[0].upper()}{said[1:]}"
        ) from e


def summed_out(model: Model) -> Model:
    """The same model with its discrete latents summed out exactly, for families over continuous ones.

    Raises:
        IncompatibleError: they cannot be, or nothing is left.
    """
    if not model.dimension and model.parameters:
        names, labels = ", ".join(model.parameters), ", ".join(model.discrete)
        raise IncompatibleError(
            f"{model.name!r} has parameters to learn ({names}) and discrete latents alone ({labels}): with those "
            "summed out nothing is left for q. Give the parameters priors: numpyro.sample in place of numpyro.param."
        )
    if not model.dimension:
        raise IncompatibleError(
            f"{model.name!r} has discrete latents alone ({', '.join(model.discrete)}); families and algorithms for "
            "continuous ones do not apply. Leave family and algorithm out."
        )
    factored = factored_of(model, num_draws=1)
    if not summable(factored):
        raise IncompatibleError(
            f"the discrete latents {list(model.discrete)} of {model.name!r} depend on each other given the rest, so "
            "that they are not summed out. Leave family and algorithm out."
        )
    return marginal(model, factored)


def algorithm_for(model: Model) -> ClosedAlgorithm:
    """Coordinate ascent where every factor has a closed form or a bound; with sampled factors where one has neither."""
    return ConjugateComputationVI() if random_factors(model).open else CoordinateAscent()


def exact(model: Model) -> bool:
    """Whether the optimum of a model's exact ELBO is the posterior itself, as in conjugate models.

    Asked of models with a latent that is not real: of real ones alone a Gaussian is found as exactly, and sooner. (A
    block on a grid is the posterior as far as the grid goes; beside others it is left to those who ask for it.)
    """
    if model.discrete or all(is_real(s.support) for s in model.sites.values()):
        return False
    try:
        factored = Factored.of(random_factors(model))
    except NotClosedForm:
        return False
    tabulated = any(isinstance(b, TabulatedBlock) for b in factored.blocks)
    return factored.exact and not (tabulated and len(factored.blocks) > 1)


def multiplied(model: Model) -> bool:
    """Whether real latents in different blocks multiply each other (factors and loadings, users and items), all else
    being in closed form: in thousands of dimensions no Gaussian over all of them is as near as the blocks are."""
    if model.discrete:
        return False
    try:
        factored = Factored.of(random_factors(model))
    except NotClosedForm:
        return False
    return not factored.bounds and multiplies(factored)
