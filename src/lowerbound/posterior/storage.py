"""A posterior in a file: a zip of JSON, NumPy arrays and compiled transforms. No pickle.

``meta.json`` holds names, numbers and the verdict; ``arrays.npz`` the parameters of q, the weighted
draws and the trace; ``constrain`` and ``unconstrain`` the two programs of :mod:`lowerbound.model.sites` as
serialised StableHLO, which JAX runs in any process. Loading reads data, and executes nothing but
those array programs. The model's data are kept where they are small: see :data:`MAX_DATA`.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from lowerbound import families
from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.assessment import Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.updates import Update
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.evidence import Evidence
from lowerbound.errors import FileFormatError, IncompatibleError
from lowerbound.escalation import Trial
from lowerbound.families.exponential.described import describe, rebuild
from lowerbound.labels import Labels
from lowerbound.model.base import Site
from lowerbound.model.responsibilities import Averages, Responsibilities
from lowerbound.model.sites import SiteMap
from lowerbound.posterior.posterior import Posterior
from lowerbound.posterior.trace import Trace

FORMAT = 4
#: Bytes of the model's data kept in a file, at most; the smallest arrays first. ``to_arviz`` reads them; discrete
#: latents that were summed out are drawn from as many in their own program.
MAX_DATA = 2**24
#: The program of :mod:`lowerbound.model.responsibilities`.
_GIVEN = "responsibilities"
_BLOCKS: dict[str, type] = {
    "arrow": families.ArrowGaussian,
    "dense": families.DenseGaussian,
    "diagonal": families.DiagonalGaussian,
    "low_rank": families.LowRankGaussian,
    "sinh_arcsinh": families.SinhArcsinhBlock,
    "flow": families.FlowBlock,
    "mixture": families.MixtureBlock,
    "particles": families.ParticleBlock,
    "point": families.Point,
}


def save(posterior: Posterior, path: Any) -> None:
    """Write a posterior to ``path``, whole or not at all."""
    p = posterior
    v = p.verdict
    arrays: dict[str, np.ndarray] = {
        "log_weights": p.log_weights,
        "pool": p._pool,
        "pool_weights": p._pool_weights,
        "trace_elbo": p.trace.elbo,
        "trace_elbo_se": p.trace.elbo_se,
        "trace_seconds": p.trace.seconds,
    }
    arrays |= {f"q.{k}": a for k, a in p.q.arrays().items()}
    # Of latents that were summed out, beside the program that gives them at a draw: it may be too large.
    for k, labels in p._reported.summed.items():
        arrays |= {f"probabilities.{k}": labels.probabilities, f"values.{k}": labels.values}
    # Modules are code as much as numbers: those of them are saved with equinox.tree_serialise_leaves.
    arrays |= {f"parameter.{k}": a for k, a in p.parameters.items() if isinstance(a, np.ndarray)}
    observed = _small(p.observed)
    arrays |= {f"observed.{k}": a for k, a in observed.items()}
    meta = {
        "format": FORMAT,
        "q": _describe(p.q),
        "status": p.status.name,
        "verdict": {
            "status": v.status.name,
            "sentence": v.sentence,
            "reasons": v.reasons,
            "parameters": v.parameters,
            "next_step": v.next_step,
            "converged": v.converged,
            "rule": v.rule,
            "elbo": _number(v.elbo),
            "pareto_k": _number(v.pareto_k),
            "kl_gap": _number(v.kl_gap),
            "effective": _number(v.effective),
            "not_checked": v.not_checked,
            "fatal": v.fatal,
            "fisher": _number(v.fisher),
            "r_hat": _number(v.r_hat),
            "modes": _number(v.modes),
            "without_sd": v.without_sd,
        },
        "log_evidence": _number(p.log_evidence),
        "evidence": {
            "lower": _number(p.evidence.lower),
            "upper": None if p.evidence.upper is None else _number(p.evidence.upper),
            "num_samples": p.evidence.num_samples,
            "condition": p.evidence.condition,
        },
        "corrections": [list(c) for c in p.corrections],
        "trials": [[t.name, t.reason, _number(t.gain), t.kept, t.seconds] for t in p.trials],
        "updates": [_update(u) for u in p.updates],
        "pareto_k": _number(p.pareto_k),
        "trace_phase": p.trace.phase,
        "timings": p.timings,
        "counts": p.counts,
        "seed": p.seed,
        "versions": p.versions,
        "names": [p.model_name, p.family_name, p.algorithm_name],
        "source": p.source,
        "effective": _number(p.effective),
        "sites": [
            [s.name, str(s.support), list(s.shape), list(s.plates), s.start, list(s.unconstrained_shape)]
            for s in p._sites.sites.values()
        ],
        "deterministics": {k: list(s) for k, s in p._sites.deterministics.items()},
        "elsewhere": list(p._sites.elsewhere),
        "observed": list(observed),
        "averaged": {k: _number(a.draws) for k, a in p._reported.summed.items()},
    }
    target = Path(os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as f, zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("meta.json", json.dumps(meta, indent=1))
            z.writestr("arrays.npz", buffer.getvalue())
            for name, program in p._sites.export().items():
                z.writestr(name, program)
            if (given := p._sites.responsibilities) is not None and (program := given.export(MAX_DATA)) is not None:
                z.writestr(_GIVEN, program)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _small(data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    kept, size = set(), 0
    for k in sorted(data, key=lambda k: data[k].nbytes):
        size += data[k].nbytes
        if size <= MAX_DATA:
            kept.add(k)
    return {k: a for k, a in data.items() if k in kept}


def load(path: Any) -> Posterior:
    """Read a posterior that :meth:`Posterior.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is not a saved posterior, or one of a newer version.
    """
    damaged = (zipfile.BadZipFile, zlib.error, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError)
    if Path(os.fspath(path)).is_dir():
        raise FileFormatError(f"{path} is a directory; needed: a file that posterior.save wrote.")
    try:
        with zipfile.ZipFile(os.fspath(path)) as z:
            meta = json.loads(z.read("meta.json"))
            if meta.get("format", 0) > FORMAT:
                raise _newer(path, meta["format"])
            with np.load(io.BytesIO(z.read("arrays.npz")), allow_pickle=False) as a:
                arrays = dict(a)
            programs = {k: z.read(k) for k in ("constrain", "unconstrain", _GIVEN) if k != _GIVEN or k in z.namelist()}
        return _posterior(meta, arrays, programs)
    except FileFormatError:
        raise
    except damaged as e:
        raise FileFormatError(
            f"{path} is not a posterior saved by lowerbound, or is damaged ({type(e).__name__}: {e})."
        ) from e


def _newer(path: Any, version: int) -> FileFormatError:
    return FileFormatError(
        f"{path} has format {version}, this version of lowerbound reads up to {FORMAT}. Upgrade lowerbound."
    )


def _posterior(meta: Any, arrays: dict[str, np.ndarray], programs: dict[str, bytes]) -> Posterior:
    v = meta["verdict"]
    verdict = Verdict(
        VerdictStatus[v["status"]],
        v["sentence"],
        tuple(v["reasons"]),
        tuple(v["parameters"]),
        v["next_step"],
        v["converged"],
        v["rule"],
        Estimate(*map(float, v["elbo"])),
        float(v["pareto_k"]),
        Estimate(*map(float, v["kl_gap"])),
        float(v["effective"]),
        tuple(v["not_checked"]),
        bool(v["fatal"]),
        float(v["fisher"]),
        float(v["r_hat"]),
        tuple(map(float, v["modes"])),
        tuple(v["without_sd"]),
    )
    e = meta["evidence"]
    upper = None if e["upper"] is None else Estimate(*map(float, e["upper"]))
    evidence = Evidence(Estimate(*map(float, e["lower"])), upper, int(e["num_samples"]), e["condition"])
    sites = {n: Site(_Named(c), tuple(sh), n, tuple(pl), st, tuple(us)) for n, c, sh, pl, st, us in meta["sites"]}
    q = _restore(meta["q"], {k[2:]: a for k, a in arrays.items() if k.startswith("q.")})
    trace = Trace(tuple(meta["trace_phase"]), arrays["trace_elbo"], arrays["trace_elbo_se"], arrays["trace_seconds"])
    model_name, family_name, algorithm_name = meta["names"]
    elsewhere = meta.get("elsewhere", ())
    averages = {
        k: Labels(arrays[f"values.{k}"], arrays[f"probabilities.{k}"], float(n))
        for k, n in meta.get("averaged", {}).items()
    }
    return Posterior(
        q,
        Status[meta["status"]],
        verdict,
        Estimate(*map(float, meta["log_evidence"])),
        evidence,
        float(meta["pareto_k"]),
        arrays["log_weights"],
        trace,
        meta["timings"],
        meta["counts"],
        meta["seed"],
        meta["versions"],
        model_name,
        family_name,
        algorithm_name,
        {k: arrays[f"observed.{k}"] for k in meta["observed"]},
        meta["source"],
        float(meta["effective"]),
        tuple(Correction(*c) for c in meta["corrections"]),
        tuple(Trial(n, r, Estimate(*map(float, g)), bool(k), float(s)) for n, r, g, k, s in meta["trials"]),
        SiteMap.from_exported(
            sites,
            {k: tuple(s) for k, s in meta["deterministics"].items()},
            programs,
            elsewhere,
            _given(averages, programs.get(_GIVEN)),
        ),
        arrays["pool"],
        arrays["pool_weights"],
        averages,
        parameters={k.removeprefix("parameter."): a for k, a in arrays.items() if k.startswith("parameter.")},
        updates=tuple(_updated(u) for u in meta.get("updates", ())),
    )


def _given(averages: dict[str, Labels], program: bytes | None) -> Responsibilities | None:
    if not averages or program is None:
        return Averages(averages) if averages else None
    values = {k: a.values for k, a in averages.items()}
    return Responsibilities.from_exported(values, {k: a.probabilities.shape[:-1] for k, a in averages.items()}, program)


def _update(u: Update) -> list[Any]:
    return [u.rows, u.forget, u.carried, list(u.local), *(_number(e) for e in u[4:])]


def _updated(row: Any) -> Update:
    rows, forget, said, local, *estimates = row
    return Update(int(rows), float(forget), said, tuple(local), *(Estimate(*map(float, e)) for e in estimates))


class _Named(constraints.Constraint):
    """A support known by name only: all a loaded posterior needs of it."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def tree_flatten(self) -> Any:
        return (), ((), {"name": self.name})


def _number(value: Any) -> Any:
    """Floats as text: JSON has no infinities."""
    return [repr(float(v)) for v in value] if isinstance(value, tuple) else repr(float(value))


def _describe(block: families.Block) -> Any:
    if isinstance(block, families.FactoredBlock):
        try:
            return {"blocks": [describe(b) for b in block.blocks], "places": [list(p) for p in block.places]}
        except ValueError as e:
            raise IncompatibleError(
                f"this posterior cannot be saved: {e} of a latent is a function that only the model's code can "
                "evaluate. Save draws instead: posterior.to_arviz().to_netcdf(path)."
            ) from e
    if isinstance(block, families.ProductBlock):
        return [_describe(b) for b in block.blocks]
    return next(k for k, c in _BLOCKS.items() if type(block) is c)


def _restore(description: Any, arrays: dict[str, np.ndarray]) -> families.Block:
    if isinstance(description, list):
        blocks = []
        for j, d in enumerate(description):
            prefix = f"block{j}."
            blocks.append(_restore(d, {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}))
        return families.ProductBlock(tuple(blocks), tuple(arrays[f"index{j}"] for j in range(len(blocks))))
    if isinstance(description, dict):
        blocks = [rebuild(d) for d in description["blocks"]]
        naturals = [{k: arrays[f"{i}.{j}"] for j, k in enumerate(b.keys)} for i, b in enumerate(blocks)]
        places = [families.Place(n, s, tuple(a), tuple(u), start) for n, s, a, u, start in description["places"]]
        return families.FactoredBlock(blocks, naturals, places)
    if description not in _BLOCKS:
        raise FileFormatError(f"the file holds a block of unknown kind {description!r}.")
    return _BLOCKS[description](**arrays)
