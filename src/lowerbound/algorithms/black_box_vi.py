r"""Black-box VI on the constrained space: one exponential family a site, fitted from draws, discrete sites among them.

    q(z) = prod_b q_b(z_b; phi_b),      phi <- phi + step * estimate of d/dphi { E_q[log p(x, z)] + sum_b H(q_b) }

No expectation needs a closed form: what is asked of the model are the log probabilities of its factors at draws of q.
Continuous blocks follow their draws (implicit reparameterisation); discrete ones are enumerated, or take their score
function over the factors that they are in (:mod:`lowerbound.gradients.by_site`). Bounds of several draws
(``ImportanceWeighted``, ``Renyi``) do not fall apart into factors, but the gradient of each discrete element still
needs its own factors alone (:mod:`lowerbound.gradients.several_draws`).

*Where to start*: where discrete latents can be summed out (or there are none), at the best end of the searches that the
default uses: each continuous block is matched to the mode and the curvature there, and discrete ones take their
probabilities given it. Else at the best of four random places, after 300 steps of each.

*The step size, and when to stop*: :mod:`lowerbound.algorithms.stochastic_ascent`.

Cost: ``num_samples`` evaluations of the factors and their gradient a step, once more for each value of an enumerated
latent; one program is compiled, of 100 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.search import Search
from lowerbound.algorithms.stochastic_ascent import StochasticAscent, stopping
from lowerbound.algorithms.stochastic_steps import adam_unless, check_objective, check_optimizer, many_steps
from lowerbound.compilation import compile_once
from lowerbound.errors import IncompatibleError, NotFiniteError, unknown_name
from lowerbound.expectations.factors import support_kind
from lowerbound.expectations.supports import between
from lowerbound.families import FactoredBlock, Place
from lowerbound.families.drawn import KINDS, Drawn, categorical
from lowerbound.gradients import SITE_GRADIENTS, SiteGradient, check_site, check_site_objective
from lowerbound.gradients.by_site import default_site_gradient, surrogate
from lowerbound.gradients.several_draws import bound_surrogate
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model, Site
from lowerbound.model.factor_graph import FactorGraph
from lowerbound.objectives import ELBO, Objective
from lowerbound.precision import float64

#: Random starts where nothing else is known, and calls of the program for the ELBO of the answer.
_STARTS, _FINAL = 4, 10
#: Draws a step.
_DRAWS = 8
#: The circle, as its angle between the two ends.
_CIRCLE = between(-np.pi, np.pi)
#: Kinds of a site's support, with the block that it gets if none is asked for.
_USUAL = {"real": "normal", "positive": "gamma", "unit": "beta", "simplex": "dirichlet", "circular": "von_mises"}


@dataclass(frozen=True, eq=False)
class BlackBox:
    """What :class:`BlackBoxVI` fits.

    Attributes:
        model: Bound to its data.
        kernel: The log density of the continuous latents with the discrete ones summed out; None where they cannot be.
        late: Whether nothing more should be begun that can be left.
    """

    model: Model
    kernel: Kernel | None = None
    late: Any = field(default=lambda: False)


@dataclass(eq=False)
class _State:
    box: BlackBox
    seed: int
    parts: list[Drawn]
    gradients: dict[str, SiteGradient]
    graph: FactorGraph
    search: Search | None
    ascent: StochasticAscent | None = None
    elbo: float = np.nan
    elbo_se: float = np.nan
    status: Status | None = None


@dataclass(frozen=True, eq=False)
class BlackBoxVI(Algorithm):
    """Stochastic gradient ascent on a lower bound of a product of exponential families.

    Args:
        objective: ``ELBO``, ``ImportanceWeighted`` or ``Renyi``, with its number of draws a step; None for the ELBO of
            ``num_samples``.
        blocks: From names of continuous sites to kinds of blocks (``{"rate": "log_normal"}``); for the others by
            support: normal, gamma, beta, dirichlet, von_mises.
        gradients: From names of sites to gradients or their short names; for the others ``Implicit`` (continuous),
            ``Enumeration`` (discrete of few values), ``SiteScoreFunction`` (discrete of many).
        num_samples: Draws a step of the ELBO; None for 8. (An objective that is given has a number of its own.)
        optimizer: Any optax optimiser, of a *loss* as optax has it; None for Adam with a rate found by a race.
        max_steps: Steps before giving up.

    Raises:
        IncompatibleError: options that are no such things.
    """

    objective: Objective | None = None
    blocks: Mapping[str, str] | None = None
    gradients: Mapping[str, SiteGradient | str] | None = None
    num_samples: int | None = None
    optimizer: Any = None
    max_steps: int = 50_000
    name = "black_box_vi"

    def __post_init__(self) -> None:
        count = _DRAWS if self.num_samples is None else self.num_samples
        check_positive("BlackBoxVI", num_samples=count, max_steps=self.max_steps)
        if int(count) != count:
            raise IncompatibleError(f"BlackBoxVI(num_samples={count!r}): needed: a whole number.")
        if self.objective is not None:
            check_objective(self.objective)
            check_site_objective(self.objective)
            if self.num_samples is not None:
                raise IncompatibleError(
                    f"BlackBoxVI(objective={self.objective!r}, num_samples={count!r}): the objective has a number of "
                    "draws of its own. Leave num_samples out."
                )
        for option, wanted in (("blocks", "{'rate': 'log_normal'}"), ("gradients", "{'z': SiteScoreFunction()}")):
            value = getattr(self, option)
            if value is not None and not isinstance(value, Mapping):
                raise IncompatibleError(f"BlackBoxVI({option}={value!r}); needed: a dictionary, such as {wanted}.")
        for site, gradient in (self.gradients or {}).items():
            if isinstance(gradient, str) and gradient not in SITE_GRADIENTS:
                raise unknown_name("gradient", gradient, SITE_GRADIENTS)
            if not isinstance(gradient, (SiteGradient, str)):
                raise IncompatibleError(
                    f"the gradient of {site!r} is {gradient!r}; needed: lb.gradients.Implicit(), Enumeration() or "
                    "SiteScoreFunction(), or a short name of theirs."
                )
        check_optimizer(self.optimizer)

    def rule(self) -> str:
        return stopping(self.optimizer, "ELBO" if isinstance(self.sought, ELBO) else "objective")

    @property
    def sought(self) -> Objective:
        """The objective."""
        if self.objective is not None:
            return self.objective
        return ELBO(_DRAWS if self.num_samples is None else int(self.num_samples))

    def check(self, model: Any, family: Any) -> None:
        if family is not None:
            raise IncompatibleError(
                f"BlackBoxVI has a block of its own for each site; it cannot fit {family.name!r}. Leave family out, or "
                "choose blocks: lb.algorithms.BlackBoxVI(blocks={'rate': 'log_normal'})."
            )

    def parts(self, model: Model) -> list[Drawn]:
        """The block of every site.

        Raises:
            UnknownNameError: a name that is no site's, or no kind of block.
            IncompatibleError: a support without a block, or a block that is not on it.
        """
        asked = dict(self.blocks or {})
        for n in (*asked, *(self.gradients or {})):
            if n not in model.sites and n not in model.discrete:
                raise unknown_name("latent", n, (*model.sites, *model.discrete))
        out = []
        for n, site in model.sites.items():
            support = place_of(site).support
            support = "circular" if support == _CIRCLE else support
            kind = asked.get(n, _USUAL.get(support))
            if kind is None:
                raise IncompatibleError(
                    f"site {n!r} has support {site.support}, on which BlackBoxVI has no block. It has them on real and "
                    "positive numbers, the unit interval, simplexes and angles. Use algorithm='gradient_vi', whose "
                    "families are on the unconstrained space."
                )
            if kind not in KINDS:
                raise unknown_name("block", str(kind), KINDS)
            if KINDS[kind][0] != support:
                fits = ", ".join(k for k, (s, _) in KINDS.items() if s == support)
                raise IncompatibleError(f"site {n!r} is {support}; a {kind} block is not. Needed: {fits}.")
            out.append(KINDS[kind][1](n, tuple(site.shape)))
        for n, d in model.discrete.items():
            if asked.get(n, "categorical") != "categorical":
                raise IncompatibleError(f"site {n!r} is discrete; its block is categorical, not {asked[n]!r}.")
            out.append(categorical(n, d.shape, d.values))
        return out

    # -- the three functions -------------------------------------------------------------------------

    def init(self, seed: int, kernel: Any, family: Any) -> _State:
        """Checks, and the searches for a start.

        Args:
            seed: Of the draws.
            kernel: A :class:`BlackBox`.
            family: Not used.
        """
        box: BlackBox = kernel
        parts = self.parts(box.model)
        graph = FactorGraph.of(box.model)
        given = {n: SITE_GRADIENTS[g]() if isinstance(g, str) else g for n, g in (self.gradients or {}).items()}
        gradients = {p.name: given.get(p.name) or default_site_gradient(graph, p) for p in parts}
        for p in parts:
            check_site(p.name, p.kind, gradients[p.name], self.sought.num_samples)
        search = None if box.kernel is None else Search(box.kernel, np.random.default_rng(seed))
        return _State(box, seed, parts, gradients, graph, search)

    def step(self, state: _State) -> tuple[_State, Info]:
        if state.search is not None and not state.search.done:
            state.search.advance()
            return state, Info("searching for a start", 0)
        if state.ascent is None:
            state.ascent = self._ascent(state)
            return state, Info("compiling the gradient step", 0)
        ascent = state.ascent
        phase = ascent.phase
        ascent.step()
        state.elbo, state.elbo_se, state.status = ascent.elbo, ascent.elbo_se, ascent.status
        if state.status in (Status.CONVERGED, Status.MAX_STEPS):
            state.elbo, state.elbo_se = ascent.evaluate(_FINAL)
        return state, Info(phase, ascent.steps, state.elbo, state.elbo_se, status=state.status)

    def output(self, state: _State) -> FactoredBlock | None:
        if state.ascent is None:
            return None
        free = state.ascent.answer
        with float64():
            naturals = [
                {k: np.asarray(v) for k, v in p.natural(jax.tree_util.tree_map(jnp.asarray, free[p.name])).items()}
                for p in state.parts
            ]
        places = [place_of(s) for s in state.box.model.sites.values()]
        return FactoredBlock([p.block for p in state.parts], naturals, places)

    # -- pieces --------------------------------------------------------------------------------------

    def _starts(self, state: _State) -> list[dict[str, Any]]:
        model = state.box.model
        if state.search is None:
            rng = np.random.default_rng([state.seed, 21])
            return [self._about(state, rng) for _ in range(_STARTS)]
        ends = [e for e in state.search.ends() if np.isfinite(e.value)]
        if not ends:
            raise NotFiniteError(
                f"no start with a finite log density and gradient was found for {model.name!r}. Check the priors' "
                "scales and the data's units."
            )
        end = max(ends, key=lambda e: e.value)
        variance = end.inverse if end.inverse.ndim == 1 else np.diagonal(end.inverse)
        variance = np.clip(variance, 1e-12, 25.0)
        out: dict[str, Any] = {}
        for p in state.parts:
            if p.matched is not None:
                site = model.sites[p.name]
                u, v = (a[site.slice].reshape(site.unconstrained_shape) for a in (end.x, variance))
                out[p.name] = p.matched(u, v)
        if model.discrete:
            assert state.box.kernel is not None
            summed = state.box.kernel.model
            assert summed.responsibilities is not None
            with float64():
                values = summed.constrain(jnp.asarray(end.x), summed.arguments)
                found = jax.jit(summed.responsibilities)({n: values[n] for n in model.sites}, model.arguments)
            # No probability so small that its logit never comes back.
            out |= {n: {"logits": np.log(0.98 * np.asarray(r) + 0.02 / r.shape[-1])} for n, r in found.items()}
        return [out]

    def _about(self, state: _State, rng: np.random.Generator) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for p in state.parts:
            if p.matched is None:
                shape = (*p.shape, len(p.block.values))  # pyright: ignore[reportAttributeAccessIssue]
                out[p.name] = {"logits": 0.5 * rng.standard_normal(shape)}
            else:
                shape = state.box.model.sites[p.name].unconstrained_shape
                out[p.name] = p.matched(rng.standard_normal(shape), np.full(shape, 0.1))
        return out

    def _ascent(self, state: _State) -> StochasticAscent:
        model, graph = state.box.model, state.graph
        optimizer = adam_unless(self.optimizer)
        objective = self.sought

        def loss(phi: Any, key: Any, arguments: Any) -> Any:
            given = graph, state.parts, state.gradients, phi, key
            if isinstance(objective, ELBO):
                found = surrogate(*given, objective.num_samples, arguments)
            else:
                found = bound_surrogate(objective, *given, arguments)
            return -found.surrogate, (found.value, found.elbo)

        with float64():
            starts = []
            for found in self._starts(state):
                free = jax.tree_util.tree_map(lambda v: jnp.asarray(v, jnp.float64), found)
                starts.append((free, jax.tree_util.tree_map(jnp.asarray, optimizer.init(free))))
            self._check_plates(state, starts[0][0])
            arguments = [jnp.asarray(a) for a in model.arguments]
            program, _ = compile_once(many_steps(optimizer, loss), *starts[0], jax.random.PRNGKey(0), arguments)

        def chunk(free: Any, opt_state: Any, number: int) -> Any:
            with float64():
                free = jax.tree_util.tree_map(jnp.asarray, free)
                key = jax.random.fold_in(jax.random.PRNGKey(state.seed), number)
                free, opt_state, elbos, mean = program(free, opt_state, key, arguments)
                return free, opt_state, np.asarray(elbos), mean

        return StochasticAscent(chunk, starts, self.max_steps, fixed=self.optimizer is not None)

    @staticmethod
    def _check_plates(state: _State, free: Any) -> None:
        if not state.box.model.discrete:
            return
        arguments = [jnp.asarray(a) for a in state.box.model.arguments]
        program = jax.jit(lambda z: state.graph.log_probs(z, arguments))
        rng, point = np.random.default_rng([state.seed, 22]), {}
        for p in state.parts:
            natural = {k: np.asarray(v) for k, v in p.natural(free[p.name]).items()}
            point |= {n: x[0] for n, x in p.block.sample(rng, natural, 1).items()}
        state.graph.check_plates(point, program)


def place_of(site: Site) -> Place:
    """Where a site lies in the unconstrained vector; an angle as a number between its two ends."""
    kind = support_kind(site)
    if kind == "other" and _is_circle(site.support):
        kind = _CIRCLE
    return Place(site.name, kind, tuple(site.shape), tuple(site.unconstrained_shape), site.start)


def _is_circle(support: Any) -> bool:
    from numpyro.distributions import constraints

    return isinstance(support, type(constraints.circular))
