"""Every target by name, theme after theme. A new one is a function under ``@target()`` in the file of its theme."""

from __future__ import annotations

from benchmarks.trust import (
    bundled,
    conjugate,
    hierarchies,
    improper,
    latent,
    mixtures,
    regressions,
    series,
    shapes,
    supports,
)
from benchmarks.trust.target import TARGETS, Target

THEMES = (bundled, conjugate, shapes, supports, mixtures, hierarchies, regressions, series, latent, improper)
REGISTRY: dict[str, Target] = dict(TARGETS)


def names(asked: list[str] | None = None) -> list[str]:
    """The asked names, all when none is asked; a theme's name stands for all of its targets."""
    themes = {t.theme for t in REGISTRY.values()}
    unknown = [n for n in asked or () if n not in REGISTRY and n not in themes]
    if unknown:
        raise SystemExit(
            f"unknown target {', '.join(unknown)}; themes: {', '.join(sorted(themes))}; known: {', '.join(REGISTRY)}"
        )
    return [n for n, t in REGISTRY.items() if not asked or n in asked or t.theme in asked]
