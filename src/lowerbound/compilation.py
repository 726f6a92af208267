"""Programs: traced once, compiled once, kept in memory and on disk.

Nearly all of the time to an answer is XLA compilation. So a model's function is traced once; the arrays that tracing
leaves behind as constants are lifted into arguments, so that neither is a data set folded into the program nor does a
new one change its key; a program whose text was met before in this process is not compiled again, and one that any
process of this machine has compiled is read from a directory.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax.extend import core as jex

from lowerbound.errors import ModelError

#: XLA's level 1 compiles up to a third faster than its default and runs as fast on every model tried.
_COMPILER_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}
#: For programs that are compiled once and run a few hundred times: LLVM straight from XLA, without the dialects between
#: (for a mixture, topics and factors 40 per cent fewer CPU seconds to compile, and they run as fast), and in one piece
#: (another 20 per cent, for programs this small). A version of XLA without them is asked for the others.
_DIRECT: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
_executables: OrderedDict[str, Any] = OrderedDict()
#: What :func:`of_model` has built, for as long as there is a model that it is of.
_of_models: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
_cache_lock = threading.Lock()


class Lifted:
    """A function ``(x, arguments) -> out`` whose closed-over arrays have become arguments."""

    def __init__(self, closed: Any, data: Sequence[np.ndarray], tree: Any):
        self.jaxpr = closed.jaxpr
        # Views: JAX remembers arrays by identity, in float32 if a program of the user's has met them.
        self.arguments = [np.asarray(c).view() for c in closed.consts] + list(data)
        self._tree = tree
        self._constants = len(closed.consts)

    def at(self, data: Sequence[np.ndarray]) -> Lifted:
        """The same function, with other numbers among its arguments."""
        other = copy.copy(self)
        other.arguments = [*self.arguments[: self._constants], *data]
        return other

    @property
    def shapes(self) -> Any:
        """The shapes of what it returns."""
        found = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.jaxpr.outvars]
        return jax.tree_util.tree_unflatten(self._tree, found)

    def call(self, x: Any, arguments: Sequence[Any]) -> Any:
        constants, data = arguments[: self._constants], arguments[self._constants :]
        out = jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, list(constants)))(*jax.tree_util.tree_leaves(x), *data)
        return jax.tree_util.tree_unflatten(self._tree, out)


def lift(fn: Callable[[Any, Sequence[Any]], Any], x: Any, data: Sequence[np.ndarray]) -> Lifted:
    """Trace ``fn(x, data)`` once. Call inside :func:`float64`."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data]
    try:
        closed, out = jax.make_jaxpr(fn, return_shape=True)(x, shapes)
    except jax.errors.JAXTypeError as e:
        raise ModelError(
            f"the model cannot be traced by JAX: {str(e).splitlines()[0]}. Use jnp in place of np for whatever "
            "depends on a latent variable."
        ) from e
    return Lifted(closed, data, jax.tree_util.tree_structure(out))


def of_model(model: Any, what: Any, build: Callable[[], Any]) -> tuple[Any, bool]:
    """``build()``, called once for all models made by :meth:`Model.on` that share ``evaluate`` and the shapes of their
    arguments; and whether it was called before. What it gives must not depend on the arguments' numbers. (The data
    sets of one calibration are not traced and lowered again, half of the time of a small fit. Any other model is: what
    its function reads from outside may have changed.)
    """
    if not model.reused:
        return build(), False
    arguments = tuple((np.shape(a), str(a.dtype)) for a in model.arguments)
    sites = tuple((n, s.start, s.unconstrained_shape) for n, s in model.sites.items())
    key = (what, arguments, sites, tuple(model.deterministics.items()))
    known = _of_models.setdefault(model.evaluate, {})
    if again := key in known:
        return known[key], again
    known[key] = build()
    return known[key], False


def compile_once(fn: Callable, *arguments: Any, direct: bool = False) -> tuple[Any, bool]:
    """Compile ``fn`` for these argument shapes; a program met before in this process is not compiled again.

    Args:
        fn: Traceable by JAX.
        arguments: Or their shapes.
        direct: Whether the CPU's programs are compiled the shorter way.
    """
    return compile_lowered(jax.jit(fn).lower(*arguments), *arguments, direct=direct)


def run_once(fn: Callable, *arguments: Any) -> Any:
    """``fn(*arguments)`` as one program, compiled the shorter way; for what is asked once or twice."""
    return compile_once(fn, *arguments, direct=True)[0](*arguments)


def compile_lowered(lowered: Any, *arguments: Any, direct: bool = False) -> tuple[Any, bool]:
    """Compile what ``jax.jit(fn).lower(*arguments)`` gave, or take it from memory; and whether it was there."""
    # Arguments that the program does not read are not in its text, so the shapes are part of the key.
    shapes = str(
        jax.tree_util.tree_map(
            lambda a: (np.shape(a), str(np.asarray(a).dtype) if not hasattr(a, "dtype") else str(a.dtype)), arguments
        )
    )
    key = hashlib.sha256((lowered.as_text() + shapes).encode()).hexdigest()
    with _cache_lock:
        if key in _executables:
            _executables.move_to_end(key)
            return _executables[key], True
    with persistent_cache():
        program = _compiled(lowered, direct)
    with _cache_lock:
        _executables[key] = program
        while len(_executables) > 64:
            _executables.popitem(last=False)
    return program, False


def _compiled(lowered: Any, direct: bool) -> Any:
    if jax.default_backend() != "cpu":
        return lowered.compile()
    if direct:
        try:
            return lowered.compile(compiler_options=_COMPILER_OPTIONS | _DIRECT)
        except jax.errors.JaxRuntimeError as e:
            if "No such compile option" not in str(e):
                raise
    return lowered.compile(compiler_options=_COMPILER_OPTIONS)


def cache_directory() -> Path | None:
    """Where compiled programs are kept between processes; ``LOWERBOUND_CACHE=0`` turns it off."""
    where = os.environ.get("LOWERBOUND_CACHE")
    if where is not None and where.strip().lower() in ("", "0", "off", "no", "false"):
        return None
    if where:
        return Path(where).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lowerbound"


@contextmanager
def persistent_cache() -> Iterator[None]:
    """JAX's persistent compilation cache for what compiles inside; the user's settings are put back.

    A cache directory that the user has configured is used as it is.
    """
    directory = cache_directory()
    if directory is None or jax.config.jax_compilation_cache_dir:  # pyright: ignore
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    from jax.experimental.compilation_cache import compilation_cache

    ours = {
        "jax_compilation_cache_dir": str(directory),
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_persistent_cache_enable_xla_caches": "none",
    }
    with _cache_lock:
        before = {k: getattr(jax.config, k) for k in ours}
        try:
            for k, v in ours.items():
                jax.config.update(k, v)
            compilation_cache.reset_cache()
            yield
        finally:
            for k, v in before.items():
                jax.config.update(k, v)
            with suppress(Exception):
                compilation_cache.reset_cache()


def flops(program: Any) -> float:
    """Arithmetic of a call of a program, compiled or lowered."""
    try:
        return max(float(program.cost_analysis()["flops"]), 0.0)
    except Exception:  # not every backend counts
        return 0.0
