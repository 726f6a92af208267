"""The pictures of the lessons: python docs/pictures/make_learn.py [FOLDER]"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import norm

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
REVERSE, FORWARD, TARGET = "#c2410c", "#1d4ed8", "#111827"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "learn",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def two_divergences(path: Path) -> None:
    """Left: p and the best Gaussian by each divergence. Right: both divergences as a narrow q moves along."""
    x = np.linspace(-14, 14, 8001)
    dx = x[1] - x[0]
    p = 0.4 * norm.pdf(x, -2, 0.7) + 0.6 * norm.pdf(x, 2, 0.7)

    def divergences(mean: float, sd: float) -> tuple[float, float]:
        log_ratio = np.log(p) - norm.logpdf(x, mean, sd)
        return -(norm.pdf(x, mean, sd) * log_ratio).sum() * dx, (p * log_ratio).sum() * dx

    means = np.linspace(-4, 4, 161)
    both = np.array([divergences(m, 0.7) for m in means])
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.8), layout="constrained")
        shown = np.linspace(-6, 6, 241)  # a small file
        p = 0.4 * norm.pdf(shown, -2, 0.7) + 0.6 * norm.pdf(shown, 2, 0.7)
        left.fill_between(shown, p, color="#e5e7eb")
        left.plot(shown, p, color=TARGET, linewidth=1.2, label="p")
        left.plot(shown, norm.pdf(shown, 2, 0.7), color=REVERSE, linewidth=1.5, label="least KL(q ‖ p)")
        left.plot(shown, norm.pdf(shown, 0.4, np.sqrt(4.33)), color=FORWARD, linewidth=1.5, label="least KL(p ‖ q)")
        left.set(title="density", xlim=(-6, 6), ylim=(0, None), xlabel="x")
        left.legend(frameon=False, fontsize=8, handlelength=1.2)
        right.plot(means, both[:, 0], color=REVERSE, linewidth=1.5, label="KL(q ‖ p)")
        right.plot(means, both[:, 1], color=FORWARD, linewidth=1.5, label="KL(p ‖ q)")
        right.set(title="nats, for a q with sd 0.7", xlabel="mean of q", ylim=(0, 20))
        right.legend(frameon=False, fontsize=8, handlelength=1.2)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def cookie_jar(path: Path) -> None:
    """KL from the truth to the posterior mean, after each hundred of the lesson's 1,500 draws."""
    draws = np.random.default_rng(2).random(1500) < 0.7
    n = np.arange(0, 1501, 100)
    chocolate = np.array([draws[:i].sum() for i in n])
    mean = (1 + chocolate) / (2 + n)
    kl = 0.7 * np.log(0.7 / mean) + 0.3 * np.log(0.3 / (1 - mean))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.6, 2.8), layout="constrained")
        axes.plot(n, kl, color=FORWARD, linewidth=1.3, marker="o", markersize=3.5)
        axes.annotate("50/50: 0.0823", (0, kl[0]), (60, kl[0] * 0.9), fontsize=8)
        axes.set(yscale="log", xlabel="cookies drawn", ylabel="KL(truth ‖ belief), nats")
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    two_divergences(folder / "two_divergences.svg")
    cookie_jar(folder / "cookie_jar.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images")
