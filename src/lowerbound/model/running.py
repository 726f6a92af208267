"""A NumPyro model, run under NumPyro's own handlers.

Its latent sites are given by ``substitute`` (which NumPyro carries into ``scan``), so nothing is ever drawn from a
prior: a Gamma(1e-3, 1e-3) that underflows to zero, or an improper prior, does no harm. A plate with ``subsample_size``
is run over all its rows, so that no minibatch is silently mis-scaled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions
from numpyro import handlers
from numpyro.primitives import Messenger

from lowerbound.model.checks import checks_by_numpy
from lowerbound.model.data import Data
from lowerbound.model.parameters import Parameter

#: NumPyro's stack of handlers is one for all threads, so one model is run at a time.
one_at_a_time = threading.RLock()


class FullPlates(Messenger):
    """Run every plate over all of its rows."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            size = msg["args"][0]
            msg["args"] = (size, size)
            msg["value"] = jnp.arange(size)


class Run:
    """A model function and its data: what it does with given values in the place of its latents.

    Args:
        model: The model function.
        data: Its arguments.

    Attributes:
        parameters: Of its ``param`` sites, as far as they have been read: their numbers come after the data's arrays.
    """

    def __init__(self, model: Callable, data: Data):
        self._model, self._data = model, data
        self.parameters: dict[str, Parameter] = {}

    def __call__(self, arguments: Sequence[Any], substitute: Callable[[Any], Any]) -> dict[str, Any]:
        """The trace, its sites by name.

        Args:
            arguments: The data's arrays, and the parameters' numbers if there are any.
            substitute: From a site to its value; None leaves it to the model.
        """
        rows = arguments[: len(self._data.arrays)]
        learned = {n: p.value(arguments) for n, p in self.parameters.items()} if len(arguments) > len(rows) else {}

        def fill(site: Any) -> Any:
            return learned.get(site["name"]) if site["type"] == "param" else substitute(site)

        seeded = handlers.seed(handlers.substitute(FullPlates(self._model), substitute_fn=fill), rng_seed=0)
        with one_at_a_time, checks_by_numpy():
            return handlers.trace(seeded).get_trace(**self._data.rebuild(rows))


# -- what a site of the trace says -----------------------------------------------------------------


def plates_of(site: Any) -> tuple[tuple[str, int], ...]:
    return tuple((f.name, int(f.dim)) for f in site["cond_indep_stack"])


def log_prob_of(site: Any) -> Any:
    fn, value = site["fn"], site["value"]
    if isinstance(value, (bool, int, float)):  # not every distribution takes a number that is no array
        value = jnp.asarray(value)
    log_prob = fn.log_prob(value, site["intermediates"]) if site["intermediates"] else fn.log_prob(value)
    return log_prob if site["scale"] is None else site["scale"] * log_prob


def stands_in(name: str, trace: Mapping[str, Any]) -> bool:
    """Whether a site is the latent half of ``numpyro.sample(..., obs_mask=...)``.

    NumPyro makes it as long as the observations and masks the observed rows, which leaves them flat and
    the posterior improper. Nothing reads those rows. With their mask off, each is a draw from its
    distribution given the rest of the model: proper, and the posterior of everything else is unchanged,
    because it integrates to one.
    """
    observed = trace.get(name.removesuffix("_unobserved") + "_observed")
    return name.endswith("_unobserved") and observed is not None and bool(observed.get("is_observed"))


def unmasked(fn: Any) -> Any:
    return fn.base_dist if isinstance(fn, numpyro.distributions.MaskedDistribution) else fn
