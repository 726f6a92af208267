"""Which gradient is right for which objective, and why not.

A pair that is not in :data:`COMPATIBLE` is refused when it is constructed. The documentation prints both tables; the
tests measure every cell: those allowed have the same expectation, those refused as biased have another.
"""

from __future__ import annotations

from lowerbound.errors import IncompatibleError
from lowerbound.gradients.base import Gradient
from lowerbound.gradients.doubly_reparameterized import DoublyReparameterized
from lowerbound.gradients.reparameterized import Reparameterized
from lowerbound.gradients.self_normalized import SelfNormalized
from lowerbound.objectives.base import Objective

_ANY = ("reparameterized", "doubly_reparameterized", "score_function")
#: Which gradients estimate which objective: without bias, or (``self_normalized``) with one that falls as 1 / draws.
#: The first is the one that is taken if none is asked for.
COMPATIBLE: dict[str, tuple[str, ...]] = {
    "elbo": ("reparameterized", "sticking_the_landing", "doubly_reparameterized", "score_function"),
    "elbo_entropy": ("reparameterized", "score_function"),
    "elbo_prior": ("reparameterized", "score_function"),
    "importance_weighted": ("doubly_reparameterized", "reparameterized", "score_function"),
    "renyi": ("doubly_reparameterized", "reparameterized", "score_function"),
    "tail_adaptive": ("doubly_reparameterized",),
    "forward_kl": ("self_normalized",),
    "chi_upper_bound": ("self_normalized",),
    "kernel_stein": ("reparameterized", "sticking_the_landing"),
    "mmd": ("reparameterized", "sticking_the_landing"),
}
_DROPS = "it is biased: the score that it leaves out has weights that depend on the draws, and is not zero on average"
_CLOSED = "it has no log q whose parameters could be held fixed: the entropy is in closed form"
_FIXED = "it is an expectation under q, and needs no weights"
_FINITE = "it is biased for any number of draws, and for few of them moves q away from the posterior"
_NO_VALUE = "its f changes with the draws, and only its gradient along their paths is defined"
_PAIRS = "it is a mean over pairs of draws, which has no log weights"
#: Why not, for every other pair.
REFUSED: dict[tuple[str, str], str] = {
    ("importance_weighted", "sticking_the_landing"): _DROPS,
    ("renyi", "sticking_the_landing"): _DROPS,
    **{(f"elbo_{f}", g): _CLOSED for f in ("entropy", "prior") for g in _ANY[1:2]},
    **{(f"elbo_{f}", "sticking_the_landing"): _CLOSED for f in ("entropy", "prior")},
    **{
        (o, "self_normalized"): _FIXED
        for o in ("elbo", "elbo_entropy", "elbo_prior", "importance_weighted", "renyi", "tail_adaptive")
    },
    **{("tail_adaptive", g): _NO_VALUE for g in ("reparameterized", "sticking_the_landing", "score_function")},
    **{(o, g): _FINITE for o in ("forward_kl", "chi_upper_bound") for g in (*_ANY, "sticking_the_landing")},
    **{(o, g): _PAIRS for o in ("kernel_stein", "mmd") for g in (*_ANY[1:], "self_normalized")},
}

#: The same for fits site by site (:mod:`lowerbound.gradients.sites`), where each block has a gradient of its own.
_SITES = ("implicit", "enumeration", "site_score_function")
SITE_COMPATIBLE: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("elbo", "elbo_entropy", "importance_weighted", "renyi"), _SITES
)
_WHOLE = "its weights are those of whole draws under the posterior, and no site has a gradient of its own in it"
SITE_REFUSED: dict[str, str] = {
    "elbo_prior": "entropies are in closed form there, and no prior is taken apart",
    "tail_adaptive": "its f changes with the draws, and scores of discrete latents have nothing to be multiplied by",
    "forward_kl": _WHOLE,
    "chi_upper_bound": _WHOLE,
    "kernel_stein": "discrete latents have no score",
    "mmd": "it is on the unconstrained space, in which discrete latents have no place",
}


def check_site_objective(objective: Objective) -> None:
    """Raise unless an objective has gradients site by site.

    Raises:
        IncompatibleError: says why not, and what to use.
    """
    if objective.name not in SITE_COMPATIBLE:
        why = SITE_REFUSED.get(objective.name, "no gradient of a site is known to be right for it")
        raise IncompatibleError(
            f"{objective.name} is no objective of black_box_vi: {why}. Use {', '.join(SITE_COMPATIBLE)}; or "
            "algorithm='gradient_vi', for q on the unconstrained space with discrete latents summed out."
        )


def default_gradient(objective: Objective) -> Gradient:
    """The first that :data:`COMPATIBLE` has for an objective; the reparameterised one where it has none."""
    first = COMPATIBLE.get(objective.name, ("reparameterized",))[0]
    return next(g() for g in (Reparameterized, DoublyReparameterized, SelfNormalized) if g.name == first)


def check_pair(objective: Objective, gradient: Gradient) -> None:
    """Raise unless the gradient is right for the objective.

    Raises:
        IncompatibleError: says why not, and what to use.
    """
    allowed = COMPATIBLE.get(objective.name)
    if allowed is None:
        raise IncompatibleError(
            f"no gradient is known to be right for the objective {objective.name!r}; those with one: "
            f"{', '.join(COMPATIBLE)}."
        )
    if gradient.name not in allowed:
        why = REFUSED.get((objective.name, gradient.name), "it is not known to be unbiased")
        raise IncompatibleError(
            f"the {gradient.name} gradient does not go with {objective.name}: {why}. Use {' or '.join(allowed)}."
        )
    if objective.num_samples < gradient.min_samples:
        raise IncompatibleError(
            f"the {gradient.name} gradient needs at least {gradient.min_samples} draws a step (each is compared with "
            f"the others), got num_samples={objective.num_samples}."
        )
