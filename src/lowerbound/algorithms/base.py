"""argmax: how does q move?

An algorithm is three functions,

    init(seed, kernel, family) -> state        step(state) -> (state, info)        output(state) -> q

State is what the next step needs; Info is what a person needs. Nothing here assumes a stochastic
gradient, nor even an ELBO. One loop (:mod:`lowerbound.fitting`) runs them all, shows their Info, stops
them, and can take ``output`` after any step: an interrupted fit still has an answer.

Algorithms on closed forms (coordinate_ascent, conjugate_computation, stochastic_vi, memoized_vi) are the same three
functions, but for what goes in and out:

* ``init`` takes a :class:`~lowerbound.algorithms.factored.Factored` in the kernel's place, the exact ELBO over the
  blocks that it was derived with; ``family`` is None, and ``check`` refuses any other.
* It climbs :func:`~lowerbound.algorithms.unobserved.ascended` of it, and asks ``factored.late()`` where it could stop
  early.
* ``state.elbo`` is that of the answer, and exact once ``info.status`` is set; ``info.elbo`` never falls, but for
  stochastic_vi's, which is a mean over batches.
* ``output`` gives no block but the natural parameters of every block of the ``Factored`` that ``init`` was given, a
  dictionary for each with the block's keys: what :class:`~lowerbound.families.FactoredBlock` takes.
* ``joined`` says whether the ``Factored`` is made with Gaussian sites that share blocks; ``started_from(values)`` gives
  the same algorithm started from values of latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lowerbound.algorithms.quasi_newton import root
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, DenseGaussian, Family, Flow, Particles, PointMass, SinhArcsinh
from lowerbound.families.arrow import check_layout
from lowerbound.kernel import Kernel


class Status(Enum):
    """How a fit ended. Each member carries the sentence shown to the person."""

    CONVERGED = "converged: the stopping rule was met"
    MAX_STEPS = "stopped at the largest number of steps before the stopping rule was met; raise max_steps"
    STALLED = "stalled: no step of any size raises the ELBO, though the stopping rule is not met"
    FLAT = "the posterior is flat or improper in some direction: q widened there without end"
    UNBOUNDED = "the log density rises without bound; there is no mode"
    NOT_FINITE = "the log density or its gradient stopped being finite; the last good state is returned"
    NOISY = "stopped with the largest number of draws, on which the ELBO still is more optimistic than the rule allows"
    UNEVEN = "stopped: importance weights too uneven for the moments to be believed; take the ELBO, or a richer family"
    INFINITE = "stopped: the chi bound of q is infinite: the posterior has too heavy tails for it; take the forward KL"
    OUT_OF_TIME = "stopped at max_seconds before the stopping rule was met; allow more, or fit fewer rows"
    INTERRUPTED = "interrupted by the user; this is the posterior so far"

    @property
    def sentence(self) -> str:
        return self.value

    @property
    def converged(self) -> bool:
        return self is Status.CONVERGED


class Info(NamedTuple):
    """What one step tells a person."""

    phase: str
    step: int
    elbo: float = np.nan
    elbo_se: float = np.nan
    change: float = np.nan
    status: Status | None = None
    detail: str = ""

    @property
    def done(self) -> bool:
        return self.status is not None


#: An involution of the unconstrained space: from draws ``[n, p]`` to their images, and log |det| of it at the draws.
Move = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Mode(NamedTuple):
    """A local solution: a Gaussian, its ELBO, and whether it is about another peak of the density.

    Along a curved ridge the ELBO has several maxima though the density has one: those are not separate. ``image`` says
    at which image of another mode it was found, in words; empty where a search met it. ``moves`` are the involutions
    that lead to it from q's own mode, in order, each from draws ``[n, p]`` to their images and log |det| of that; empty
    where none are known to.
    """

    mean: np.ndarray
    covariance: np.ndarray
    elbo: float
    separate: bool = True
    image: str = ""
    moves: tuple[Move, ...] = ()

    @property
    def gaussian(self) -> DenseGaussian:
        """As a block."""
        return DenseGaussian(self.mean, root(self.covariance))


def check_positive(owner: str, **options: float) -> None:
    """Refuse options that are not positive numbers, by name."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value > 0:
            raise IncompatibleError(f"{owner}({name}={value!r}): needed: a positive number.")


def check_ascent(owner: str, family: Family, dimension: int) -> None:
    """Refuse families that no ascent of a bound from a search's end can fit, by name."""
    check_layout(family)
    if isinstance(family, Particles):
        raise IncompatibleError("particles have no log q: use algorithm='svgd' for family='particles'.")
    if any(isinstance(f, PointMass) for f, _ in family.members(dimension)):
        raise IncompatibleError("a point mass has no log q: use algorithm='maximum' for family='point_mass'.")
    if isinstance(family, (Flow, SinhArcsinh)):
        raise IncompatibleError(
            f"{owner} has no start for {family.name}, which is fitted from a Gaussian: use "
            "algorithm='from_gaussian', or leave algorithm out."
        )


class Algorithm(ABC):
    """See the module's docstring."""

    name: str
    #: Whether it learns parameters of the model itself (``numpyro.param``) beside q's.
    learns: ClassVar[bool] = False
    #: Whether it looks for other modes itself, so that nothing need look for them after it.
    finds_modes: ClassVar[bool] = False

    @abstractmethod
    def check(self, model: Any, family: Family) -> None:
        """Raise :class:`~lowerbound.errors.IncompatibleError` if it cannot fit this family, before compiling."""

    @abstractmethod
    def init(self, seed: int, kernel: Kernel, family: Family) -> Any:
        """The first state."""

    @abstractmethod
    def step(self, state: Any) -> tuple[Any, Info]:
        """One step."""

    @abstractmethod
    def output(self, state: Any) -> Block | None:
        """The best q so far, or ``None`` before there is one."""

    def learned(self, state: Any) -> list[Any]:
        """The model's parameters that belong to ``output``, as :meth:`Model.with_parameters` takes them."""
        return []

    def modes(self, state: Any) -> list[Mode]:
        """Other local solutions that were met, best first."""
        return []

    def missing_modes(self, state: Any) -> float:
        """Estimated share of searches that would end in a mode not met so far."""
        return 0.0

    def rule(self) -> str:
        """The stopping rule, in words."""
        return ""
