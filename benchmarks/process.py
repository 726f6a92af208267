"""Fresh processes, so that nothing measured is already imported, traced or compiled; and what they ran on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT


def run(
    module: str,
    *arguments: str,
    environment: dict[str, str] | None = None,
    timeout: float = 3600,
    python: str = sys.executable,
) -> dict[str, Any]:
    """``python -m module arguments``; its last line of output is a JSON object. A failure is a row with ``error``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | (environment or {})
    command = [python, "-m", module, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout:g} seconds"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return json.loads(lines[-1])


@cache
def source_hash() -> str:
    """Of the library's source: rows of another version are measured again."""
    spec = find_spec("lowerbound")
    assert spec is not None and spec.origin is not None
    digest = hashlib.sha256()
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def circumstances() -> dict[str, Any]:
    """What a number depends on besides the code."""
    return {
        "date": date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "versions": {n: version(n) for n in ("jax", "numpyro", "numpy")} | {"python": platform.python_version()},
    }


def setting(rows: list[dict[str, Any]]) -> str:
    """One line under a table: what it was measured with."""
    if not rows:
        return ""
    last = max(rows, key=lambda r: r["date"])
    tools = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
    return f"{last['cores']} cores; {tools}; {last['date']}."
