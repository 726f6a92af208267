r"""Equations as LaTeX: the ELBO, then q* of each block with its natural parameters as sums over factors.

Only ``amsmath`` is needed. Every term is on a line of its own, with the indices it is summed over under its sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowerbound.expectations.axes import Axis
from lowerbound.expectations.functions import INDICATOR, Function, Part
from lowerbound.expectations.structure import Moment
from lowerbound.explanation.operands import Bracket, Exponential, Known, MomentAt, Operand, Place, Product, Slope
from lowerbound.explanation.symbols import Letters, fraction, index, signed, symbol
from lowerbound.explanation.written import Equations, WrittenBound, WrittenUpdate
from lowerbound.families.exponential import (
    BetaBlock,
    CategoricalBlock,
    DirichletBlock,
    JointGaussianBlock,
    LogNormalBlock,
    PowerGammaBlock,
    WishartBlock,
)

#: How each bound is written: the function of its inputs, and the derivative with respect to each, up to its weight.
#: u, v, ... are the expectations of its inputs.
BOUNDS: dict[str, tuple[str, dict[int, str]]] = {
    "Pólya–Gamma": (
        r"-v \log\bigl(2\cosh(\sqrt{u}/2)\bigr)",
        {0: r"-\frac{v}{4\sqrt{u}} \tanh\frac{\sqrt{u}}{2}", 1: r"-\log\bigl(2\cosh(\sqrt{u}/2)\bigr)"},
    ),
    "Albert–Chib": (
        r"s\,\bigl(\log\Phi(u) - \frac{v-u^2}{2}\bigr) + t\,\bigl(\log\Phi(-u) - \frac{v-u^2}{2}\bigr)",
        {
            0: r"s\,\bigl(\frac{\phi(u)}{\Phi(u)} + u\bigr) - t\,\bigl(\frac{\phi(u)}{\Phi(-u)} - u\bigr)",
            1: r"-\frac{s+t}{2}",
        },
    ),
    "gamma mixture of normals": (
        r"-\frac{\nu+1}{2} \log\bigl(1+\frac{u}{\nu}\bigr)",
        {0: r"-\frac{\nu+1}{2(\nu+u)}"},
    ),
    "gamma mixture of half-normals": (r"-\log(1+u)", {0: r"-\frac{1}{1+u}"}),
    "exponential mixture of normals": (r"-\sqrt{u}", {0: r"-\frac{1}{2\sqrt{u}}"}),
}
#: The inputs of a bound; of more than there are letters, u_1, u_2, ...
_INPUTS = "uvst"


def _input(j: int, count: int) -> str:
    return _INPUTS[j] if count <= len(_INPUTS) else f"{{u_{{{j + 1}}}}}"


def _inside(name: str, count: int) -> str:
    """A bound of random logits as a function of means, squares and times; of any other, g of its inputs."""
    if name != "Jensen's inequality":
        return f"g({', '.join(_input(j, count) for j in range(count))})"
    own = [_input(j, count) for j in range(count)]
    powers = " + ".join(rf"e^{{{m} + ({s} - {m}^2)/2}}" for m, s in zip(own[:-1:2], own[1::2], strict=True))
    return rf"-{own[-1]} \log\bigl({powers}\bigr)"


def typeset(e: Equations) -> str:
    """Two ``align*`` environments, and what their symbols are."""
    products = [p for f in e.factors for p in f.all]
    letters = Letters(e.derivation.model, e.derivation.structure, products, e.arrays.arguments)
    printer = _Printer(e, letters)
    parts = [_environment(printer.elbo()), _environment([row for u in e.updates for row in printer.update(u)])]
    notes = printer.notes()
    return "\n\n".join(parts) + ("\n\n" + "\n".join(f"% {n}" for n in notes) if notes else "") + "\n"


def _environment(rows: Sequence[str]) -> str:
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


class _Printer:
    def __init__(self, e: Equations, letters: Letters):
        self.e, self.letters = e, letters
        self.exponents: dict[int, Exponential] = {}
        self.known: dict[str, Known] = {}

    # -- the ELBO --------------------------------------------------------------------------------------

    def elbo(self) -> list[str]:
        names = [f.name for f in self.e.factors]
        first = " + ".join(rf"\langle \log {self._density(n)} \rangle" for n in self.e.derivation.latents)
        entropies = " + ".join(rf"\mathrm{{H}}[q({self._latents(u)})]" for u in self.e.updates)
        rows = [rf"\mathcal{{L}}(q) &= {first} + {entropies}"]
        for f in self.e.factors:
            rows += self._lines(rf"\langle \log {self._density(f.name)} \rangle", f.all, {})
            for b in f.bounds:
                rows += self._bound(b)
        for n in self.e.derivation.latents:
            if n not in names:
                rows.append(rf"\langle \log {self._density(n)} \rangle &: \text{{no closed form}}")
        return rows + self._exponents()

    def _density(self, name: str) -> str:
        given = ", ".join(symbol(n) for n in self.e.derivation.latents[name] if n != name)
        return f"p({symbol(name)}" + (rf" \mid {given})" if given else ")")

    def _latents(self, u: WrittenUpdate) -> str:
        return ", ".join(symbol(n) for n in u.block.latents)

    def _bound(self, b: WrittenBound) -> list[str]:
        """Its value, its inputs, and the slopes that updates use."""
        names = self.letters.of(b.term().operands, b.axes)
        at = index([names[a] for a in b.axes])
        function, slopes = BOUNDS.get(b.name, (None, {}))
        count = len(b.inputs)
        inputs = [f"{_input(j, count)}^{{({b.number})}}{at}" for j in range(count)]
        inside = function if function is not None else _inside(b.name, count)
        weight = self._sum(b.weight, names, b.axes)
        times = "" if weight == "1" else rf"{_grouped(weight)}\,"
        rows = [rf"B^{{({b.number})}}{at} &= {times}\Bigl[{inside}\Bigr] \quad\text{{({_plain(b.name)} bound)}}"]
        random = [
            j for j, terms in enumerate(b.inputs) if any(isinstance(o, MomentAt) for p in terms for o in p.operands)
        ]
        for j in random:
            slope = slopes.get(j, rf"\partial g / \partial {_input(j, count)}")
            rows.append(rf"B^{{({b.number})}}_{{{_input(j, count)}}}{_and(at)} &= {times}\Bigl[{slope}\Bigr]")
        for name, terms in zip(inputs, b.inputs, strict=True):
            rows += self._lines(name, terms, names)
        return rows

    def _exponents(self) -> list[str]:
        rows: list[str] = []
        for n, o in sorted(self.exponents.items()):
            names = self.letters.of((o,), o.own)
            at = index([names[a] for a in o.own])
            a = f"a^{{({n})}}{at}"
            rows.append(
                rf"\langle e^{{{a}}} \rangle &= \exp\bigl(\langle {a} \rangle + "
                rf"\frac{{1}}{{2}}(\langle ({a})^2 \rangle - \langle {a} \rangle^2)\bigr)"
            )
            rows += self._lines(rf"\langle {a} \rangle", o.mean, names)
            rows += self._lines(rf"\langle ({a})^2 \rangle", o.square, names)
        return rows

    # -- the updates -----------------------------------------------------------------------------------

    def update(self, u: WrittenUpdate) -> list[str]:
        opened = [n for n in self.e.derivation.opened if {*u.block.latents} & {*self.e.derivation.latents[n]}]
        if opened:
            factors = ", ".join(symbol(n) for n in opened)
            return [rf"q({self._latents(u)}) &: \text{{no closed form, since }}{factors}\text{{ has none}}"]
        rows: list[str] = []
        names: dict[Moment, dict[Axis, str]] = {}
        taken: dict[Moment, str] = {}
        for key, axes in u.axes.items():
            names[key] = self.letters.of_moment(key, axes)
            taken[key] = rf"\eta_{{{self._statistic(key, None)}}}"
        rows.append(rf"q^*({self._latents(u)}) &= {self._family(u, taken, names)}")
        for key, axes in u.axes.items():
            letter = [names[key][a] for a in axes if a.size != 1]
            left = rf"\eta_{{{self._statistic(key, None)}}}" + (rf"\bigl[{', '.join(letter)}\bigr]" if letter else "")
            terms: list[str] = []
            for factor, products in u.parameters[key].items():
                inside = [self.product(p, names[key]) for p in products]
                for n, (sign, text) in enumerate(inside):
                    note = rf"\quad\text{{from }}{symbol(factor)}" if n == len(inside) - 1 else ""
                    terms.append(f"{sign} {text}{note}")
            if not terms:
                terms = ["0"]
            head = terms[0].removeprefix("+ ")
            rows.append(f"{left} &= {head}")
            rows += [rf"&\quad {t}" for t in terms[1:]]
        return rows

    def _family(self, u: WrittenUpdate, eta: Mapping[Moment, str], names: Mapping[Moment, Mapping[Axis, str]]) -> str:
        b = u.block
        if isinstance(b, JointGaussianBlock):
            x = ", ".join(symbol(n) for n in b.latents)
            return (
                rf"\mathcal{{N}}\bigl({x} \mid \Lambda^{{-1}} \eta,\ \Lambda^{{-1}}\bigr), \quad "
                rf"\Lambda = -(G + G^\top), \quad \eta = "
                rf"({', '.join(eta[k] for k in b.first.values())}), \quad "  # pyright: ignore[reportArgumentType]
                rf"G = ({', '.join(eta[k] for k in b.second.values())})"  # pyright: ignore[reportArgumentType]
            )
        e = [eta[k] for k in u.axes]
        if isinstance(b, PowerGammaBlock):
            alpha = f"1 + {e[0]}" if b.power == 1 else rf"\frac{{1 + {e[0]}}}{{{b.power:g}}}"
            raised = symbol(b.latents[0]) if b.power == 1 else f"{symbol(b.latents[0])}^{{{b.power:g}}}"
            return rf"\mathrm{{Gamma}}\bigl({raised} \mid {alpha},\ -{e[1]}\bigr)"
        if isinstance(b, BetaBlock):
            return rf"\mathrm{{Beta}}\bigl({e[0]} + 1,\ {e[1]} + 1\bigr)"
        if isinstance(b, DirichletBlock):
            return rf"\mathrm{{Dirichlet}}\bigl({e[0]} + 1\bigr)"
        if isinstance(b, CategoricalBlock):
            return rf"\mathrm{{Categorical}}\bigl(\mathrm{{softmax}}({e[0]})\bigr)"
        if isinstance(b, LogNormalBlock):
            return (
                rf"\mathrm{{LogNormal}}\bigl(m, s^2\bigr), \quad s^2 = -\frac{{1}}{{2 {e[1]}}}, \quad "
                rf"m = ({e[0]} + 1) s^2"
            )
        if isinstance(b, WishartBlock):
            a = eta[b.log_det]  # pyright: ignore[reportArgumentType]
            m = eta[b.matrix]  # pyright: ignore[reportArgumentType]
            nu = rf"-2 {a} - {b.d + 1}" if b.inverse else rf"2 {a} + {b.d + 1}"
            name = "InverseWishart" if b.inverse else "Wishart"
            return rf"\mathrm{{{name}}}\bigl(\nu, V\bigr), \quad \nu = {nu}, \quad V = -({m} + {m}^\top)"
        inside = " + ".join(rf"{eta[k]}\, {self._statistic(k, None)}" for k in u.axes)
        return rf"\frac{{1}}{{Z}} \exp\bigl({inside}\bigr)"

    # -- terms -----------------------------------------------------------------------------------------

    def _lines(self, left: str, products: Sequence[Product], names: Mapping[Axis, str]) -> list[str]:
        """left = the terms, each on a line."""
        if not products:
            return [f"{left} &= 0"]
        written = [self.product(p, names) for p in products]
        rows = []
        for n, (sign, text) in enumerate(written):
            head = f"{left} &= " if n == 0 else r"&\quad "
            rows.append(head + (text if n == 0 and sign == "+" else f"{sign} {text}"))
        return rows

    def _sum(self, products: Sequence[Product], names: Mapping[Axis, str], axes: Sequence[Axis]) -> str:
        out = ""
        for p in products:
            sign, text = self.product(p, names)
            out += text if not out and sign == "+" else f" {sign} {text}"
        return out.strip() or "0"

    def product(self, p: Product, names: Mapping[Axis, str]) -> tuple[str, str]:
        """Sign and text of a product, its free axes by their given names."""
        free = {a: names[a] for a in p.free}
        letters = self.letters.of(p.operands, p.summed, free)
        sign, number = signed(p.number)
        operands = sorted(p.operands, key=_ORDER)
        written = [self._operand(o, letters) for o in operands]
        summed = sorted(letters[a] for a in p.summed if a.size != 1)
        total = rf"\sum_{{{','.join(summed)}}} " if summed else ""
        if number == "1" and (written or total):
            number = ""
        return sign, (number + (r"\, " if number and (written or total) else "") + total + r"\, ".join(written)) or "1"

    def _operand(self, o: Operand, letters: Mapping[Axis, str]) -> str:
        if isinstance(o, Known):
            return self._array(o, letters)
        if isinstance(o, MomentAt):
            return rf"\langle {self._statistic(o.moment, [self._index(i, letters) for i in o.index])} \rangle"
        if isinstance(o, Bracket):
            return rf"[{self._index(o.left, letters)} = {letters[o.right]}]"
        at = index([letters[a] for a in o.axes if a.size != 1])
        if isinstance(o, Exponential):
            self.exponents[o.number] = o
            a = f"a^{{({o.number})}}{at}"
            return rf"\langle e^{{{a}}} \rangle" if o.part == "value" else rf"(1 - \langle {a} \rangle)"
        assert isinstance(o, Slope)
        if o.which is None:
            return f"B^{{({o.bound.number})}}{at}"
        return f"B^{{({o.bound.number})}}_{{{_input(o.which, len(o.bound.inputs))}}}{_and(at)}"

    def _array(self, o: Known, letters: Mapping[Axis, str]) -> str:
        at = [letters[a] for a in o.axes]
        if o.form == "identity":
            return rf"\delta_{{{','.join(at)}}}"
        if o.form == "array":
            x = symbol(f"X^{{({o.names[0]})}}", at, plain=True)
            self.known[f"X^({o.names[0]})"] = o
            return x
        if o.form == "data":
            (name,), (function,) = o.names, o.functions
            self.known[name] = o
            x = symbol(name, at)
            if o.shift:
                sign, t = signed(o.shift)
                return f"({x} {sign} {t})"
            if function == "log":
                return rf"\log {x}"
            return {"x": x, "x^2": f"{_power(x)}^{{2}}", "1/x": f"{_power(x)}^{{-1}}", "1/x^2": f"{_power(x)}^{{-2}}"}[
                function
            ]
        row = self.letters.row(o.names[0], int(o.functions[0]), letters.values())
        parts, rest = [], at
        for name, place, own in zip(o.names, o.functions, (o.split, len(at) - o.split), strict=False):
            mine, rest = rest[:own], rest[own:]
            indices = list(mine)
            indices.insert(int(place), row)
            parts.append(symbol(name, indices))
        if o.shift:
            sign, t = signed(o.shift)
            parts[-1] = f"({parts[-1]} {sign} {t})"
        return rf"\Bigl(\sum_{{{row}}} {' '.join(parts)}\Bigr)"

    def _index(self, i: Axis | Place, letters: Mapping[Axis, str]) -> str:
        if isinstance(i, Axis):
            return letters[i] if i.size != 1 else ""
        if not i.axes:
            return str(i.integers) if i.name else "0"
        at = [letters[a] for a in i.axes]
        if isinstance(i.name, str):
            return symbol(i.name, at)
        return symbol(f"g^{{({i.name})}}", at, plain=True)

    def _scaled(self, m: Moment, at: Sequence[str] | None) -> str:
        """Of a precision and the Gaussian latents that it scales: u x, u x y, L x, x' L x."""
        structure = self.e.derivation.structure
        scale, *names = m.latents
        if structure.latents[scale].support == "matrix":
            indices = [a for a in at or () if a]
            plates = indices[: len(structure.latents[scale].shape) - 2]
            free = indices[len(plates) :]
            whole, x = symbol(scale, plates), symbol(names[0], plates)
            if len(names) == 2:
                return rf"{x}^\top {whole} {x}"
            return rf"({whole} {x})_{{{free[0]}}}" if free else f"{whole} {x}"
        inner = Moment(tuple(names))
        plates = structure.gaussian[names[0]].plates[names[0]]
        along = None if at is None else [at[i] for i in plates if i < len(at)] if len(names) == 1 else at[: len(plates)]
        shape = structure.latents[scale].shape
        own = self._statistic(Moment((scale,), m.function), along if shape else [])
        return f"{own} {self._statistic(inner, at)}"

    def _statistic(self, m: Moment, at: Sequence[str] | None) -> str:
        """What a moment is the expectation of, at an index; without one, its name."""
        name = m.latents[0]
        if m.function is None and len(m.latents) == 1:
            return symbol(name, [a for a in at or () if a])
        if m.function is not None and len(m.latents) > 1:
            return self._scaled(m, at)
        if m.function is None:
            names = list(m.latents)
            a, b = names[0], names[-1]
            g = self.e.derivation.structure.gaussian[a]
            if at is None:
                return f"{symbol(a)} {symbol(b)}"
            p, n = len(g.plates[a]), len(g.dense[a])
            shared = dict(zip(g.plates[a], at[:p], strict=True)), dict(zip(g.plates[b], at[:p], strict=True))
            one = shared[0] | dict(zip(g.dense[a], at[p : p + n], strict=True))
            two = shared[1] | dict(zip(g.dense[b], at[p + n :], strict=True))
            left = symbol(a, [one[i] for i in sorted(one) if one[i]])
            right = symbol(b, [two[i] for i in sorted(two) if two[i]])
            return f"{_power(left)}^2" if left == right else rf"{left} {right}"
        x = symbol(name, [a for a in at or () if a])
        if m.function == INDICATOR:
            if at is None:
                return x
            return rf"[{symbol(name, [a for a in at[:-1] if a])} = {at[-1]}]"
        return _function(m.function, x)

    def notes(self) -> list[str]:
        out = ["<.> is an expectation under q; [.] is 1 where what it holds is true, else 0."]
        for name, o in sorted(self.known.items()):
            if o.form == "array":
                out.append(f"{name}: an array of shape {tuple(a.size for a in o.axes)} that the model computes.")
        for n, a in enumerate(self.e.arrays.integers):
            out.append(f"g^({n + 1}): integers of shape {a.shape}, indices that the model computes.")
        return out


def _ORDER(o: Operand) -> int:
    return [Bracket, Known, Slope, Exponential, MomentAt].index(type(o))  # pyright: ignore[reportArgumentType]


def _grouped(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text


def _power(x: str) -> str:
    return f"({x})" if "^" in x else x


def _and(at: str) -> str:
    """A second subscript, in brackets since there is a first."""
    return rf"[{at[2:-1]}]" if at else ""


def _plain(name: str) -> str:
    return name.replace("ó", r"\'o").replace("–", "--")


def _function(f: Function, x: str) -> str:
    return r" \, ".join(_part(p, x) for p in f.parts) or "1"


def _part(p: Part, x: str) -> str:
    if p.kind == "sum":
        said = (f"{'' if c == 1 else fraction(c)} {'' if f.trivial else _function(f, x)}" for c, f in p.parameter)
        return f"({' + '.join(part.strip() or '1' for part in said)})"
    if p.call is not None:
        scale, inner = p.parameter
        name = p.kind.replace("_", r"\_")
        times = "" if scale == 1 else f"{fraction(scale)}\\, "
        return rf"\mathrm{{{name}}}({times}{_function(inner, x)})"
    if p.kind == "power":
        return x if p.parameter == 1 else f"{_power(x)}^{{{fraction(p.parameter)}}}"
    if p.kind == "log":
        return rf"\log {x}"
    if p.kind == "log_complement":
        return rf"\log(1 - {x})"
    if p.kind == "log_det":
        return rf"\log |{x}|"
    assert p.kind == "inverse", p.kind
    return f"({x})^{{-1}}"
