r"""Symbols: a name as LaTeX, a number, and a letter for each index.

An index goes by the initial of its plate, where it is one, so that n is rows everywhere; others get letters in order.
Two indices of one term with the same letter are told apart by primes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lowerbound.expectations.axes import Axis
from lowerbound.expectations.structure import Moment, Structure
from lowerbound.explanation.operands import Exponential, Known, MomentAt, Operand, Product, Slope
from lowerbound.explanation.rows import plate_axes
from lowerbound.model.base import Model

_GREEK = {
    *(
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
    ),
    *("pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi"),
    *("Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
}
_POOL = "ijklmpqrstvdhabc"


def symbol(name: str, at: Sequence[str] = (), *, plain: bool = False) -> str:
    r"""A name with an index: ``mu_a`` at n is ``\mu_{a,n}``."""
    if plain:
        return name + index(at)
    head, *rest = [p for p in re.split(r"[_\s./]+", name) if p] or [name]
    if not rest and (m := re.fullmatch(r"([A-Za-z]+?)(\d+)", head)):
        head, rest = m[1], [m[2]]
    return _word(head) + index([_word(r) for r in rest] + list(at))


def _word(word: str) -> str:
    if word in _GREEK:
        return "\\" + word
    if len(word) == 1 or word.isdigit():
        return word
    escaped = re.sub(r"([#$%&{}])", r"\\\1", word).replace("~", r"\sim ").replace("^", "")
    return rf"\mathrm{{{escaped}}}"


def index(at: Sequence[str]) -> str:
    """A subscript."""
    at = [a for a in at if a]
    if not at:
        return ""
    short = all(re.fullmatch(r"[A-Za-z]'*", a) for a in at)
    return "_{" + ("" if short else ",").join(at) + "}"


def fraction(x: float) -> str:
    """A number: whole, a fraction with a small denominator, or five digits."""
    if abs(x) < 1e7 and abs(x - round(x)) <= 1e-12 * abs(x):
        return str(round(x))
    f = Fraction(x).limit_denominator(16)
    if abs(float(f) - x) <= 1e-12 * abs(x):
        return ("-" if f < 0 else "") + rf"\frac{{{abs(f.numerator)}}}{{{f.denominator}}}"
    text = f"{x:.5g}"
    if "e" in text:
        digits, exponent = text.split("e")
        return (rf"{digits} \cdot " if digits not in ("1", "-1") else digits[:-1]) + rf"10^{{{int(exponent)}}}"
    return text


def signed(x: float) -> tuple[str, str]:
    """Sign and absolute value."""
    return ("-" if x < 0 else "+"), fraction(abs(x))


class Letters:
    """Letters for axes, the same for the same thing throughout.

    Dimensions of latents and of data that share an index somewhere are one thing, and it is named after a plate if any
    of them is one.

    Args:
        model: For its plates, and the names that letters must not be taken for.
        structure: Of its blocks.
        products: Everything that will be written.
        arguments: The arrays of the data, without dimensions of size one.
    """

    def __init__(
        self, model: Model, structure: Structure, products: Iterable[Product], arguments: Mapping[str, np.ndarray]
    ):
        self.model, self.structure = model, structure
        self.taken = {n for n in (*model.sites, *model.discrete, *model.argument_names) if len(n) == 1}
        self.letters: dict[Any, str] = {}
        self.above: dict[Any, Any] = {}
        for n in (*model.sites, *model.discrete):
            for axis, plate in plate_axes(model, n).items():
                self._join(("plate", plate), (n, axis))
        products = list(products)
        for p in products:
            seen: dict[Axis, Any] = {}
            for o in p.operands:
                for axis, thing in self.things(o):
                    self._join(seen.setdefault(axis, thing), thing)
        # Data along which no latent runs go by the plate of their size, where there is one such plate.
        sizes = list(model.plate_sizes.values())
        of_size = {n: p for p, n in model.plate_sizes.items() if sizes.count(n) == 1}
        of_latents = {self._root(t) for t in list(self.above) if t[0] in structure.latents and t[1] != "data"}
        for name, a in arguments.items():
            for axis, n in enumerate(a.shape):
                if n in of_size and self._root((name, "data", axis)) not in of_latents:
                    self._join(("plate", of_size[n]), (name, "data", axis))
        for plate in model.plate_sizes:  # these have the first choice
            self._letter(("plate", plate))

    def _root(self, thing: Any) -> Any:
        while thing in self.above:
            thing = self.above[thing]
        return thing

    def _join(self, a: Any, b: Any) -> None:
        """Plates stay at the root; two of them stay two."""
        a, b = self._root(a), self._root(b)
        if a == b or (a[0] == "plate" and b[0] == "plate"):
            return
        if b[0] == "plate":
            a, b = b, a
        self.above[b] = a

    def things(self, o: Operand) -> Iterator[tuple[Axis, Any]]:
        """What the axes of an operand are dimensions of."""
        if isinstance(o, MomentAt):
            for i, thing in zip(o.index, self._dimensions(o.moment, len(o.index)), strict=True):
                if isinstance(i, Axis):
                    yield i, thing
                elif isinstance(i.name, str):
                    yield from ((a, (i.name, "data", n)) for n, a in enumerate(i.axes))
        elif isinstance(o, Known) and o.form == "data":
            yield from ((a, (o.names[0], "data", n)) for n, a in enumerate(o.axes))
        elif isinstance(o, Exponential):
            for p in (*o.mean, *o.square):
                yield from (t for i in p.operands for t in self.things(i))
        elif isinstance(o, Slope):
            for p in (*(p for terms in o.bound.inputs for p in terms), *o.bound.weight):
                yield from (t for i in p.operands for t in self.things(i))

    def _dimensions(self, m: Moment, count: int) -> list[Any]:
        """For each index of a moment, the dimension of a latent; the values of a discrete one come last."""
        pair = m.latents if m.function is None else m.latents[1:]
        if len(pair) == 2 and pair[0] in self.structure.gaussian and count > len(self._plates(pair[0])):
            a, b = pair
            g = self.structure.gaussian[a]
            return [*((a, i) for i in g.plates[a]), *((a, i) for i in g.dense[a]), *((b, i) for i in g.dense[b])]
        return [(m.latents[-1], i) for i in range(count)]

    def _plates(self, name: str) -> tuple[int, ...]:
        return self.structure.gaussian[name].plates[name]

    def _letter(self, thing: Any) -> str:
        root = self._root(thing)
        if root not in self.letters:
            self._named(root, str(root[1]) if root[0] == "plate" else "")
        return self.letters[root]

    def _named(self, root: Any, wish: str) -> str:
        used = {*self.letters.values()}
        free = [c for c in wish.lower() if c.isascii() and c.isalpha() and c not in used | self.taken]
        rest = [c for c in _POOL if c not in used | self.taken] or [c for c in _POOL if c not in used]
        self.letters[root] = (free + rest + ["i"])[0]
        return self.letters[root]

    def of(
        self, operands: Iterable[Operand], axes: Sequence[Axis], given: Mapping[Axis, str] | None = None
    ) -> dict[Axis, str]:
        """A letter for each axis, none of them twice; those in ``given`` have theirs. Moments come first."""
        out = dict(given or {})
        things: dict[Axis, Any] = {}
        for o in sorted(operands, key=lambda o: not isinstance(o, MomentAt)):
            for a, thing in self.things(o):
                if a not in things or self._root(thing)[0] == "plate":
                    things[a] = thing
        ordered = [*(a for a in things if a in axes), *(a for a in axes if a not in things)]
        for a in ordered:
            if a not in out:
                out[a] = _primed(self._letter(things.get(a, ("size", a.size))), out.values())
        return out

    def of_moment(self, m: Moment, axes: Sequence[Axis]) -> dict[Axis, str]:
        """Letters for the axes of a moment."""
        out: dict[Axis, str] = {}
        for axis, thing in zip(axes, self._dimensions(m, len(axes)), strict=True):
            out[axis] = _primed(self._letter(thing), out.values())
        return out

    def row(self, name: str, axis: int, used: Iterable[str]) -> str:
        """A letter for an axis of the data that is summed over inside."""
        return _primed(self._letter((name, "data", axis)), used)


def _primed(letter: str, used: Iterable[str]) -> str:
    used = set(used)
    while letter in used:
        letter += "'"
    return letter
