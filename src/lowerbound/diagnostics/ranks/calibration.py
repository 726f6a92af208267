"""What ranks over many simulated data sets say: the result of :func:`lowerbound.calibrate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.diagnostics.ranks.uniformity import Uniformity, envelope, number_of_bins, uniformity
from lowerbound.errors import unknown_name
from lowerbound.report.ranks import plot_ranks, render_ranks

if TYPE_CHECKING:
    import pandas as pd

#: With fewer fits the tests have no power, and nothing is said.
MINIMUM = 20
#: What a fit that raised is counted under, beside the names of the verdicts.
FAILED = "FAILED"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of simulated truths among the draws of their fitted posteriors, and what they say.

    Made by :func:`lowerbound.calibrate`.

    Attributes:
        model_name, family_name, algorithm_name: What was fitted.
        source: ``"posterior"``, draws as a person gets them, or ``"q"``, those of the family alone.
        names: The m quantities: coordinates of latents in the constrained space, ``log_likelihood``, ``log_joint``.
        ranks: ``[n, m]``, whole numbers from 0 to ``num_ranked``; one row a fit that gave draws.
        verdicts: Of these fits, ``[n]``: names of :class:`~lowerbound.VerdictStatus`.
        errors: What the fits that gave none said.
        num_datasets: Data sets asked for; fewer were fitted if it was interrupted.
        num_ranked: L, draws a fit.
        alpha: Chance of a false alarm, over all quantities together.
        seconds: Wall time.
    """

    model_name: str
    family_name: str
    algorithm_name: str
    source: str
    names: tuple[str, ...]
    ranks: np.ndarray = field(repr=False)
    verdicts: tuple[str, ...] = field(repr=False)
    errors: tuple[str, ...] = field(repr=False)
    num_datasets: int
    num_ranked: int
    alpha: float
    seconds: float
    _cache: dict[bool, Uniformity] = field(default_factory=dict, repr=False)

    @property
    def minimum(self) -> int:
        """Fits that the tests need."""
        return MINIMUM

    @property
    def counts(self) -> dict[str, int]:
        """Number of fits by verdict, and of those that failed."""
        return dict(Counter(self.verdicts) + Counter({FAILED: len(self.errors)}))

    @property
    def is_trusted(self) -> np.ndarray:
        """Which rows of ``ranks`` are of fits whose draws the verdict vouches for, ``[n]``.

        TRUSTED and CORRECTED; with ``source="q"`` TRUSTED alone, since CORRECTED says that q is not right.
        """
        return np.array([v == "TRUSTED" or (v == "CORRECTED" and self.source != "q") for v in self.verdicts], bool)

    def tests(self, *, trusted: bool = False) -> Uniformity:
        """The tests of all fits, or of those with a trusted verdict."""
        if trusted not in self._cache:
            self._cache[trusted] = uniformity(self._rows(trusted), self.num_ranked)
        return self._cache[trusted]

    def miscalibrated(self, *, trusted: bool = False) -> dict[str, str]:
        """Quantities whose ranks are not uniform, worst first, and what their posteriors are ("too narrow")."""
        n = len(self._rows(trusted))
        if n < MINIMUM:
            return {}
        tests = self.tests(trusted=trusted)
        return {self.names[i]: tests.shape(i, n) for i in np.argsort(tests.p, kind="stable") if tests.p[i] < self.alpha}

    @property
    def ok(self) -> bool:
        """Whether the ranks are uniform as far as the tests see: those of all fits, and those of trusted ones."""
        return len(self.ranks) >= MINIMUM and not self.miscalibrated() and not self.miscalibrated(trusted=True)

    @property
    def sentence(self) -> str:
        """What follows, in words."""
        n, trusted = len(self.ranks), int(self.is_trusted.sum())
        if n < MINIMUM:
            why = f" The first error: {self.errors[0]}" if self.errors else ""
            return f"Only {n} fits gave draws: too few to say anything, {MINIMUM} are needed.{why}"
        wrong, wrong_trusted = self.miscalibrated(), self.miscalibrated(trusted=True)
        whose = "posteriors" if self.source == "posterior" else "q"
        if wrong_trusted:
            return (
                f"Fits with a trusted verdict are miscalibrated ({whose}): {_listed(wrong_trusted)}. Do not rely on "
                "these numbers; please report it."
            )
        if wrong:
            few = f"Only {trusted} fits are trusted, too few to test."
            rest = f"Those of the {trusted} fits that are trusted show nothing." if trusted >= MINIMUM else few
            return f"All fits together are miscalibrated ({whose}): {_listed(wrong)}. {rest}"
        p = self.tests().p
        return (
            f"The ranks of {n} fits are those of an exact posterior as far as the tests see: the smallest corrected "
            f"p-value of {len(p)} quantities is {p.min():.2g} ({self.names[int(p.argmin())]})."
        )

    def summary(self, *, trusted: bool = False) -> pd.DataFrame:
        """A row a quantity: mean and spread of its ranks, p-values of both tests, and the corrected one.

        Args:
            trusted: Of trusted fits alone, see :attr:`is_trusted`.

        Returns:
            A DataFrame with ``mean`` (1/2 if uniform), ``spread`` (1 if uniform, more if the posterior is too
            narrow), ``p_chi_square``, ``p_ecdf``, ``p`` (corrected for both tests and all quantities) and ``ok``.
        """
        import pandas as pd

        t = self.tests(trusted=trusted)
        columns = {"mean": t.mean, "spread": t.spread, "p_chi_square": t.chi_square, "p_ecdf": t.ecdf, "p": t.p}
        return pd.DataFrame({**columns, "ok": t.p >= self.alpha}, index=list(self.names))

    def histogram(self, name: str, *, bins: int | None = None, trusted: bool = False) -> np.ndarray:
        """Counts of a quantity's ranks in equal bins; as many as the chi-square test has, by default."""
        rows = self._rows(trusted)
        bins = bins or number_of_bins(len(rows), self.num_ranked)
        column = rows[:, self._place(name)]
        return np.bincount(column * bins // (self.num_ranked + 1), minlength=bins)

    def plot(self, names: list[str] | None = None, *, kind: str = "ecdf", trusted: bool = False) -> Any:
        """A Matplotlib figure: ECDF of the ranks less that of uniform ones, or histograms.

        Args:
            names: Quantities; by default all, the worst 16 where there are more.
            kind: ``"ecdf"``, with the band that holds the whole curve with probability 1 - alpha (one
                quantity at a time, not corrected), or ``"histogram"``, with a band for each bar.
            trusted: Of trusted fits alone.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        if kind not in ("ecdf", "histogram"):
            raise unknown_name("kind of plot", kind, ("ecdf", "histogram"))
        if names is None:
            worst = np.argsort(self.tests(trusted=trusted).p, kind="stable")[:16]
            names = [self.names[i] for i in sorted(worst)]
        rows = self._rows(trusted)
        band = envelope(len(rows), self.num_ranked, self.alpha)
        columns = {name: rows[:, self._place(name)] for name in names}
        bins = number_of_bins(len(rows), self.num_ranked)
        return plot_ranks(columns, self.num_ranked, bins, band, self.alpha, kind)

    def __str__(self) -> str:
        return render_ranks(self)

    def _rows(self, trusted: bool) -> np.ndarray:
        return self.ranks[self.is_trusted] if trusted else self.ranks

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise unknown_name("quantity", name, self.names)
        return self.names.index(name)


def _listed(wrong: Mapping[str, str]) -> str:
    """Names with what is wrong, the first few."""
    shown = [f"{n} ({what})" for n, what in list(wrong.items())[:4]]
    return ", ".join(shown) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
