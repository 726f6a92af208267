"""The pictures of docs/trust.md, from the code of that page: python docs/pictures/make_trust.py [FOLDER]

The page's blocks are run in order, so that the pictures show the fits that its numbers are of.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import norm

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
Q, TRUTH, DRAWS = "#c2410c", "#111827", "#93c5fd"
# Text stays text and ids do not change from run to run: small files that can be compared.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trust",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def page_namespace() -> dict:
    """What the page's code defines; ``posteriors`` by the name of the model, since the page uses one name for all."""
    text = (DOCS / "trust.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "trust.md", "exec"), names)
        if "posterior" in names:
            names.setdefault("posteriors", {})[names["posterior"].model_name] = names["posterior"]
    return names


def picture(path: Path, trace, grid, q, truth, draws, *, bins, xlabel: str) -> None:
    """Two panels: the ELBO by step, and the three densities."""
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.6), width_ratios=(2, 3), layout="constrained")
        known = np.isfinite(trace.elbo)
        left.plot(np.linspace(0, 1, known.sum()), trace.elbo[known], color=Q, linewidth=1.3)
        left.set(title="ELBO, in nats", xlabel="share of the fit", ylim=_limits(trace.elbo[known]))
        right.hist(draws, bins, density=True, histtype="stepfilled", color=DRAWS, label="draws returned by lb.fit")
        right.plot(grid, truth, color=TRUTH, linewidth=1.3, label="truth")
        right.plot(grid, q, color=Q, linewidth=1.3, label="q of the converged fit")
        right.set(title="density", xlabel=xlabel, xlim=(bins[0], bins[-1]), ylim=(0, None))
        right.legend(frameon=False, fontsize=8, handlelength=1.2)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _limits(elbo: np.ndarray) -> tuple[float, float]:
    """Two nats at least, so that noise looks like noise."""
    top = elbo.max()
    return float(min(np.quantile(elbo, 0.03), top - 2) - 0.1), float(top + 0.4)


def main(folder: Path) -> None:
    names = page_namespace()
    every = slice(None, None, 8)

    tau = np.linspace(0.02, 16, 400)
    mean, sd = names["q_mean"], names["q_sd"]
    picture(
        folder / "trust_funnel.svg",
        names["funnel"].trace,
        tau,
        norm.pdf(np.log(tau), mean, sd) / tau,
        np.interp(tau, names["tau"], names["p_tau"]),
        names["posteriors"]["schools"].sample(20_000)["tau"],
        bins=np.linspace(0, 16, 65),
        xlabel="tau",
    )
    one, a = names["one_mode"], names["a"][every]
    picture(
        folder / "trust_modes.svg",
        one.trace,
        a,
        norm.pdf(a, one.q.mean[0], np.sqrt(one.q.variance()[0])),
        names["p_a"][every],
        names["posteriors"]["amplitude"].sample(20_000)["a"],
        bins=np.linspace(-3, 3, 151),
        xlabel="a",
    )
    narrow, mean, sd = names["narrow"], names["exact_mean"][0], names["exact_sd"][0]
    b = np.linspace(mean - 3.5 * sd, mean + 3.5 * sd, 400)
    picture(
        folder / "trust_narrow.svg",
        narrow.trace,
        b,
        norm.pdf(b, narrow.q.mean[0], np.sqrt(narrow.q.variance()[0])),
        norm.pdf(b, mean, sd),
        narrow.sample(20_000)["b"][:, 0],
        bins=np.linspace(b[0], b[-1], 61),
        xlabel="b[0]",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
