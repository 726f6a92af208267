"""What a model has to learn and not to infer: ``numpyro.param`` sites, and networks made of them.

A parameter theta is a number, an array or a tree of arrays (an equinox module through
``numpyro.contrib.module.eqx_module``). It has no prior and no posterior: it is where the bound on log p(x; theta) is
largest. It moves on unconstrained numbers t, theta = T(t) with T NumPyro's bijection onto its constraint; being a
point, it brings no Jacobian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from lowerbound.errors import DataError, ModelError


@dataclass(frozen=True, eq=False)
class Parameter:
    """One ``numpyro.param``.

    Args:
        name: Of its site.
        constraint: The set it lies in.
        tree: Its structure, as JAX has it.
        start: Place of its first leaf among the model's arguments.
        leaf_names: Of each leaf, for messages.
        local: The plates that it is indexed by, where it is subsampled with them.
    """

    name: str
    constraint: Any
    tree: Any
    start: int
    leaf_names: tuple[str, ...]
    local: tuple[str, ...] = ()

    @property
    def places(self) -> range:
        """Of its leaves among the model's arguments."""
        return range(self.start, self.start + len(self.leaf_names))

    def value(self, arguments: Any) -> Any:
        """theta from all of the model's arguments; traceable by JAX."""
        leaves = [arguments[i] for i in self.places]
        if not is_tree(self.constraint):
            leaves = [biject_to(self.constraint)(jnp.asarray(leaves[0]))]
        return jax.tree_util.tree_unflatten(self.tree, leaves)

    def outside(self, arguments: Any) -> Any:
        """theta for a person: a NumPy array, or the tree that was given."""
        value = self.value(arguments)
        return jax.tree_util.tree_map(np.asarray, value) if is_tree(self.constraint) else np.asarray(value)

    def leaves(self, value: Any, arguments: Any) -> list[np.ndarray]:
        """The inverse of :meth:`outside`: unconstrained leaves of a value.

        Args:
            value: theta, as a person has it.
            arguments: All of the model's arguments, for their shapes.

        Raises:
            DataError: it has another structure or shape, is not finite, or is outside of the constraint.
        """
        name = self.name.removesuffix("$params")
        if jax.tree_util.tree_structure(value) != self.tree:
            value = eqx.filter(value, eqx.is_inexact_array)  # a module as it was before its arrays were taken out
        if jax.tree_util.tree_structure(value) != self.tree:
            raise DataError(f"parameters[{name!r}] is a {type(value).__name__} of another structure than the model's.")
        out = []
        for i, label, leaf in zip(self.places, self.leaf_names, jax.tree_util.tree_leaves(value), strict=True):
            array = np.asarray(leaf)
            if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
                raise DataError(f"{label} is {array}; needed: finite real numbers.")
            if not is_tree(self.constraint):
                inside = np.asarray(self.constraint(jnp.asarray(array)))
                array = np.asarray(biject_to(self.constraint).inv(jnp.asarray(array))) if inside.all() else array
                if not inside.all() or not np.isfinite(array).all():
                    raise DataError(f"{label} is {np.asarray(leaf)}; needed: inside of {self.constraint}.")
            if array.shape != np.shape(arguments[i]):
                shape = np.shape(arguments[i])
                raise DataError(f"{label} has shape {np.shape(leaf)}; its unconstrained form needs {shape}.")
            out.append(array.astype(np.float64))
        return out


def is_tree(constraint: Any) -> bool:
    """Whether a parameter has no constraint of its own, and so may be a tree of arrays."""
    return constraint is constraints.real


def read_parameters(
    trace: Mapping[str, Any], names: Sequence[str], start: int
) -> tuple[dict[str, Parameter], list[np.ndarray]]:
    """Those sites of a trace as parameters, and their initial values one after another from place ``start`` on."""
    found: dict[str, Parameter] = {}
    leaves: list[np.ndarray] = []
    for name in names:
        found[name], some = read_parameter(trace[name], start + len(leaves))
        leaves += some
    return found, leaves


def read_parameter(site: Any, start: int) -> tuple[Parameter, list[np.ndarray]]:
    """A ``param`` site of a trace, and its initial values as unconstrained leaves.

    Raises:
        ModelError: no initial value, values that are no real numbers or not finite, or outside of the constraint.
    """
    name, value = site["name"], site["value"]
    constraint = site["kwargs"].get("constraint", constraints.real)
    if isinstance(constraint, constraints.independent) and constraint.base_constraint is constraints.real:
        constraint = constraints.real
    if value is None:
        raise ModelError(f"numpyro.param({name!r}) has no initial value. Give it one: numpyro.param({name!r}, 0.0).")
    paths, tree = jax.tree_util.tree_flatten_with_path(value)
    if not paths:
        raise ModelError(f"numpyro.param({name!r}) is a {type(value).__name__} without any numbers to learn.")
    leaves, names = [], []
    for path, leaf in paths:
        shown = name + jax.tree_util.keystr(path)
        array = np.asarray(leaf)
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ModelError(
                f"numpyro.param({name!r}) starts at {shown} with values of type {array.dtype}"
                + ("" if array.dtype.kind not in "iuf" else " that are not all finite")
                + "; needed: finite real numbers, to start from."
            )
        leaves.append(array.astype(np.float64))
        names.append(f"parameter {shown}")
    if constraint is not constraints.real:
        if len(leaves) > 1 or not jax.tree_util.treedef_is_leaf(tree):
            raise ModelError(
                f"numpyro.param({name!r}) is a {type(value).__name__} with constraint {constraint}; a constraint is "
                "for one array. Constrain inside the model: jnp.exp, jax.nn.softplus, ..."
            )
        inside = np.asarray(constraint(jnp.asarray(leaves[0])))
        unconstrained = np.asarray(biject_to(constraint).inv(jnp.asarray(leaves[0]))) if inside.all() else None
        if unconstrained is None or not np.isfinite(unconstrained).all():
            raise ModelError(
                f"numpyro.param({name!r}) starts at {leaves[0]}, which is not inside its constraint {constraint}. "
                "Start at a value inside, away from its edge."
            )
        leaves = [unconstrained]
    event_dim = site["kwargs"].get("event_dim")
    plates = tuple(f.name for f in site["cond_indep_stack"]) if event_dim is not None else ()
    return Parameter(name, constraint, tree, start, tuple(names), plates), leaves
