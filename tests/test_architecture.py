"""The shape of the library: imports point one way, files are short, importing does nothing, settings are left alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

import lowerbound

ROOT = Path(lowerbound.__file__).parent

#: A part may import those above it, never those below. The reading order of the library.
ORDER = (
    "errors",  # what can go wrong, in words
    "symbolic",  # the identity written out
    "precision",  # float64 inside
    "threads",  # how many threads linear algebra takes
    "waiting",  # for a call, but not for ever
    "weighted",  # quantiles of weighted draws
    "pareto",  # what importance weights can bear
    "standard_errors",  # of means and sds of draws
    "labels",  # a discrete latent, by the probabilities of its values
    "report",  # what a person looks at: it is handed a posterior, and imports nothing of the library
    "compilation",  # programs: traced once, compiled once
    "model",  # p(x, z); its sites, from and to the vector
    "kernel",  # the compiled program
    "expectations",  # E_q
    "families",  # q(z)
    "objectives",  # the bound
    "gradients",  # its slope
    "simulation",  # draws from the joint
    "algorithms",  # argmax
    "diagnostics",  # KL(q || p)
    "escalation",  # what is tried where the verdict fails
    "registry",  # short names
    "closed_form",  # what of a model has a closed form
    "plan",  # the choice
    "explanation",  # the plan, to a person
    "encoder",  # what a fitted network answers
    "posterior",  # the answer, and in a file
    "divergences",  # how far two are apart
    "decomposition",  # log p(x) = ELBO + KL, each by itself
    "fitting",  # the ways through a fit, and the loop they share
    "updating",  # the answer, as data arrive
    "calibration",  # many fits of simulated data
    "examples",  # models to try
    "cli",  # the command line
    "__main__",
)
#: Imports inside a function that point the other way, or within a package close a circle. Each has a reason.
EXCEPTIONS = {
    ("lowerbound.posterior.posterior", "lowerbound.posterior.storage"): "save is storage.save(posterior)",
    ("lowerbound.posterior.posterior", "lowerbound.updating.update"): "update is update(posterior, ...)",
    ("lowerbound.model.base", "lowerbound.model.numpyro"): "Model.from_numpyro is a way in that makes a Model",
    ("lowerbound.model.base", "lowerbound.model.log_density"): "Model.from_log_density is a way in that makes a Model",
}
#: The top-level package hands out the names of every part, lazily; what the parts may take from it is its version.
TOP = "lowerbound"


@cache
def imports() -> dict[tuple[str, str], list[str]]:
    """Every import of one module of the library by another, with where it stands; at any depth."""
    modules = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    out: dict[tuple[str, str], list[str]] = {}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: a relative import; write it in full"
                base = node.module or ""
                targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
            for target in targets:
                if target.split(".")[0] == TOP and target != module:
                    out.setdefault((module, target), []).append(f"{path.relative_to(ROOT.parent)}:{node.lineno}")
    return out


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else TOP


def test_every_part_has_its_place_in_the_order():
    parts = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())}
    parts.discard("__init__")
    assert parts == set(ORDER), (
        f"without a place: {sorted(parts - set(ORDER))}; without a file: {sorted(set(ORDER) - parts)}. "
        "Put each where everything it imports is above it."
    )


def test_imports_point_one_way():
    rank = {part: i for i, part in enumerate(ORDER)}
    wrong = []
    for (module, target), places in imports().items():
        a, b = _part(module), _part(target)
        if TOP in (a, b) or a == b or (module, target) in EXCEPTIONS:
            continue
        if rank[b] >= rank[a]:
            wrong.append(f"{places[0]}: {a} imports {b}, which comes after it")
    assert not wrong, "imports that point the wrong way:\n  " + "\n  ".join(wrong)


def test_no_circles_between_modules():
    # Stricter than the order: within a package too, and whatever the order says.
    edges: dict[str, set[str]] = {}
    for module, target in imports():
        if module != TOP and target != TOP and (module, target) not in EXCEPTIONS:
            # A package's __init__ only collects: what imports the package depends on all of it.
            edges.setdefault(module, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "a circle of imports: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
    assert len(done) > 30


def test_every_exception_is_still_needed_and_is_inside_a_function():
    for module, target in EXCEPTIONS:
        assert (module, target) in imports(), f"{module} no longer imports {target}: take it out of EXCEPTIONS"
        path = ROOT.parent / Path(*module.split(".")).with_suffix(".py")
        tops = {n.module for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)}
        assert target not in tops, f"{module} imports {target} at the top"


def test_from_the_top_the_parts_take_only_the_version():
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == TOP and path.parent != ROOT / "cli":
                names = {a.name for a in node.names} - set(ORDER) - {"__version__"}
                if path != ROOT / "__init__.py":
                    assert not names, f"{path.relative_to(ROOT.parent)}:{node.lineno} takes {names} from the top"


def test_no_file_is_longer_than_500_lines():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in ROOT.rglob("*.py")}
    assert len(lengths) > 30
    assert {k: v for k, v in lengths.items() if v > 500} == {}


def test_every_module_says_what_it_is():
    for path in ROOT.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if path.stem != "__main__":
            assert text and len(text.splitlines()[0]) > 15, f"{path.relative_to(ROOT)} has no docstring"


def _run(program: str, **environment: str) -> dict:
    """Run a program in a fresh interpreter; it prints one JSON object last."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | environment
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT.parent), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_importing_starts_no_backend():
    found = _run(
        """
        import json, sys
        import lowerbound
        at_import = sorted(m for m in ("jax", "numpyro", "scipy", "pandas") if m in sys.modules)
        lowerbound.fit, lowerbound.LogDensity, lowerbound.families.Dense(), lowerbound.algorithms.ScoreRegression()
        from jax._src import xla_bridge
        before = sorted(xla_bridge._backends)
        import jax
        jax.devices()
        print(json.dumps({"at_import": at_import, "before": before, "after": sorted(xla_bridge._backends)}))
        """,
        JAX_PLATFORMS="cpu",
    )
    assert found["at_import"] == [], "`import lowerbound` alone loads nothing heavy"
    assert found["before"] == [], "looking up lowerbound.fit started a JAX backend"
    assert found["after"] == ["cpu"], "the test looks in the wrong place: a backend that was started is not seen"


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("cache", ["own", "off", "the user's"])
def test_a_fit_leaves_jax_as_it_was(x64, cache, tmp_path):
    mine = tmp_path / "user"
    found = _run(
        f"""
        import json
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_enable_x64", {x64})
        {f'jax.config.update("jax_compilation_cache_dir", {str(mine)!r})' if cache == "the user's" else ""}
        def settings():
            return {{k: repr(v) for k, v in jax.config.values.items()}}
        before = settings()
        import lowerbound as lb
        from numpyro.distributions import constraints
        sites = {{"x": lb.Site(constraints.real, (2,))}}
        target = lb.LogDensity(lambda x, y: -0.5 * ((x - 3.0) ** 2).sum() + 0 * y.sum(), sites)
        posterior = lb.fit(target, {{"y": np.ones(3, np.float32)}})
        posterior.sample(10); posterior.summary(); posterior.log_prob(posterior.mean())
        posterior.save({str(tmp_path / "p.lb")!r}); lb.load({str(tmp_path / "p.lb")!r}).sample(10)
        after = settings()
        names = before.keys() | after.keys()
        changed = {{k: (before.get(k), after.get(k)) for k in names if before.get(k) != after.get(k)}}
        mean = posterior.mean()["x"]
        print(json.dumps({{
            "changed": changed, "settings": len(before), "x64": bool(jax.config.jax_enable_x64),
            "made": str(jnp.ones(1).dtype), "answer": mean.tolist(), "dtype": str(mean.dtype),
        }}))
        """,
        JAX_PLATFORMS="cpu",
        LOWERBOUND_CACHE="0" if cache == "off" else str(tmp_path / "own"),
    )
    assert found["settings"] > 50
    assert found["changed"] == {}
    assert found["x64"] is x64 and found["made"] == ("float64" if x64 else "float32")
    # float64 inside, whatever the setting: 3 to more digits than float32 has.
    assert found["dtype"] == "float64"
    assert found["answer"] == pytest.approx([3.0, 3.0], abs=1e-12)
    # ... and compiled programs are kept where they were asked for, and nowhere else.
    files = {d: any((tmp_path / d).glob("*")) for d in ("own", "user")}
    assert files["own"] is (cache == "own")
