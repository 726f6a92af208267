"""Data and starts. Made once, by the parent process, and read from a file by both sides.

NumPy alone is needed to read them: BayesPy's Python need not have more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FAITHFUL = Path(__file__).parent / "data" / "faithful.csv"


@dataclass(frozen=True)
class Problem:
    """What both sides are given.

    Attributes:
        model: Its name in ``models.py`` and ``theirs.py``.
        data: The model's arguments.
        start: Where sites begin: values of a discrete one, or of a real one.
        sweeps: At most so many of BayesPy's; it ends earlier where its bound has settled.
    """

    model: str
    data: dict[str, Any]
    start: dict[str, np.ndarray]
    sweeps: int = 20_000

    def save(self, path: Path) -> None:
        arrays = {f"data.{k}": np.asarray(v) for k, v in self.data.items()}
        arrays |= {f"start.{k}": v for k, v in self.start.items()}
        np.savez(path, model=np.asarray(self.model), sweeps=np.asarray(self.sweeps), **arrays)

    @staticmethod
    def load(path: Path) -> Problem:
        parts: dict[str, dict[str, Any]] = {"data": {}, "start": {}}
        with np.load(path) as stored:
            for name in stored.files:
                if "." in name:
                    part, key = name.split(".", 1)
                    value = stored[name]
                    parts[part][key] = value if value.ndim else value.item()
            return Problem(str(stored["model"]), parts["data"], parts["start"], int(stored["sweeps"]))


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def _faithful() -> np.ndarray:
    return np.loadtxt(FAITHFUL, delimiter=",", skiprows=1)


def regression() -> Problem:
    """Diabetes, 442 x 10: linear regression with a precision for every coefficient."""
    from sklearn.datasets import load_diabetes

    d = load_diabetes()
    return Problem("regression", {"X": standardised(d.data), "y": standardised(d.target)}, {})


def mixture_2() -> Problem:
    """Old Faithful, 272 x 2, in two: eruptions of more than three minutes, and the others."""
    x = _faithful()
    return Problem("mixture", {"X": standardised(x), "K": 2}, {"z": (x[:, 0] > 3).astype(int)})


def mixture_6() -> Problem:
    """The same in six: eruptions by length."""
    x = _faithful()
    rank = np.argsort(np.argsort(x[:, 0], kind="stable"))
    return Problem("mixture", {"X": standardised(x), "K": 6}, {"z": rank * 6 // len(rank)})


def mixture_20() -> Problem:
    """10,000 x 10 from twenty Gaussians; of the true labels three in ten are replaced."""
    n, d, k = 10_000, 10, 20
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 4, (k, d))
    z = rng.integers(0, k, n)
    x = centres[z] + rng.standard_normal((n, d))
    return Problem("mixture", {"X": x, "K": k}, {"z": np.where(rng.random(n) < 0.3, rng.integers(0, k, n), z)})


def pca_wine() -> Problem:
    """Wine, 13 x 178, five components."""
    from sklearn.datasets import load_wine

    return _pca(standardised(load_wine().data).T, 5)


def pca_synthetic() -> Problem:
    """50 x 2,000 of rank four, and noise; ten components."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 2000)) + 0.5 * rng.normal(size=(50, 2000))
    return _pca(y, 10)


def _pca(y: np.ndarray, k: int) -> Problem:
    start = np.random.default_rng(0).normal(size=(len(y), 1, k))[:, 0]
    return Problem("pca", {"Y": y, "K": k}, {"C": start})


def lda() -> Problem:
    """Latent Dirichlet allocation, ten topics: 395 documents, 53,761 tokens of 1,000 words, drawn from the model."""
    documents, tokens, words, k = 395, 53_761, 1_000, 10
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(words, 0.1), k)
    lengths = 1 + rng.multinomial(tokens - documents, rng.dirichlet(np.full(documents, 4.0)))
    shares = rng.dirichlet(np.full(k, 0.1), documents)
    doc = np.repeat(np.arange(documents), lengths)
    z = (rng.random((tokens, 1)) > np.cumsum(shares, 1)[doc]).sum(1).clip(max=k - 1)
    word = (rng.random((tokens, 1)) > np.cumsum(topics, 1)[z]).sum(1).clip(max=words - 1)
    return _lda(doc, word, documents, words, k)


def corpus(path: Path, documents: int = 395, words: int = 1_000, k: int = 10) -> Problem:
    """The same of a file of counts, documents x words, in SciPy's compressed rows: its first documents, its most
    frequent words."""
    import scipy.sparse

    with np.load(path) as stored:
        parts = stored["data"].astype(int), stored["indices"].astype(int), stored["indptr"].astype(int)
        counts = scipy.sparse.csr_matrix(parts, shape=tuple(stored["shape"]))[:documents]
    frequent = np.sort(np.argsort(-np.asarray(counts.sum(0)).ravel())[:words])
    c = counts[:, frequent].tocoo()
    return _lda(np.repeat(c.row, c.data), np.repeat(c.col, c.data), counts.shape[0], len(frequent), k)


def _lda(doc: np.ndarray, word: np.ndarray, documents: int, words: int, k: int) -> Problem:
    start = {"z": np.random.default_rng(0).integers(0, k, len(word))}
    return Problem("lda", {"doc": doc, "word": word, "D": documents, "V": words, "K": k}, start, sweeps=20)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "regression": regression,
    "mixture_2": mixture_2,
    "mixture_6": mixture_6,
    "mixture_20": mixture_20,
    "pca_wine": pca_wine,
    "pca_synthetic": pca_synthetic,
    "lda": lda,
}
