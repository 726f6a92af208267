"""Ranks on a screen: a text with a small histogram for each quantity, and a Matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Quantities shown as text; where there are more, the worst.
MAX_ROWS = 40
_BARS = "▁▂▃▄▅▆▇█"


def render_ranks(calibration: Any) -> str:
    """A :class:`lowerbound.Calibration` as plain text."""
    c = calibration
    n = len(c.ranks)
    what = "posterior" if c.source == "posterior" else "q"
    lines = [f"Calibration of {c.model_name} ({c.family_name}, {c.algorithm_name}), ranks among draws of {what}", ""]
    if n:
        lines += [*_table(c), ""]
    lines.append(f"{'OK' if c.ok else 'NOT OK'}: {c.sentence}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in c.counts.items()) or "none"
    done = n + len(c.errors)
    lines.append(f"  - fits: {counts}" + (f"; interrupted after {done} of {c.num_datasets}" * (done < c.num_datasets)))
    trusted = int(c.is_trusted.sum())
    if 0 < trusted < n and trusted >= c.minimum:
        p = c.tests(trusted=True).p
        lines.append(
            f"  - the {trusted} trusted fits alone: smallest corrected p-value {_p(p.min())} ({c.names[p.argmin()]})"
        )
    if c.errors:
        lines.append(f"  - first failure: {c.errors[0]}")
    lines.append(f"Time: {c.seconds:.1f} s")
    return "\n".join(lines)


def _table(c: Any) -> list[str]:
    summary = c.summary()
    shown = summary if len(summary) <= MAX_ROWS else summary.nsmallest(MAX_ROWS, "p")
    rows = [["", "ranks", "mean", "spread", "p"]]
    wrong = c.miscalibrated()
    remarks = [""]
    for name, row in shown.iterrows():
        bars = sparkline(c.histogram(name, bins=8))
        rows.append([str(name), bars, f"{row['mean']:.3f}", f"{row['spread']:.2f}", _p(row["p"])])
        remarks.append(wrong.get(name, ""))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    lines = []
    for row, remark in zip(rows, remarks, strict=True):
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [v.rjust(w) for v, w in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*cells, remark]).rstrip())
    if len(shown) < len(summary):
        lines.append(f"the worst {len(shown)} of {len(summary):,}")
    return lines


def sparkline(counts: Any) -> str:
    """Counts as bars of an eighth of a line each: full height is twice the mean.

    >>> sparkline([0, 4, 8, 4])
    '▁▄█▄'
    """
    counts = np.asarray(counts, float)
    heights = counts / max(2 * counts.mean(), 1e-300) * len(_BARS)
    return "".join(_BARS[min(max(math.ceil(h) - 1, 0), len(_BARS) - 1)] for h in heights)


def _p(value: float) -> str:
    return "< 1e-9" if value < 1e-9 else f"{value:.2g}"


def plot_ranks(
    columns: Mapping[str, np.ndarray],
    largest: int,
    bins: int,
    band: tuple[np.ndarray, np.ndarray, np.ndarray],
    alpha: float,
    kind: str,
) -> Any:
    """A figure with one panel a quantity; see :meth:`lowerbound.Calibration.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("plot needs Matplotlib, which is not installed: pip install matplotlib") from e
    across = min(4, len(columns))
    down = math.ceil(len(columns) / max(across, 1))
    # A Figure of its own, not pyplot's: nothing is opened, and nothing is left open.
    figure = Figure(figsize=(3 * across, 2.4 * down), layout="constrained")
    for place, (name, ranks) in enumerate(columns.items()):
        axes = figure.add_subplot(down, across, place + 1)
        axes.set_title(name, fontsize="medium")
        if kind == "ecdf":
            _ecdf(axes, ranks, largest, band)
        else:
            _bars(axes, ranks, largest, bins, alpha)
    return figure


def _ecdf(axes: Any, ranks: np.ndarray, largest: int, band: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    z, lower, upper = band
    axes.fill_between(z, lower - z, upper - z, color="0.85", step=None)
    u = (np.arange(largest + 1) + 1) / (largest + 1)
    ecdf = np.searchsorted(np.sort(ranks), np.arange(largest + 1), side="right") / max(len(ranks), 1)
    axes.plot(np.concatenate([[0.0], u]), np.concatenate([[0.0], ecdf - u]), drawstyle="steps-post")
    axes.axhline(0, color="0.5", linewidth=0.5)
    axes.set_xlabel("rank / (L + 1)")
    axes.set_ylabel("ECDF difference")


def _bars(axes: Any, ranks: np.ndarray, largest: int, bins: int, alpha: float) -> None:
    from scipy import stats

    counts = np.bincount(ranks * bins // (largest + 1), minlength=bins)
    low, high = stats.binom.ppf([alpha / 2 / bins, 1 - alpha / 2 / bins], len(ranks), 1 / bins)
    axes.axhspan(low, high, color="0.85")
    axes.bar((np.arange(bins) + 0.5) / bins, counts, width=1 / bins, edgecolor="white")
    axes.set_xlabel("rank / (L + 1)")
    axes.set_ylabel("data sets")
