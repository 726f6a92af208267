"""When a verdict is right, and the table of how often it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from benchmarks.results import number, table
from benchmarks.trust.target import Moments

#: A run is accurate while no parameter's mean is off by more than 0.15 sd and no sd by more than 20 per cent.
MEAN, SD = 0.15, 0.2
#: Seconds that the check may take however fast the fit was.
CHECK = 2.0
VOUCHED = ("TRUSTED", "CORRECTED")
COLUMNS = (*VOUCHED, "NOT_TRUSTED", "error")
ROWS = ("accurate", "inaccurate", "no proper answer")


def errors(draws: Mapping[str, Any], truth: Mapping[str, Moments]) -> dict[str, Any]:
    """The worst errors of draws ``[n, *shape]`` by name, and where they are.

    |mean - true mean| in true sds, and |sd / true sd - 1|; infinite where a draw is not finite. Coordinates without
    spread (the diagonal of a correlation matrix) are left out.
    """
    worst = {"mean_error": 0.0, "mean_at": "", "sd_error": 0.0, "sd_at": ""}
    for name, (mean, sd) in truth.items():
        values = np.asarray(draws[name], float)
        if values.shape[1:] != mean.shape:
            raise ValueError(f"draws of {name!r} have the shape {values.shape[1:]}, its truth {mean.shape}.")
        spread = sd > 0
        if not spread.any():
            continue
        with np.errstate(all="ignore"):
            off = np.where(spread, np.abs(values.mean(0) - mean) / np.where(spread, sd, 1), 0)
            ratio = np.where(spread, np.abs(values.std(0, ddof=1) / np.where(spread, sd, 1) - 1), 0)
        for kind, error in (("mean", off), ("sd", ratio)):
            error = np.nan_to_num(error, nan=np.inf, posinf=np.inf)
            i = np.unravel_index(int(np.argmax(error)), error.shape)
            if error[i] > worst[f"{kind}_error"] or not worst[f"{kind}_at"]:
                worst[f"{kind}_error"] = float(error[i])
                worst[f"{kind}_at"] = name + (f"[{','.join(map(str, i))}]" if i else "")
    return worst


def verdict(row: Mapping[str, Any]) -> str:
    return "error" if "error" in row else row["verdict"]


def answer(row: Mapping[str, Any]) -> str:
    """Which row of the table a run belongs to; an error on a proper target is no accurate answer."""
    if row["kind"] != "proper":
        return "no proper answer"
    near = "error" not in row and row["mean_error"] <= MEAN and row["sd_error"] <= SD
    return "accurate" if near else "inaccurate"


def wrong(row: Mapping[str, Any]) -> bool:
    """Vouched for, and not accurate."""
    return verdict(row) in VOUCHED and answer(row) != "accurate"


def confusion(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Counts by answer and verdict."""
    counts = Counter((answer(r), verdict(r)) for r in rows)
    return {(a, v): counts[a, v] for a in ROWS for v in COLUMNS}


def shares(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    """What the table comes to.

    ``wrong``: runs vouched for and wrong. ``doubted``: of the accurate runs of proper targets, the share not vouched
    for. ``useful``: of all runs of proper targets, the share accurate and vouched for.
    """
    c = confusion(rows)
    accurate = sum(c["accurate", v] for v in COLUMNS)
    proper = accurate + sum(c["inaccurate", v] for v in COLUMNS)
    vouched = sum(c["accurate", v] for v in VOUCHED)
    return {
        "wrong": sum(map(wrong, rows)),
        "doubted": (accurate - vouched) / accurate if accurate else float("nan"),
        "useful": vouched / proper if proper else float("nan"),
    }


def percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.1%}"


def describe(row: Mapping[str, Any]) -> str:
    """One failure or one run in a line."""
    if "error" in row:
        return f"seed {row['seed']} error: {row['error']}"
    said = f"seed {row['seed']} {row['verdict']} k {number(row['pareto_k'], '.2f')} cpu {row['cpu']:.1f}"
    if row["kind"] != "proper":
        return said
    return (
        f"{said} mean {number(row['mean_error'], '.2f')} {row['mean_at']} sd {number(row['sd_error'], '.2f')} "
        f"{row['sd_at']}"
    )


def summary(rows: list[Mapping[str, Any]]) -> str:
    """The table, the three numbers, and every run that was wrong, missed, doubted or broken."""
    c, s = confusion(rows), shares(rows)
    body = table(["answer", *COLUMNS], [[a, *(c[a, v] for v in COLUMNS)] for a in ROWS])
    lines = [
        f"Runs: {len(rows)}, of {len({r['target'] for r in rows})} targets. "
        f"Vouched for and wrong: {s['wrong']}. Right and not trusted: {percent(s['doubted'])} of the accurate runs. "
        f"Accurate and vouched for: {percent(s['useful'])} of the runs of proper targets.",
        "",
        body,
    ]
    groups = (
        ("Vouched for and wrong", wrong),
        ("Accurate and not trusted", lambda r: answer(r) == "accurate" and verdict(r) == "NOT_TRUSTED"),
        ("Inaccurate, and said so", lambda r: answer(r) == "inaccurate" and verdict(r) == "NOT_TRUSTED"),
        ("Errors", lambda r: verdict(r) == "error"),
    )
    for title, belongs in groups:
        if found := Counter(r["target"] for r in rows if belongs(r)):
            named = ", ".join(f"{k} × {n}" if n > 1 else k for k, n in found.items())
            lines += ["", f"{title} ({found.total()}): {named}."]
    if small := [r for r in rows if "check" in r and r["dimension"] <= 100]:
        seconds = [r["check"] for r in small]
        over = sum(r["check"] > max(CHECK, r["fit"]) for r in small)
        lines += [
            "",
            f"What the check cost (wall seconds; {len(small)} runs in up to 100 dimensions): median "
            f"{np.median(seconds):.2f}, 95% below {np.quantile(seconds, 0.95):.1f}, at most {max(seconds):.1f}; more "
            f"than the fit and more than {CHECK:g} s in {over}.",
        ]
    return "\n".join(lines)


def details(rows: list[Mapping[str, Any]]) -> str:
    """A line for each target: verdicts over its seeds, the worst errors, the median CPU seconds of a fit."""
    lines = []
    for name in dict.fromkeys(r["target"] for r in rows):
        mine = [r for r in rows if r["target"] == name]
        said = Counter(verdict(r) for r in mine)
        done = [r for r in mine if "error" not in r]
        proper = [r for r in done if r["kind"] == "proper"]
        lines.append(
            [
                name,
                mine[0]["kind"],
                ", ".join(f"{v} × {n}" if len(mine) > 1 else v for v, n in said.most_common()),
                number(max((r["mean_error"] for r in proper), default=None), ".2f"),
                number(max((r["sd_error"] for r in proper), default=None), ".2f"),
                number(float(np.median([r["cpu"] for r in done])) if done else None, ".1f"),
            ]
        )
    return table(["target", "kind", "verdict", "mean", "sd", "CPU s"], lines)
