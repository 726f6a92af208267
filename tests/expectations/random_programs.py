"""Random programs of a model's kind: affine maps, lookups, products, scales, exponentials, discrete choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Shape = tuple[int, ...]
REAL: dict[str, Shape] = {"s": (), "a": (4,), "b": (3,), "A": (4, 3), "B": (3, 3), "C": (2, 3, 2)}
POSITIVE: dict[str, Shape] = {"t": (), "tau": (3,), "rho": (4,), "T": (3, 2)}
DISCRETE: dict[str, Shape] = {"c": (), "z": (4,), "w": (3,), "Z": (2, 3)}
BETWEEN: dict[str, tuple[float, float, Shape]] = {"v": (0.5, 2.5, (3,)), "q": (-1.0, 2.0, ())}
K = 3
SIZES = (1, 2, 3, 4)


def latents() -> dict[str, Any]:
    """A menu of latents of all kinds."""
    o: dict[str, Any] = {}
    for n, shape in REAL.items():
        o[n] = numpyro.sample(n, dist.Normal(0, 1).expand(shape).to_event(len(shape)))
    for n, shape in POSITIVE.items():
        o[n] = numpyro.sample(n, dist.Gamma(4.0, 3.0).expand(shape).to_event(len(shape)))
    for n, shape in DISCRETE.items():
        o[n] = numpyro.sample(n, dist.Categorical(jnp.full((*shape, K), 1 / K)))
    o["u"] = numpyro.sample("u", dist.Beta(2.0, 3.0).expand([K]).to_event(1))
    for n, (low, high, shape) in BETWEEN.items():
        o[n] = numpyro.sample(n, dist.Uniform(low, high).expand(shape).to_event(len(shape)))
    o["pi"] = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    o["theta"] = numpyro.sample("theta", dist.Dirichlet(jnp.ones(K)).expand([4]).to_event(1))
    return o


class Grower:
    """Grows one program; the same seed grows the same."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def pick(self, options: Any) -> Any:
        options = list(options)
        return options[int(self.rng.integers(len(options)))]

    def data(self, shape: Shape, scale: float = 1.0) -> np.ndarray:
        return scale * self.rng.standard_normal(shape)

    def shape(self, most: int = 2) -> Shape:
        return tuple(self.pick(SIZES) for _ in range(self.rng.integers(0, most + 1)))

    # -- rearranging, without mixing elements -----------------------------------------------------------

    def fitted(self, x: Any, shape: Shape) -> Any:
        """The elements of an array, some of them and some repeatedly, in another shape."""
        how = self.rng.integers(3)
        size = math.prod(shape)
        if how == 0 and x.ndim and x.ndim <= len(shape):  # one index array a dimension, the rest broadcast
            for d in range(x.ndim):
                n = shape[len(shape) - x.ndim + d]
                x = jnp.take(x, self.places(x.shape[d], (n,)), axis=d)
            return jnp.broadcast_to(x, shape)
        if how == 1 and x.ndim >= 2:
            at = tuple(self.places(n, shape) for n in x.shape)
            return x[at]
        x = jnp.ravel(x.T if self.rng.random() < 0.5 else x)
        if x.shape[0] != size or self.rng.random() < 0.5:
            x = x[self.places(x.shape[0], (size,))]
        return x.reshape(shape)

    def places(self, n: int, shape: Shape) -> np.ndarray:
        """Indices from 0 to n - 1, or their negative counterparts."""
        at = self.rng.integers(0, n, shape)
        return at - n if self.rng.random() < 0.2 else at

    # -- affine in real latents -------------------------------------------------------------------------

    def linear(self, o: Any, shape: Shape, depth: int, names: Any) -> Any:
        """Linear in the latents ``names``, each in any number of places."""
        if depth == 0:
            return self.fitted(o[self.pick(names)], shape)

        def more(s: Shape = shape) -> Any:
            return self.linear(o, s, depth - 1, names)

        anywhere: list[Callable[[], Any]] = [
            lambda: more() + more(),
            lambda: more() - more() * 0.5,
            lambda: self.data(shape) * more(),
            lambda: jnp.where(self.data(shape) > 0, more(), more()),
            lambda: jnp.where(self.data(shape) > 0, more(), 0.7),
            lambda: self.fitted(more(self.shape(3)), shape),
            lambda: more() - jnp.mean(more()),
            lambda: jnp.sum(more((*shape, 2)) * self.data((2,)), -1),
            lambda: jnp.broadcast_to(more(()), shape),
        ]
        lines: list[Callable[[], Any]] = []
        if shape:
            n, rest = shape[-1], shape[:-1]
            lines = [
                lambda: jnp.flip(more(), -1),
                lambda: jnp.roll(more(), 1, -1),
                lambda: jnp.cumsum(more(), -1) * 0.7,
                lambda: more((*rest, 3)) @ self.data((3, n)) * 0.6,
                lambda: jnp.einsum("...j,kj->...k", more((*rest, 2)), self.data((n, 2))),
                lambda: jnp.stack([more(rest) for _ in range(n)], -1),
                lambda: jnp.diff(more((*rest, n + 1)), axis=-1),
                lambda: jnp.concatenate([more((*rest, n)), more((*rest, 1))], -1)[..., 1:],
                lambda: more((*rest, n + 2))[..., 1:-1],
                lambda: more((*rest, 2 * n))[..., ::2],
                lambda: jnp.pad(more((*rest, n)), [(0, 0)] * len(rest) + [(1, 0)])[..., :n],
                lambda: jnp.take_along_axis(more((*rest, 3)), self.rng.integers(0, 3, (*rest, n)), -1),
                lambda: jax.lax.dynamic_slice_in_dim(more((*rest, n + 1)), 1, n, axis=-1),
                lambda: more((*rest, n, 1)).reshape(shape),
                lambda: more(rest)[..., None] * self.data((n,)),
            ]
        if len(shape) == 2:
            rows, columns = shape
            lines += [
                lambda: more((columns, rows)).T,
                lambda: self.data((rows, 2)) @ more((2, columns)) * 0.7,
                lambda: more((rows, 1)) - more((1, columns)),
                lambda: more((rows * columns,)).reshape(rows, columns),
                lambda: jax.vmap(lambda r, k: jnp.flip(r) * k)(more(), jnp.asarray(self.data((rows,)))),
                lambda: jax.vmap(lambda r: r.sum() * r, in_axes=1, out_axes=1)(jnp.ones((rows, columns))) * more(),
                lambda: jnp.einsum("kij,k->ji", more((2, columns, rows)), self.data((2,))),
                lambda: jnp.tril(more()),
            ]
        return self.pick([*anywhere, *lines, *lines])()

    # -- monomials of positive latents ------------------------------------------------------------------

    def monomial(self, o: Any, shape: Shape, names: list[str], at: Any = None) -> Any:
        """A product of powers of the latents ``names``, each once and written in one way or another.

        Args:
            o: The latents.
            shape: Of the product.
            names: Which.
            at: Where given, a discrete latent of that shape by which elements of some are looked up.
        """
        out = jnp.asarray(np.exp(0.3 * self.data(shape)))
        for n in names:
            x = o[n]
            if at is not None and x.ndim and x.shape[0] == K:
                x = x[at] if x.ndim == 1 else x[at, self.places(x.shape[1], shape)]
            else:
                x = self.fitted(x, shape)
            written = [
                lambda x: x,
                jnp.sqrt,
                lambda x: 1 / x,
                lambda x: 1 / jnp.sqrt(x),
                jax.lax.rsqrt,
                lambda x: x**-0.5,
                lambda x: jnp.exp(0.5 * jnp.log(x)),
                lambda x: jnp.exp(-jnp.log(x)),
                lambda x: jnp.power(x, 0.5),
                lambda x: x * x / x,
                lambda x: jnp.abs(x),
            ]
            out = out * self.pick(written)(x) if self.rng.random() < 0.7 else out / self.pick(written)(x)
        return out

    def some(self, names: Any, most: int = 2) -> list[str]:
        names = list(names)
        return [names[i] for i in self.rng.permutation(len(names))[: self.rng.integers(1, most + 1)]]

    # -- choices by discrete latents ---------------------------------------------------------------------

    def chosen(self, o: Any, z: str) -> tuple[Any, Any, Shape]:
        """A real value that a discrete latent decides, with that latent as it is indexed, and the shape of both."""
        at, shape = o[z], DISCRETE[z]
        if shape and self.rng.random() < 0.5:  # the latent's own elements rearranged, each at most once
            order = self.rng.permutation(math.prod(shape))[: self.rng.integers(1, math.prod(shape) + 1)]
            at, shape = jnp.ravel(at)[order], (len(order),)
        other = self.pick([n for n in DISCRETE if n != z])
        options: list[Callable[[], Any]] = [
            lambda: o["b"][at],
            lambda: jnp.take(o["b"], at),
            lambda: o["B"][at, self.places(3, shape)],
            lambda: o["A"][self.places(4, shape), at],
            lambda: o["B"][:, 1][at] + o["b"][at],
            lambda: jnp.where(at == 1, self.fitted(o["a"], shape), self.data(shape)),
            lambda: jnp.where(at > 0, self.fitted(o["a"], shape), o["b"][at]),
            lambda: at * self.fitted(o["a"], shape),
            lambda: jax.nn.one_hot(at, K) @ o["b"],
            lambda: o["b"][(at + 1) % K],
            lambda: o["b"][at // 2],
            lambda: o["B"][at, at],
            lambda: self.linear(o, (K,), 2, ["a", "b"])[at],
            lambda: self.linear(o, (4, K), 1, ["A", "B"])[:, at][self.places(4, ())],
            lambda: o["B"][at, self.fitted(o[other], shape)] if not DISCRETE[other] else o["b"][at],
        ]
        return self.pick(options)(), at, shape

    # -- whole programs ----------------------------------------------------------------------------------

    def site(self, name: str, d: Any, shape: Shape, obs: Any) -> None:
        """Observed, its dimensions in plates, in the event, or neither; perhaps masked or scaled."""
        if self.rng.random() < 0.3:
            mask = self.rng.random(shape) < 0.6
            d = d.mask(mask) if shape else d
        if self.rng.random() < 0.3:
            d = d.to_event(int(self.rng.integers(0, len(shape) + 1)))
        weight = float(self.pick([1.0, 1.0, 2.5]))
        with numpyro.handlers.scale(scale=weight):
            if shape and d.event_dim == 0 and self.rng.random() < 0.5:
                with numpyro.plate(f"{name} n", shape[-1]):
                    if len(shape) == 2:
                        with numpyro.plate(f"{name} m", shape[0]):
                            numpyro.sample(name, d, obs=obs)
                    else:
                        numpyro.sample(name, d, obs=obs)
            else:
                numpyro.sample(name, d, obs=obs)

    def quadratic(self, o: Any, name: str) -> None:
        shape = self.shape()
        x, y = (self.linear(o, shape, self.rng.integers(1, 4), self.some(REAL)) for _ in range(2))
        numpyro.factor(name, jnp.sum(self.data(shape, 0.3) * x * y) + jnp.sum(self.data(shape) * y))

    def normal(self, o: Any, name: str) -> None:
        shape = self.shape()
        x = self.linear(o, shape, self.rng.integers(1, 4), self.some(REAL))
        s = self.monomial(o, shape, self.some(POSITIVE))
        self.site(name, dist.Normal(x, s), shape, self.data(shape))

    def bilinear(self, o: Any, name: str) -> None:
        n, m, j = (int(self.pick(SIZES)) for _ in range(3))
        x, y = self.linear(o, (n, j), 1, ["A"]), self.linear(o, (j, m), 1, ["B", "b"])
        loc = self.pick([lambda: x @ y, lambda: jnp.einsum("nj,jm->nm", x, y), lambda: (y.T @ x.T).T])()
        if self.rng.random() < 0.5:
            loc = loc + self.linear(o, (n, m), 1, ["s", "a"])
        s = self.monomial(o, (n, m), self.some(POSITIVE, 1))
        self.site(name, dist.Normal(loc, s), (n, m), self.data((n, m)))

    def volatility(self, o: Any, name: str) -> None:
        shape = self.shape()
        # (exp(-2 h) of a wide h has tails that no number of draws measures.)
        h = self.linear(o, shape, 1, ["a", "B"]) * 0.07
        x = self.linear(o, shape, 1, ["A", "s"])
        self.site(name, dist.Normal(x, jnp.exp(h)), shape, self.data(shape))

    def poisson(self, o: Any, name: str) -> None:
        shape = self.shape()
        rate = self.monomial(o, shape, self.some(POSITIVE))
        if self.rng.random() < 0.6:
            rate = rate * jnp.exp(0.1 * self.linear(o, shape, self.rng.integers(0, 2), self.some(REAL)) + 0.1)
        self.site(name, dist.Poisson(rate), shape, self.rng.poisson(2.0, shape))

    def positive(self, o: Any, name: str) -> None:
        shape = self.shape()
        rate = self.monomial(o, shape, self.some(POSITIVE))
        a = np.exp(self.data(shape, 0.3))
        d = self.pick(
            [
                lambda: dist.Gamma(a, rate),
                lambda: dist.Exponential(rate),
                lambda: dist.InverseGamma(a, rate),
                lambda: dist.HalfNormal(rate),
                lambda: dist.LogNormal(self.linear(o, shape, 1, ["a", "C"]), rate),
            ]
        )()
        self.site(name, d, shape, np.exp(self.data(shape)))

    def mixture(self, o: Any, name: str) -> None:
        z = self.pick(DISCRETE)
        x, at, shape = self.chosen(o, z)
        free = self.pick([lambda: 0.0, lambda: self.fitted(o["C"], shape), lambda: self.data(shape) * o["s"]])
        looked = at if self.rng.random() < 0.6 else None
        s = self.monomial(o, shape, self.some(POSITIVE, 1), looked)
        self.site(name, dist.Normal(x + free(), s), shape, self.data(shape))

    def counts(self, o: Any, name: str) -> None:
        z = self.pick(DISCRETE)
        at, shape = o[z], DISCRETE[z]
        known = self.rng.integers(0, K, shape)
        doc = self.rng.integers(0, 4, shape)
        d, obs = self.pick(
            [
                lambda: (dist.Categorical(o["theta"][doc]), known),
                lambda: (dist.Categorical(o["theta"][at]), known),
                lambda: (dist.Categorical(jnp.broadcast_to(o["pi"], (*shape, K))), known),
                lambda: (dist.Bernoulli(o["u"][at]), known > 0),
                lambda: (dist.Bernoulli(o["u"][known]), doc > 1),
                lambda: (dist.Binomial(5, o["u"][at]), known),
                lambda: (dist.Geometric(o["u"][at]), known),
                lambda: (dist.Poisson(o["tau"][at]), known),
                lambda: (dist.Multinomial(6, o["theta"][doc]), self.rng.multinomial(6, np.ones(K) / K, shape)),
            ]
        )()
        self.site(name, d, shape, obs * 1 if obs.dtype == bool else obs)

    def branch(self, o: Any, shape: Shape, left: list[str]) -> Any:
        """A scale for one branch: a monomial of latents that no other branch has, a number, or a bounded latent."""
        if left and self.rng.random() < 0.7:
            return self.monomial(o, shape, [left.pop()])
        return self.pick([lambda: 0.7, lambda: self.fitted(o["v"], shape), lambda: np.exp(self.data(shape, 0.3))])()

    def choice(self, o: Any, name: str) -> None:
        """Scales and rates that discrete latents, or data, choose."""
        z = self.pick(DISCRETE)
        x, at, shape = self.chosen(o, z)
        left = [str(n) for n in self.rng.permutation(list(POSITIVE))]
        first, second, third = (self.branch(o, shape, left) for _ in range(3))
        s = self.pick(
            [
                lambda: jnp.where(at == 1, first, second),
                lambda: jnp.where(at == 0, first, jnp.where(at == 1, second, third)),
                lambda: jnp.where(self.data(shape) > 0, first, jnp.where(at > 0, second, third)),
                lambda: jnp.take_along_axis(
                    jnp.stack([jnp.broadcast_to(b, shape) for b in (first, second, third)], -1), at[..., None], -1
                )[..., 0],
                lambda: (at == 2) * first + (at < 2) * second,
                lambda: first * (1.0 + at),
                lambda: jnp.exp(0.1 * o["b"][at] + 0.1 * self.linear(o, shape, 1, ["a", "B"])),
            ]
        )()
        known = self.rng.poisson(2.0, shape)
        d, obs = self.pick(
            [
                lambda: (dist.Normal(x, s), self.data(shape)),
                lambda: (dist.Poisson(s), known),
                lambda: (dist.Exponential(s), known + 0.5),
            ]
        )()
        self.site(name, d, shape, obs)

    def change(self, o: Any, name: str) -> None:
        """What comes before a discrete latent is one, what comes after it another."""
        n = int(self.pick(SIZES))
        at = jnp.arange(n) < o["c"] if self.rng.random() < 0.5 else o["c"] <= self.data((n,)) + 1.0
        left = [str(m) for m in self.rng.permutation(list(POSITIVE))]
        s = jnp.where(at, self.branch(o, (n,), left), self.branch(o, (n,), left))
        loc = jnp.where(at, o["s"], self.fitted(o["a"], (n,)))
        if self.rng.random() < 0.5:
            self.site(name, dist.Poisson(s), (n,), self.rng.poisson(2.0, n))
        else:
            self.site(name, dist.Normal(loc, s), (n,), self.data((n,)))

    def between(self, o: Any, name: str) -> None:
        """Functions of latents between two ends."""
        shape = self.shape()
        v, q = self.fitted(o["v"], shape), self.fitted(o["q"], shape)
        loc = self.pick([lambda: q, lambda: q * self.data(shape) + self.linear(o, shape, 1, ["a", "s"])])()
        scale = self.pick(
            [lambda: v, lambda: jnp.sqrt(v), lambda: 1 / v, lambda: jax.nn.softplus(v), lambda: 1.0 + v]
        )()
        if self.rng.random() < 0.3:
            self.site(name, dist.Poisson(v * self.fitted(o["tau"], shape)), shape, self.rng.poisson(2.0, shape))
        else:
            self.site(name, dist.Normal(loc, scale), shape, self.data(shape))

    def wild(self, o: Any, name: str) -> None:
        """Anything with anything; it need not be in the algebra."""
        shape = self.shape()
        looked = {n: o[n] for n in REAL}
        for z in self.some(DISCRETE):
            looked[z] = o["b"][o[z]]
            looked[z + "2"] = o["B"][o[z]]
        x = self.linear(looked, shape, self.rng.integers(1, 4), self.some(looked, 3))
        p = self.linear(dict(o), shape, self.rng.integers(0, 3), self.some(POSITIVE, 2))
        q = self.monomial(o, shape, self.some(POSITIVE))
        e = jnp.exp(0.1 * self.linear(o, shape, self.rng.integers(0, 2), self.some(REAL, 1)))
        options: list[Callable[[], Any]] = [
            lambda: x**2,
            lambda: x * p,
            lambda: x**2 * q,
            lambda: p**2,
            lambda: p * q,
            lambda: jnp.log(q) * x,
            lambda: jnp.log(jnp.abs(p) + 1e-3),
            lambda: x * e,
            lambda: e * q,
            lambda: e**2 * jnp.log(q * e),
            lambda: e * e.T if shape[:1] == shape[1:] else e,
            lambda: jnp.log(e * q),
            lambda: jnp.tanh(x),
            lambda: jnp.maximum(x, 0.3) + jnp.maximum(x, -0.4),
            lambda: jnp.sqrt(x**2),
            lambda: x / q,
            lambda: jnp.where(self.data(shape) > 0, x * q, e),
            lambda: jnp.cumsum(q.ravel())[: q.size].reshape(shape) * x,
            lambda: jnp.exp(x * 0.1),
            lambda: (x - x.sum()) ** 2,
        ]
        numpyro.factor(name, jnp.sum(self.data(shape, 0.3) * self.pick(options)()))

    def element(self, o: Any, name: str) -> None:
        """A scale that is a function of one element of what the mean is linear in."""
        shape = self.shape()
        n = self.pick(["s", "a", "b", "A"])
        x = self.fitted(o[n], shape)
        f = self.pick(
            [
                lambda: jnp.sqrt(1 + x**2),
                lambda: 1 + 0.3 * x**2,
                lambda: jnp.exp(0.2 * x**2 / (1 + x**2)),
                lambda: jnp.sqrt(jnp.exp(0.3 * x) + 0.5),
            ]
        )()
        loc = self.linear(o, shape, self.rng.integers(0, 3), self.some([n, "C", "B"]))
        self.site(name, dist.Normal(loc, f), shape, self.data(shape))

    def several(self, o: Any, name: str) -> None:
        """Functions of different elements of one latent, multiplied and summed."""
        n = self.pick(["tau", "rho", "T", "v"])
        shape = self.shape()
        x, y = self.fitted(o[n], (*shape, 2)), self.fitted(o[n], (*shape, 2))
        f = self.pick([lambda t: t, jnp.sqrt, lambda t: 1 / t, jnp.log])
        loc = self.pick(
            [
                lambda: jnp.sum(f(x) * self.data((2,), 0.4) * self.fitted(o["a"], (*shape, 2)), -1),
                lambda: jnp.sum(f(x), -1) * 0.3,
                lambda: jnp.sum(f(x) * y, -1) * 0.2,
            ]
        )()
        self.site(name, dist.Normal(loc, 1.3), shape, self.data(shape))

    def labels(self, o: Any, name: str) -> None:
        """A mixture whose labels are summed out, by hand or by NumPyro."""
        shape = self.shape(1)
        y = self.data(shape)
        means = self.linear(o, (*shape, K), self.rng.integers(0, 2), ["b", "B", "a"])
        scale = self.pick([lambda: 0.8, lambda: self.monomial(o, (*shape, K), ["tau"])])()
        weights = self.pick([lambda: o["pi"], lambda: jnp.array([0.2, 0.3, 0.5])])()
        if self.rng.random() < 0.4:
            self.site(name, dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, scale)), shape, y)
            return
        log_p = jnp.log(weights) + dist.Normal(means, scale).log_prob(y[..., None])
        total = self.pick(
            [
                lambda: jax.scipy.special.logsumexp(log_p, axis=-1),
                lambda: jax.nn.logsumexp(jnp.stack([log_p[..., k] for k in range(K)]), axis=0),
                lambda: jnp.where(self.data(shape) > 0, jax.nn.logsumexp(log_p, -1), 0.3),
                lambda: 0.7 * jax.nn.logsumexp(log_p, -1, keepdims=True) - o["t"],
            ]
        )()
        numpyro.factor(name, self.pick([lambda: jnp.sum(total), lambda: jnp.mean(total), lambda: total])())


#: Kinds whose programs are in the algebra by construction.
INSIDE = (
    *("quadratic", "normal", "bilinear", "volatility", "poisson", "positive", "mixture", "counts"),
    *("choice", "change", "between", "element", "several", "labels"),
)
KINDS = (*INSIDE, "wild", "wild")


def model_of(start: int, count: int) -> tuple[Callable, dict[str, str]]:
    """A model whose factors are the programs from a seed on, and the kind of each by name."""
    kinds = {f"p{seed}": KINDS[seed % len(KINDS)] for seed in range(start, start + count)}

    def model() -> None:
        o = latents()
        for name, kind in kinds.items():
            getattr(Grower(int(name[1:])), kind)(o, name)

    return model, kinds
