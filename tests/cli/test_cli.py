"""The command line as a person meets it, by exit code, stdout and stderr: each command in a process of its own.

What else there is to say of a command is tried in this process, which has imported JAX already.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lowerbound
from lowerbound.cli import app
from lowerbound.examples import names

TRUSTED, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 2, 3, 130
FITTED = (TRUSTED, NOT_TRUSTED)

MODEL = """
    import jax.numpy as jnp
    import lowerbound as lb
    import numpyro, numpyro.distributions as dist
    from helper import SCALE

    def model(x, y, *, scale=SCALE):
        a = numpyro.sample("a", dist.Normal(0, 10))
        b = numpyro.sample("b", dist.Normal(0, 10))
        numpyro.sample("obs", dist.Normal(a + b * x, scale), obs=y)

    def anything(**data):
        model(data["x"], data["y"])

    def chatty(x, y):
        print("printed by the model")
        model(x, y)

    def slow(x, y):
        import sys, time
        print("tracing", file=sys.stderr, flush=True)
        time.sleep(60)

    def log_density(latents, x, y):
        prior = dist.Normal(0, 10).log_prob
        a, b = latents["a"], latents["b"]
        return prior(a) + prior(b) + jnp.sum(dist.Normal(a + b * x, SCALE).log_prob(y))

    density = lb.LogDensity(log_density, {"a": lb.Site(), "b": lb.Site()})
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a model, its neighbour, and data in every format."""
    path = tmp_path_factory.mktemp("cli")
    (path / "line.py").write_text(textwrap.dedent(MODEL))
    (path / "helper.py").write_text("SCALE = 0.5\n")
    (path / "broken.py").write_text("import numpyro\n\n1 / 0\n")
    (path / "typo.py").write_text("def model(:\n")
    (path / "needs.py").write_text("import no_such_module_here\n")
    x = np.linspace(-1, 1, 40)
    y = 1.0 + 2.0 * x + 0.5 * np.random.default_rng(0).normal(size=40)
    table = pd.DataFrame({"x": x, "y": y})
    table.to_csv(path / "data.csv", index=False)
    table.to_parquet(path / "data.parquet", index=False)
    table.assign(**{"row id": range(40), "note": "?"}).to_csv(path / "wide.csv", index=False)
    np.savez(path / "data.npz", x=x, y=y, scale=0.5)
    (path / "data.json").write_text(json.dumps({"x": x.tolist(), "y": y.tolist(), "scale": 0.5}))
    return path


@pytest.fixture
def run(place):
    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "lowerbound", *map(str, arguments)],
            cwd=place,
            env={**os.environ, "LOWERBOUND_CACHE": str(place / "cache"), "PYTHONWARNINGS": "error", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def inside(place, capsys, monkeypatch):
    """As ``run``, without a process."""

    def inside(*arguments):
        monkeypatch.chdir(place)
        before, path = set(sys.modules), list(sys.path)
        code = TRUSTED
        capsys.readouterr()
        try:
            app(list(map(str, arguments)))
        except SystemExit as e:
            code = e.code
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - before:  # the model and its neighbours, which are another's next time
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(place)):
                    del sys.modules[name]
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return inside


def refused(result, *words):
    """Exit code 2, one ``error:`` with these words, no traceback, nothing on stdout."""
    assert result.returncode == BAD_INPUT, result.stderr
    assert result.stdout == ""
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    return result


# -- what needs no fit -------------------------------------------------------------------------------


def test_version(run):
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"lowerbound {lowerbound.__version__}\n")


def test_help_lists_the_commands_and_the_exit_codes(run):
    result = run("--help")
    assert result.returncode == 0
    for word in ("fit", "explain", "show", "calibrate", "examples", "3 fitted but not trusted"):
        assert word in result.stdout


def test_help_imports_no_jax():
    code = """
        import sys
        from lowerbound.cli import app
        try:
            app(["--help"])
        except SystemExit:
            pass
        slow = {"jax", "numpyro", "pandas", "scipy"} & set(sys.modules)
        assert not slow, slow
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)


def test_examples(run):
    result = run("examples")
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == names()


def test_explain(run, inside):
    for call, *arguments in (
        (inside, "eight-schools"),
        (inside, "line.py", "--data", "data.csv"),
        (run, "line.py:chatty", "--data", "data.csv"),
    ):
        result = call("explain", *arguments)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("Plan of ")
        assert "lb.fit with no options: algorithm" in result.stdout
        assert "\x1b" not in result.stdout and max(map(len, result.stdout.splitlines())) <= 120
    assert "printed by the model" in result.stderr, "what a model prints does not mix with the answer"
    latex = inside("explain", "line.py", "--data", "data.csv", "--latex")
    assert latex.returncode == 0 and latex.stdout.startswith("\\begin{align*}") and "Plan of" not in latex.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-example",), ("unknown example",)),
        (("line.py",), ("Missing: x, y",)),
        (("line.py", "--data", "nothing.csv"), ("there is no file nothing.csv",)),
        (("broken.py",), ("ZeroDivisionError",)),
    ],
    ids=str,
)
def test_explain_refused_with_a_reason(inside, arguments, words):
    refused(inside("explain", *arguments), *words)


# -- bad input ---------------------------------------------------------------------------------------


def test_no_model(inside):
    result = inside("fit")
    assert result.returncode == BAD_INPUT
    assert "MODEL" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eihgt-schools"], ["unknown example 'eihgt-schools'", "Did you mean 'eight-schools'?"]),
        (["some.module:model"], ["needed: FILE.py:NAME"]),
        (["missing.py:model"], ["there is no file", "missing.py"]),
        (["line.py:modle"], ["line.py has no 'modle'. It has: model, anything, chatty, slow, log_density."]),
        (["broken.py:model"], ["importing broken.py failed at line 3: ZeroDivisionError: division by zero"]),
        (["typo.py:model"], ["importing typo.py failed: SyntaxError", "line 1"]),
        (["needs.py:model"], ["importing needs.py failed at line 1: ModuleNotFoundError", "no_such_module_here"]),
        (["line.py:model", "--data", "missing.csv"], ["there is no file missing.csv"]),
        (["line.py:model", "--data", "line.py"], ["no known format", ".csv, .parquet, .json or .npz"]),
        (["line.py:model"], ["Missing: x, y"]),
        (["eight-schools", "--out", "line.py/a.lb"], ["--out line.py/a.lb: line.py is not a directory"]),
        (["eight-schools", "--out", "."], ["--out . is a directory"]),
        (["eight-schools", "--draws", "draws.txt"], ["--draws draws.txt has no known format"]),
        (["eight-schools", "--family", "desne"], ["unknown family 'desne'", "Did you mean 'dense'?"]),
        (["eight-schools", "--algorithm", "no such"], ["unknown algorithm 'no such'"]),
    ],
)
def test_refused_with_a_reason(inside, arguments, words):
    refused(inside("fit", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eight-schools", "--num-ranked", "100"], ["num_ranked is 100; needed: one less than a multiple of 8"]),
        (["eight-schools", "--source", "qq"], ["unknown source 'qq'", "Did you mean 'q'?"]),
        (["line.py:density", "--data", "data.csv"], ["a log density: it cannot be simulated from"]),
    ],
)
def test_calibrate_refused_with_a_reason(inside, arguments, words):
    refused(inside("calibrate", *arguments), *words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("other.csv", "u,v\n1,2\n", ["'u', 'v'", "the model takes x, y, scale", "no name is in both"]),
        ("words.csv", "x,y\n1,a\n2,b\n", ["'y' in words.csv is not numeric", "'a'"]),
        ("hole.csv", "x,y\n1,\n2,3\n", ["'y'", "NaN"]),
        ("ragged.json", '{"x": [[1], [1, 2]], "y": [1]}', ["'x' in ragged.json", "different lengths"]),
        ("null.json", '{"x": [1, null], "y": [1, 2]}', ["'x' in null.json", "not numbers"]),
        ("list.json", "[1, 2]", ["holds a list; needed: an object"]),
        ("bad.json", "{", ["cannot read bad.json"]),
        ("bad.npz", "not a zip", ["cannot read bad.npz"]),
        ("bad.parquet", "not parquet", ["cannot read bad.parquet"]),
    ],
)
def test_data_refused_with_a_reason(inside, place, name, text, words):
    (place / name).write_text(text)
    refused(inside("fit", "line.py:model", "--data", name), *words)


def test_show_refuses_what_is_no_posterior(run, inside, place):
    refused(run("show", "missing.lb"), "there is no file missing.lb")
    (place / "not.lb").write_text("not a posterior")
    refused(inside("show", "not.lb"), "not.lb")


def test_refused_in_a_process_of_its_own(run):
    refused(run("fit", "broken.py:model"), "importing broken.py failed at line 3: ZeroDivisionError: division by zero")


# -- fits --------------------------------------------------------------------------------------------


def test_fit_an_example(run):
    result = run("fit", "eight-schools")
    assert result.returncode in FITTED, result.stderr
    assert "TrustWarning" not in result.stderr
    for word in ("mu", "tau", "theta[7]", "mean", "sd", "ELBO", "TRUSTED: " if result.returncode else ": "):
        assert word in result.stdout
    assert ("NOT_TRUSTED" in result.stdout) == (result.returncode == NOT_TRUSTED)
    assert "\x1b" not in result.stdout + result.stderr


def test_fit_save_show(run, place):
    result = run("fit", "line.py:model", "--data", "data.csv", "--out", "new/line.lb", "--draws", "new/draws.csv")
    assert result.returncode == TRUSTED, result.stdout + result.stderr
    assert "note: posterior written to new/line.lb" in result.stderr
    shown = run("show", "new/line.lb")
    assert shown.returncode == TRUSTED, shown.stderr
    table = [line for line in result.stdout.splitlines() if not line.startswith("Time:")]
    for line in table:
        assert line in shown.stdout
    draws = pd.read_csv(place / "new/draws.csv")
    assert draws.shape == (1000, 2)
    posterior = lowerbound.load(place / "new/line.lb")
    mean = posterior.summary()["mean"]
    for name in ("a", "b"):
        se = draws[name].std() / np.sqrt(len(draws))
        assert abs(draws[name].mean() - mean[name]) < 6 * se
    # The exact posterior of a conjugate line, prior N(0, 10^2).
    data = pd.read_csv(place / "data.csv")
    design = np.stack([np.ones(40), data["x"]], axis=1)
    precision = design.T @ design / 0.25 + np.eye(2) / 100
    exact = np.linalg.solve(precision, design.T @ data["y"] / 0.25)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    assert np.all(abs(np.array([mean["a"], mean["b"]]) - exact) < 0.1 * sd)


def test_every_format_gives_the_same_answer(inside):
    answers = []
    for name in ("data.csv", "data.parquet", "data.npz", "data.json"):
        result = inside("fit", "line.py:model", "--data", name, "--json")
        assert result.returncode == TRUSTED, result.stderr
        answers.append(json.loads(result.stdout)["summary"])
    for other in answers[1:]:
        for parameter, row in answers[0].items():
            assert other[parameter] == pytest.approx(row, rel=1e-6, abs=1e-9)


def test_columns_that_the_model_does_not_take_are_named(inside):
    result = inside("fit", "line.py:model", "--data", "wide.csv", "--json")
    assert result.returncode == TRUSTED, result.stderr
    assert "left out of wide.csv, since the model does not take them: row id, note" in result.stderr


def test_a_model_that_takes_anything_gets_everything(inside):
    result = inside("fit", "line.py:anything", "--data", "data.csv", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (TRUSTED, "", "")


def test_a_log_density_gives_the_same_answer_as_the_model(inside):
    one, two = (inside("fit", f"line.py:{name}", "--data", "wide.csv", "--json") for name in ("model", "density"))
    assert two.returncode == TRUSTED, two.stderr
    assert "does not take them: row id, note" in two.stderr
    one, two = (json.loads(r.stdout)["summary"] for r in (one, two))
    for parameter in ("a", "b"):
        assert two[parameter]["mean"] == pytest.approx(one[parameter]["mean"], abs=0.05 * one[parameter]["sd"])


def test_the_model_is_called_model_by_default(inside, place):
    folder = place / "models.py.d"
    folder.mkdir()
    for name in ("line.py", "helper.py"):
        (folder / name).write_text((place / name).read_text())
    result = inside("fit", "models.py.d/line.py", "--data", "data.csv", "--quiet")
    assert result.returncode == TRUSTED, result.stderr


def test_json_is_json_alone(run):
    result = run("fit", "line.py:chatty", "--data", "data.csv", "--json")
    assert result.returncode == TRUSTED, result.stderr
    answer = json.loads(result.stdout)
    assert "printed by the model" in result.stderr
    assert answer["lowerbound"] == lowerbound.__version__
    assert answer["model"] == "chatty"
    assert answer["verdict"]["status"] in ("TRUSTED", "CORRECTED")
    assert answer["verdict"]["sentence"]
    assert isinstance(answer["verdict"]["elbo"]["value"], float)
    assert set(answer["summary"]) == {"a", "b"}
    assert {"mean", "sd"} <= set(answer["summary"]["a"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(run):
    one, two = (run("fit", "eight-schools", "--seed", "7", "--json") for _ in range(2))
    assert json.loads(one.stdout)["summary"] == json.loads(two.stdout)["summary"]


def test_not_trusted_exits_with_3(run):
    """A point mass has no spread to be trusted."""
    result = run("fit", "linear-regression", "--family", "point_mass", "--json")
    answer = json.loads(result.stdout)
    assert (result.returncode == NOT_TRUSTED) == (answer["verdict"]["status"] == "NOT_TRUSTED")
    assert result.returncode == NOT_TRUSTED
    assert answer["verdict"]["next_step"]
    assert "TrustWarning" not in result.stderr


def test_calibrate(run, inside):
    result = run("calibrate", "line.py:model", "--data", "data.csv", "--num-datasets", "20", "--source", "q")
    assert result.returncode == TRUSTED, result.stdout + result.stderr
    for word in ("Calibration of model", "log_likelihood", "OK: ", "fits: 20 TRUSTED"):
        assert word in result.stdout
    # Too few to say anything is not calibrated.
    result = inside("calibrate", "line.py:chatty", "--data", "data.csv", "--num-datasets", "2", "--json")
    assert result.returncode == NOT_TRUSTED, result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] is False and "too few" in answer["sentence"]
    assert answer["counts"] == {"TRUSTED": 2} and set(answer["summary"]) == set(answer["ranks"])
    assert all(len(r) == 2 for r in answer["ranks"].values())


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_draws(inside, place, suffix):
    result = inside("fit", "eight-schools", "--draws", f"eight.{suffix}", "--num-draws", "50", "--quiet")
    assert result.returncode in FITTED, result.stderr
    path: Path = place / f"eight.{suffix}"
    if suffix == "npz":
        with np.load(path) as draws:
            assert draws["theta"].shape == (50, 8)
            assert draws["mu"].shape == (50,)
    else:
        draws = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
        assert len(draws) == 50
        assert {"mu", "tau", "theta[0]", "theta[7]"} <= set(draws.columns)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_before_there_is_a_result(place):
    process = subprocess.Popen(
        [sys.executable, "-m", "lowerbound", "fit", "line.py:slow", "--data", "data.csv"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "tracing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    assert "interrupted" in err
