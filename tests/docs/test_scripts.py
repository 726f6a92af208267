"""The scripts of ``examples/`` run, as a person runs them: in a process of their own, elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lowerbound

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
#: What each must print.
SAYS = {
    "digits_vae": ["k-hat", "independent pixels", "autoencoder, 500 draws", "█"],
    "gradient_estimators": ["score_regression", "reparameterized", "sticking_the_landing", "score_function"],
    "log_density": ["rates[0]", "TRUSTED", "log evidence"],
    "own_model": ["intercept", "saved:", "for ArviZ:"],
}
#: The lesson on amortizing has an autoencoder of its own, and is run by default; so are the laws of every gradient
#: estimator (tests/laws/test_gradients.py).
SLOW = ("digits_vae", "gradient_estimators")


def test_the_table_is_complete():
    assert [s.stem for s in SCRIPTS] == sorted(SAYS)


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=pytest.mark.slow) if s.stem in SLOW else s for s in SCRIPTS],
    ids=lambda s: s.stem,
)
def test_script(script, tmp_path):
    if script.stem == "own_model":
        pytest.importorskip("arviz")
    source = str(Path(lowerbound.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "TrustWarning" not in done.stderr
    for words in SAYS[script.stem]:
        assert words in done.stdout
