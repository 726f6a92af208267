"""Which latents belong to the rows of the data, and which to all of them: what more rows would change.

A *local* latent has an axis along a plate that grows with the data (the label of a row); a *global* one has none, and
means the same whatever the rows. The model is traced once more with every row given twice: what then has another shape
is local. Nothing is compiled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from lowerbound.errors import DataError, IncompatibleError, LowerboundError
from lowerbound.model.base import Model, abstract
from lowerbound.model.data import Data
from lowerbound.model.numpyro import from_numpyro
from lowerbound.model.reparameterization import depend_on_latents
from lowerbound.precision import float64


def count_rows(data: Data) -> int:
    """The number of rows: the leading size that most arrays have, the larger of two; 1 without arrays."""
    sizes = Counter(a.shape[0] for a in data.arrays if a.ndim)
    return max(sizes, key=lambda n: (sizes[n], n)) if sizes else 1


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of every latent, the discrete ones last."""
    return {n: tuple(s.shape) for n, s in (*model.sites.items(), *model.discrete.items())}


def local_sites(
    model: Model, data: Data, before: Mapping[str, tuple[int, ...]], given: Collection[str] | None = None
) -> tuple[str, ...]:
    """The latents that belong to rows.

    Args:
        model: Bound to the new data.
        data: They.
        before: Shapes of the latents with the data before.
        given: Their names, where they are known; None finds them.

    Raises:
        IncompatibleError: the latents are others, or a shape changes in a way that no plate explains.
    """
    shapes = shapes_of(model)
    if set(shapes) != set(before):
        raise IncompatibleError(
            f"the model has the latents {sorted(shapes)}, the posterior {sorted(before)}. Update with the model that "
            "the posterior is of."
        )
    if given is None:
        doubled = _doubled(model, data) if any(shapes.values()) else shapes
        if doubled is None:
            rows = count_rows(data)
            unclear = [n for n, s in shapes.items() if rows in s and s == before[n]]
            if unclear:
                raise IncompatibleError(
                    f"whether {unclear[0]!r} of shape {shapes[unclear[0]]} belongs to the {rows} rows of the data "
                    "cannot be told, since the model does not run with every row given twice. Say which latents do: "
                    f"local=[{unclear[0]!r}], or local=[] if none."
                )
            doubled = {n: s if s == before[n] else None for n, s in shapes.items()}
        found = tuple(n for n in shapes if doubled[n] != shapes[n])
    else:
        unknown = [n for n in given if n not in shapes]
        if unknown:
            raise IncompatibleError(f"local has {unknown[0]!r}; the latents are {sorted(shapes)}.")
        found = tuple(n for n in shapes if n in given)
    for n in shapes:
        if n in found and not model.plate_axes.get(n):
            raise IncompatibleError(
                f"the latent {n!r} has shape {shapes[n]}, which changes with the rows of the data and not by a plate: "
                "whether its elements are those of before, or new ones, cannot be told. Put what belongs to a row "
                "into numpyro.plate('rows', n); a chain in time cannot be updated."
            )
        if n not in found and shapes[n] != tuple(before[n]):
            raise IncompatibleError(
                f"the latent {n!r} has shape {shapes[n]} with the new data and had {tuple(before[n])}; needed: the "
                "same, since what was learnt of it is carried over. Give the new data the columns of the old; what "
                "belongs to the rows goes into a numpyro.plate over them."
            )
    if len(found) == len(shapes):
        raise IncompatibleError(
            f"all latents ({', '.join(found)}) belong to the rows of the data: nothing is carried over. Fit the new "
            "data by themselves."
        )
    return found


def _doubled(model: Model, data: Data) -> dict[str, tuple[int, ...] | None] | None:
    """Shapes with every row given twice; None where the model does not run so."""
    rows = count_rows(data)
    arrays = [np.concatenate([a, a]) if a.ndim and a.shape[0] == rows else a for a in data.arrays]
    try:
        return dict(shapes_of(from_numpyro(model.source, data.filled(arrays))))
    except LowerboundError:
        return None


def check_data(model: Model, data: Data, before: Collection[str], *, whole: bool) -> None:
    """The new data have the names of the old, and everything but the latents' priors depends on them.

    Args:
        model: Bound to the new data.
        data: They.
        before: Names of the arrays before.
        whole: Whether ``before`` are all of them.

    Raises:
        DataError: other names.
        IncompatibleError: a factor beside the priors does not depend on the data, and would count at every update.
    """
    missing = [n for n in before if n not in data.array_names]
    more = [n for n in data.array_names if n not in before] if whole else []
    if missing or more:
        raise DataError(
            f"the new data have {', '.join(data.array_names) or 'no arrays'}; needed: {', '.join(before)}, as before."
            + (f" Missing: {', '.join(missing)}." if missing else "")
            + (f" Unknown: {', '.join(more)}." if more else "")
        )
    if not data.arrays or not data.traced or model.distributions is None:
        return
    distributions = model.distributions
    observed: list[str] = []

    def factors(arguments: Any, values: Any) -> dict[str, Any]:
        found = distributions(values, arguments)
        observed[:] = [f.site for f in found if f.observed]
        return {f.site: f.log_prob for f in found}

    with float64():
        # The data stand in the latents' place, and the latents in theirs.
        arrays: Any = abstract(data.arrays)
        values: Any = {n: jax.ShapeDtypeStruct(s, np.float64) for n, s in shapes_of(model).items()}
        values |= {n: jax.ShapeDtypeStruct(d.shape, np.int64) for n, d in model.discrete.items()}
        depends = depend_on_latents(factors, arrays, values)
    again = [n for n in observed if not depends[n]]
    if again:
        raise IncompatibleError(
            f"{again[0]!r} does not depend on the data, so that it is part of the prior and would count once more at "
            "every update. Write it into the prior of a latent, or make what it observes an argument of the model."
        )
