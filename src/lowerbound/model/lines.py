"""Where in the person's own code an operation of a traced program was written."""

from __future__ import annotations

import linecache
import os
import sysconfig
from typing import Any

_LIBRARIES = ("numpyro", "lowerbound", "jax", "jaxlib", "numpy", "scipy", "optax", "tensorflow_probability")


def line_of(eqn: Any) -> str:
    """``model.py:12 (s = jnp.exp(x))`` of an operation, in the first file that belongs to no library; or nothing."""
    try:
        from jax._src import source_info_util

        for frame in source_info_util.user_frames(eqn.source_info.traceback):
            parts = frame.file_name.replace(os.sep, "/").split("/")
            if frame.file_name.startswith(sysconfig.get_paths()["stdlib"]) and "site-packages" not in parts:
                continue
            if any(name in parts[:-1] for name in _LIBRARIES) and "tests" not in parts:
                continue
            text = linecache.getline(frame.file_name, frame.start_line).strip()
            text = text if len(text) <= 80 else text[:77] + "..."
            return f"{parts[-1]}:{frame.start_line}" + (f" ({text})" if text else "")
    except Exception:  # private to JAX, so it may change; only the line is lost
        return ""
    return ""
