"""Whatever a person hands in as a model, as a :class:`~lowerbound.model.base.Model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowerbound.errors import DataError
from lowerbound.model.base import Model
from lowerbound.model.log_density import LogDensity, from_log_density
from lowerbound.model.numpyro import from_numpyro


def as_model(model: Any, data: Mapping[str, Any] | None = None) -> Model:
    """A :class:`Model` from a NumPyro model, a :class:`LogDensity`, or itself, bound to data."""
    if isinstance(model, Model):
        if data:
            raise DataError("this Model is bound to its data already; leave data out, or pass the original model.")
        return model
    if isinstance(model, LogDensity):
        return from_log_density(model, data)
    return from_numpyro(model, data)
