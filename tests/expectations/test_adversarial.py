"""Programs made to be computed wrongly: each is right, or refused; and those within the algebra are not refused."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from tests.expectations.programs import Outcome, Programs

N, M, K = 4, 3, 3
D4 = np.array([0.7, -1.3, 0.4, 2.1])
D44 = np.random.default_rng(1).standard_normal((N, N))
D34 = np.random.default_rng(2).standard_normal((M, N))
G4 = np.array([2, 0, 1, 2])
Y = np.array([0.3, -0.8, 1.9, 0.1])


def latents() -> dict:
    """One of each kind, with sizes that coincide, so that a wrong axis is not caught by its length."""
    o = {}
    o["a"] = numpyro.sample("a", dist.Normal(0, 1).expand([N]).to_event(1))
    o["b"] = numpyro.sample("b", dist.Normal(0, 1).expand([N]).to_event(1))
    o["s"] = numpyro.sample("s", dist.Normal(0, 1))
    o["A"] = numpyro.sample("A", dist.Normal(0, 1).expand([N, N]).to_event(2))
    o["B"] = numpyro.sample("B", dist.Normal(0, 1).expand([N, N]).to_event(2))
    o["m"] = numpyro.sample("m", dist.Normal(0, 1).expand([K]).to_event(1))
    o["C"] = numpyro.sample("C", dist.Normal(0, 1).expand([K, N]).to_event(2))
    o["tau"] = numpyro.sample("tau", dist.Gamma(3.0, 2.0).expand([N]).to_event(1))
    o["t"] = numpyro.sample("t", dist.Gamma(3.0, 2.0))
    o["rho"] = numpyro.sample("rho", dist.Gamma(3.0, 2.0).expand([K]).to_event(1))
    o["u"] = numpyro.sample("u", dist.Beta(2.0, 2.0).expand([N]).to_event(1))
    o["pk"] = numpyro.sample("pk", dist.Beta(2.0, 2.0).expand([K]).to_event(1))
    o["pi"] = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    o["theta"] = numpyro.sample("theta", dist.Dirichlet(jnp.ones(K)).expand([N]).to_event(1))
    o["L"] = numpyro.sample("L", dist.Wishart(4.0, rate_matrix=jnp.eye(2)))
    o["LK"] = numpyro.sample("LK", dist.Wishart(4.0, rate_matrix=jnp.eye(2)).expand([K]).to_event(1))
    with numpyro.plate("n", N):
        o["z"] = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        o["w"] = numpyro.sample("w", dist.Bernoulli(0.4))
        o["y"] = numpyro.sample("y", dist.Categorical(jnp.ones(N) / N))
    o["c"] = numpyro.sample("c", dist.Categorical(jnp.ones(K) / K))
    o["d"] = numpyro.sample("d", dist.Categorical(jnp.ones(N) / N))
    return o


class Names:
    """The latents as attributes."""

    def __init__(self, values: dict):
        self.__dict__.update(values)


def _sum_sq(x):
    return jnp.sum(x**2)


def _scan_ar(o):
    def step(carry, x):
        new = 0.5 * carry + x
        return new, new * carry

    last, out = jax.lax.scan(step, o.s, o.a)
    return last**2 + out.sum()


def _scan_reverse(o):
    _, out = jax.lax.scan(lambda c, x: (c * 0.3 + x[0] * x[1], c), 0.0 * o.s, (o.a, D4), reverse=True)
    return (out * D4).sum()


#: Programs that are in the algebra: sums of products, elements looked up, monomials of positive latents.
INSIDE = {
    "x + x.T": lambda o: jnp.sum((o.A + o.A.T) ** 2 * D44),
    "x x.T elementwise": lambda o: jnp.sum(o.A * o.A.T * D44),
    "x @ x": lambda o: jnp.sum((o.A @ o.A) * D44),
    "x @ x.T": lambda o: jnp.sum((o.A @ o.A.T) * D44),
    "x.T @ x": lambda o: jnp.sum((o.A.T @ o.A) * D44),
    "x @ y.T": lambda o: jnp.sum((o.A @ o.B.T) * D44),
    "x - x.sum": lambda o: _sum_sq((o.a - o.a.sum()) * D4),
    "x - x.mean": lambda o: _sum_sq((o.a - o.a.mean()) * D4),
    "matrix minus its row sums": lambda o: jnp.sum((o.A - o.A.sum(1)) ** 2 * D44),
    "matrix minus its column sums kept": lambda o: jnp.sum((o.A - o.A.sum(0, keepdims=True)) ** 2 * D44),
    "outer product with itself": lambda o: jnp.sum(o.a[:, None] * o.a[None, :] * D44),
    "outer difference with itself": lambda o: jnp.sum((o.a[:, None] - o.a[None, :]) ** 2 * D44),
    "outer difference of two": lambda o: jnp.sum((o.a[:, None] - o.b[None, :]) ** 2 * D44),
    "outer then transposed": lambda o: jnp.sum((o.a[:, None] * o.b[None, :]).T * D44),
    "trace": lambda o: jnp.trace(o.A) ** 2,
    "shifted against itself": lambda o: jnp.sum((o.a[1:] - o.a[:-1]) ** 2 * D4[1:]),
    "second differences": lambda o: jnp.sum((o.a[2:] - 2 * o.a[1:-1] + o.a[:-2]) ** 2),
    "flipped against itself": lambda o: jnp.sum(o.a * o.a[::-1] * D4),
    "rolled": lambda o: jnp.sum(o.a * jnp.roll(o.a, 1) * D4),
    "strided": lambda o: jnp.sum(o.a[::2] * o.a[1::2] * D4[:2]),
    "negative index": lambda o: o.a[-1] * o.a[0] + 3 * o.a[-2],
    "negative indices from data": lambda o: jnp.sum(o.a[np.array([-1, -2, 0])] * D4[:3]),
    "looked up by data twice": lambda o: jnp.sum(o.m[G4] * o.m[G4[::-1].copy()] * D4),
    "looked up by data, squared": lambda o: jnp.sum(o.m[G4] ** 2 * D4),
    "pairs of places": lambda o: jnp.sum(o.A[np.array([0, 1, 3]), np.array([2, 2, 0])] * D4[:3]),
    "grid of places": lambda o: jnp.sum(o.A[np.array([0, 1])[:, None], np.array([2, 3, 0])[None]] * D34[:2, :3]),
    "take_along_axis": lambda o: jnp.sum(jnp.take_along_axis(o.A, np.array([[0], [2], [1], [3]]), axis=1)[:, 0] * D4),
    "take_along_axis, wide": lambda o: jnp.sum(
        jnp.take_along_axis(o.A, np.array([[0, 1], [2, 2], [1, 0], [3, 0]]), axis=1) ** 2 * D44[:, :2]
    ),
    "take_along_axis, first axis": lambda o: jnp.sum(
        jnp.take_along_axis(o.A, np.array([[0, 1, 3, 2]]), axis=0) * o.A[:1] * D44[:1]
    ),
    "dynamic_slice": lambda o: jnp.sum(jax.lax.dynamic_slice(o.A, (1, 2), (2, 2)) ** 2 * D44[:2, :2]),
    "dynamic_slice past the end": lambda o: jnp.sum(jax.lax.dynamic_slice(o.a, (3,), (2,)) * D4[:2]),
    "dynamic_index": lambda o: jnp.sum(jax.lax.dynamic_index_in_dim(o.A, 2, axis=1) ** 2 * D4[:, None]),
    "concatenated with itself": lambda o: jnp.sum(jnp.concatenate([o.a, o.a[::-1]]) ** 2 * np.r_[D4, Y]),
    "concatenated with constants": lambda o: jnp.sum(jnp.concatenate([jnp.zeros(1), o.a]) * np.r_[1.0, D4]),
    "stacked with itself": lambda o: jnp.sum((jnp.stack([o.a, o.b, o.a], axis=1) @ D34) ** 2 * D44),
    "stacked transposes": lambda o: jnp.sum(jnp.stack([o.A, o.A.T], axis=2) ** 2 * D44[:, :, None] * D4[:2]),
    "concatenated transposes": lambda o: jnp.sum(jnp.concatenate([o.A, o.A.T], axis=0)[1::2] ** 2 * D44),
    "padded": lambda o: jnp.sum(jnp.pad(o.a, (1, 2), constant_values=2.0) * np.arange(7.0) ** 2),
    "ravelled": lambda o: jnp.sum(o.A.ravel() * o.A.T.ravel() * D44.ravel()),
    "reshaped": lambda o: jnp.sum((o.A.reshape(2, 8) @ np.arange(8.0)) ** 2),
    "reshaped and back": lambda o: jnp.sum(o.A.reshape(8, 2).T.reshape(4, 4) * D44 * o.A),
    "reshaped outer": lambda o: jnp.sum((o.a[:, None] * o.b[None, :]).reshape(2, 8) * D44.reshape(2, 8)),
    "cumsum": lambda o: jnp.sum(jnp.cumsum(o.a) ** 2 * D4),
    "reverse cumsum": lambda o: jnp.sum(jax.lax.cumsum(o.a, reverse=True) * o.a * D4),
    "cumsum of a matrix": lambda o: jnp.sum(jnp.cumsum(o.A, axis=0) * jnp.cumsum(o.A, axis=1) * D44),
    "einsum trace": lambda o: jnp.einsum("ij,ji->", o.A, o.B),
    "einsum quadratic": lambda o: jnp.einsum("i,ij,j->", o.a, D44, o.a),
    "einsum batch": lambda o: jnp.sum(jnp.einsum("ij,ik->ijk", o.A, D44) ** 2),
    "bilinear": lambda o: o.a @ D44 @ o.b,
    "three independent": lambda o: jnp.sum(o.a * o.b * o.tau * D4) * o.t,
    "vmap": lambda o: jnp.sum(jax.vmap(lambda x, y, k: x @ y * k)(o.A, o.B, jnp.asarray(D4))),
    "vmap, inner axis": lambda o: jnp.sum(jax.vmap(lambda x, y: x * y[::-1], in_axes=(1, 0))(o.A, o.A) * D44),
    "size one broadcast": lambda o: jnp.sum((o.s[None] + o.a[:1]) ** 2) + jnp.sum(o.a[:1, None] * o.A * D44),
    "broadcast only": lambda o: jnp.sum(jnp.broadcast_to(o.s, (5,))),
    "broadcast square": lambda o: jnp.sum(jnp.broadcast_to(o.a, (3, N)) ** 2),
    "tiled": lambda o: jnp.sum(jnp.tile(o.a, 2) * np.arange(8.0)),
    "repeated": lambda o: jnp.sum(jnp.repeat(o.a, 2) * np.arange(8.0)),
    "where on data": lambda o: jnp.sum(jnp.where(D44 > 0, o.A, o.A.T) ** 2 * D44),
    "where with dead nan": lambda o: jnp.sum(jnp.where(D4 > 0, o.a * jnp.log(D4), o.b)),
    "where with dead infinity": lambda o: jnp.sum(jnp.where(D4 > 0, (o.a / jnp.maximum(D4, 0.0)) ** 2, 1.0)),
    "scan": _scan_ar,
    "scan in reverse": _scan_reverse,
    "triangle": lambda o: jnp.sum(jnp.tril(o.A) @ o.B * D44),
    # positive latents
    "a gamma by two routes": lambda o: jnp.sum(jnp.sqrt(o.tau) * o.tau * jnp.sqrt(o.tau) * D4),
    "a gamma over itself": lambda o: jnp.sum(o.tau / o.tau * D4 + jnp.log(o.tau)),
    "exp of its log": lambda o: jnp.sum(jnp.exp(2 * jnp.log(o.tau)) * D4),
    "log of its powers": lambda o: jnp.sum(jnp.log(3 * o.tau**2 / jnp.sqrt(o.t)) * D4),
    "log squared": lambda o: jnp.sum(jnp.log(o.tau) ** 2 * D4),
    "times its log": lambda o: jnp.sum(o.tau * jnp.log(o.tau) * D4),
    "reciprocal root": lambda o: jnp.sum(1 / jnp.sqrt(o.tau) * D4),
    "powers looked up": lambda o: jnp.sum(o.rho[G4] ** 2 * D4) + jnp.sum(jnp.log(o.rho[G4]) * o.a),
    "lgamma of one": lambda o: jnp.sum(jax.scipy.special.gammaln(o.tau / 2) * D4),
    "abs of positives": lambda o: jnp.sum(jnp.abs(o.tau * o.t) * D4),
    "log of a complement": lambda o: jnp.sum(jnp.log1p(-o.u) * D4 + jnp.log(1 - o.u) * jnp.log(o.t)),
    "normal with a precision": lambda o: dist.Normal(o.a, 1 / jnp.sqrt(o.tau * o.t)).log_prob(Y).sum(),
    # exponentials of Gaussians
    "exp": lambda o: jnp.sum(jnp.exp(0.3 * o.a + 0.1) * D4),
    "exp broadcast": lambda o: jnp.sum(jnp.exp(jnp.broadcast_to(0.3 * o.s, (5,)))),
    "exp of a broadcast sum": lambda o: jnp.sum(jnp.exp(0.3 * o.s + jnp.zeros(5))),
    "exp times exp": lambda o: jnp.sum(jnp.exp(0.3 * o.a) * jnp.exp(0.2 * o.a) * D4),
    "exp outer": lambda o: jnp.sum(jnp.exp(0.3 * o.a)[:, None] * jnp.exp(0.2 * o.b)[None, :] * D44),
    "exp of a vector times exp of a matrix": lambda o: jnp.sum(jnp.exp(0.3 * o.a)[:, None] * jnp.exp(0.2 * o.A) * D44),
    "exp of a row times exp of a matrix": lambda o: jnp.sum(jnp.exp(0.3 * o.a) * jnp.exp(0.2 * o.A) * D44),
    "exp times its transpose": lambda o: jnp.sum(jnp.exp(0.3 * o.A) * jnp.exp(0.2 * o.A).T * D44),
    "exp looked up": lambda o: jnp.sum(jnp.exp(0.3 * o.m)[G4] * D4),
    "exp looked up by a latent": lambda o: jnp.sum(jnp.exp(0.3 * o.m)[o.z] * D4),
    "exp of a transposed, logged": lambda o: jnp.sum(jnp.log(jnp.exp(0.3 * o.A).T) * D44),
    "exp looked up, logged": lambda o: jnp.sum(jnp.log(jnp.exp(0.3 * o.m)[o.z]) * D4),
    "exp looked up, to a power": lambda o: jnp.sum(jnp.exp(0.3 * o.m)[o.z] ** -2 * D4),
    "exp times another": lambda o: jnp.sum(jnp.exp(0.3 * o.a) * o.b * o.tau * D4),
    "exp concatenated": lambda o: jnp.sum(jnp.concatenate([jnp.exp(0.3 * o.a), o.b]) * np.r_[D4, Y]),
    "exp where": lambda o: jnp.sum(jnp.where(D4 > 0, jnp.exp(0.3 * o.a), o.b) * Y),
    "stochastic volatility": lambda o: dist.Normal(o.b, jnp.exp(0.2 * o.a)).log_prob(Y).sum(),
    "two exps of one, looked up by two": lambda o: jnp.sum(
        jnp.exp(0.3 * o.m)[o.z][:, None] * jnp.exp(0.2 * o.m)[o.c] * D4[:, None]
    ),
    "two exps looked up by one": lambda o: jnp.sum(jnp.exp(0.3 * o.m)[o.z] * jnp.exp(0.2 * o.C[:, 0])[o.z] * D4),
    # discrete latents
    "mu[z]": lambda o: jnp.sum((Y - o.m[o.z]) ** 2 * D4),
    "mu[z] times itself by another route": lambda o: jnp.sum(o.m[o.z] * jnp.take(o.m, o.z) * D4),
    "mu[z] and tau[z]": lambda o: dist.Normal(o.m[o.z], 1 / jnp.sqrt(o.rho[o.z])).log_prob(Y).sum(),
    "A[z, i]": lambda o: jnp.sum(o.C[o.z, np.arange(N)] ** 2 * D4),
    "A[i, z] with all": lambda o: jnp.sum(o.A[:, o.y] * D44),
    "A[z, z]": lambda o: jnp.sum(o.A[o.y, o.y] ** 2 * D4),
    "A[z, y]": lambda o: jnp.sum(o.C[o.z, o.y] ** 2 * D4),
    "A[z][:, None]": lambda o: jnp.sum(o.C[o.z] * o.A * D44),
    "A[z] against its own axis": lambda o: jnp.sum(o.A[o.y] * o.A[np.arange(N)] * D44),
    "A[c, d]": lambda o: o.C[o.c, o.d] ** 2,
    "A.T[d, c]": lambda o: o.C.T[o.d, o.c] * o.s,
    "a scalar index": lambda o: (o.m[o.c] - o.s) ** 2,
    "z as a number": lambda o: jnp.sum(o.z * D4) + jnp.sum(o.z**2 * o.a),
    "z times mu[z]": lambda o: jnp.sum(o.z * o.m[o.z] * D4),
    "mu[z] plus z": lambda o: jnp.sum((o.m[o.z] + o.z - Y) ** 2),
    "where(z == 1)": lambda o: jnp.sum(jnp.where(o.z == 1, o.a, o.b) ** 2 * D4),
    "where(z == data)": lambda o: jnp.sum(jnp.where(o.z == G4, o.a, 2.0) * D4),
    "where(z > 0)[mu]": lambda o: jnp.sum(jnp.where(o.z > 0, o.m[o.z], o.s) ** 2 * D4),
    "where(z == 1, tau, 1)": lambda o: jnp.sum(jnp.where(o.z == 1, o.tau, 1.0) * D4),
    "index computed from z": lambda o: jnp.sum(o.m[2 - o.z] * D4 + o.m[o.z] * Y),
    "index by (z + 1) % 3": lambda o: jnp.sum(o.m[(o.z + 1) % 3] * o.m[o.z] * D4),
    "index by z // 2": lambda o: jnp.sum(o.m[o.y // 2] * D4),
    "index by y % 3": lambda o: jnp.sum(o.m[o.y % 3] * D4),
    "index by a half of z": lambda o: jnp.sum(o.m[(o.y * 0.5).astype(int)] * D4),
    "z as a truth": lambda o: jnp.sum(o.z.astype(bool) * o.a * D4),
    "bits of z": lambda o: jnp.sum((o.y & 1) * o.a * D4) + jnp.sum((o.y | 1) * D4) + jnp.sum((o.y ^ 3) * o.b),
    "z shifted against mu": lambda o: jnp.sum(o.m[o.z[1:]] * D4[:-1] + o.m[o.z[:-1]] * D4[1:]),
    "one-hot of z": lambda o: jnp.sum(jax.nn.one_hot(o.z, K) @ o.C * D44),
    "powers of looked up gammas": lambda o: jnp.sum(o.rho[o.z] ** -0.5 * D4) + jnp.sum(jnp.log(o.rho[o.z]) * Y),
    "log complement looked up": lambda o: jnp.sum(jnp.log(1 - o.pk[o.z]) * D4 + jnp.log(o.pk[o.z])),
    "w switches": lambda o: jnp.sum((o.w * o.a + (1 - o.w) * o.b - Y) ** 2 * D4),
    "z looked up by data": lambda o: jnp.sum(o.m[o.z[G4]] * D4),
    "z negative index": lambda o: o.m[o.z[-1]] * o.m[o.c] + o.m[o.z[0]],
    "log pi[z]": lambda o: jnp.sum(jnp.log(o.pi[o.z]) * D4),
    "log theta[n, z]": lambda o: jnp.sum(jnp.log(o.theta[np.arange(N), o.z]) * D4),
    "log theta[y, z]": lambda o: jnp.sum(jnp.log(o.theta[o.y, o.z]) * D4),
    "a matrix latent": lambda o: jnp.sum(o.L * D44[:2, :2]) + o.L[0, 1],
    "a matrix latent looked up": lambda o: jnp.einsum("nij,ni,nj->", o.LK[o.z], D44[:, :2], D44[:, 2:]),
    "quadratic form of latents": lambda o: jnp.einsum("nij,ni,nj->", o.LK[o.z], o.A[:, :2], o.A[:, :2]),
}

#: Programs that may be refused; what is not must be right.
OUTSIDE = {
    "mu[z][z]": lambda o: jnp.sum(o.a[o.y][o.y] * D4),
    "z against itself shifted": lambda o: jnp.sum(o.C[:, :3][o.z[1:], o.z[:-1]] * D4[1:]),
    "mu[z] against mu[z] shifted": lambda o: jnp.sum(o.m[o.z[1:]] * o.m[o.z[:-1]] * D4[1:]),
    "z == z.T": lambda o: jnp.sum(o.a * (o.z[:, None] == o.z[None, :]) * D44),
    "z == y": lambda o: jnp.sum((o.z == o.y) * D4),
    "z // y": lambda o: jnp.sum((o.z // (o.y + 1)) * D4),
    "(z * y) // 2": lambda o: jnp.sum(((o.z * o.y) // 2) * D4),
    "z and y": lambda o: jnp.sum((o.z.astype(bool) & o.y.astype(bool)) * D4),
    "maxima": lambda o: jnp.sum(jnp.maximum(o.a, 0.5) * D4) - jnp.sum(jnp.maximum(o.a, -0.9) * Y),
    "maximum": lambda o: jnp.sum(jnp.maximum(o.a, 0.5) * D4),
    "clips": lambda o: jnp.sum(jnp.clip(o.tau, 0.1, 0.9)) + 2 * jnp.sum(jnp.clip(o.tau, 0.3, 1.4)),
    "powers of a real": lambda o: jnp.sum(o.a**3 * D4 + 0.1 * o.a**4),
    "a real root of a square": lambda o: jnp.sum(jnp.sqrt(o.a**2) * D4),
    "comparisons": lambda o: jnp.sum((o.a > 0.3) * D4) + jnp.sum((o.a > -0.5) * Y),
    "rounding a latent": lambda o: jnp.sum(o.a.astype(int) * D4),
    "a truth of a latent": lambda o: jnp.sum(o.tau.astype(bool) * D4),
    "floor": lambda o: jnp.sum(jnp.floor(o.a * 3.0) * D4),
    "floor as an index": lambda o: jnp.sum(o.m[jnp.clip(jnp.floor(o.a), 0, 2).astype(int)] * D4),
    "abs of a log": lambda o: jnp.sum(jnp.abs(jnp.log(o.tau)) * D4),
    "abs of a complement's log": lambda o: jnp.sum(jnp.abs(jnp.log1p(-o.u)) * D4),
    "sine and its argument": lambda o: jnp.sum(jnp.sin(o.a) * o.a * D4),
    "sine and exp": lambda o: jnp.sum(jnp.sin(o.a) * D4 + jnp.exp(0.3 * o.a)),
    "sine and cube": lambda o: jnp.sum(jnp.sin(o.a) * D4 + o.a**3),
    "exp of a sum of positives": lambda o: jnp.sum(jnp.exp(-o.tau) * D4),
    "exp of a square": lambda o: jnp.sum(jnp.exp(-(o.a**2)) * D4),
    "exp times its own exponent": lambda o: jnp.sum(jnp.exp(0.3 * o.a) * o.a * D4),
    "exp with a discrete in it": lambda o: jnp.sum(jnp.exp(0.3 * o.m[o.z] * D4)),
    "logistic": lambda o: jnp.sum(jax.nn.sigmoid(o.a) * D4),
    "concatenated sine": lambda o: jnp.sum(jnp.concatenate([jnp.sin(o.a), o.b]) * np.r_[D4, Y]),
    "sine of a sum": lambda o: jnp.sum(jnp.sin(o.a + o.b)),
    "logsumexp": lambda o: jax.nn.logsumexp(o.a),
    "softmax": lambda o: jnp.sum(jax.nn.softmax(o.a) * D4),
    "product": lambda o: jnp.prod(o.tau),
    "product of negatives": lambda o: jnp.prod(jnp.stack([-o.t, -o.tau[0]])),
    "sorted": lambda o: jnp.sum(jnp.sort(o.a) * D4),
    "largest": lambda o: jnp.max(o.a),
    "argmax": lambda o: jnp.sum(o.m[jnp.argmax(o.C, axis=0)]),
    "cumprod": lambda o: jnp.sum(jnp.cumprod(o.tau) * D4),
    "scattered": lambda o: jnp.sum(jnp.zeros(K).at[o.z].add(o.a) * D4[:K]),
    "set at": lambda o: jnp.sum(o.a.at[1].set(2.0) * D4),
    "segment sums": lambda o: jnp.sum(jax.ops.segment_sum(o.a, jnp.asarray(G4), K) ** 2),
    "dynamic slice at a latent": lambda o: jnp.sum(jax.lax.dynamic_slice(o.a, (o.c,), (2,)) * D4[:2]),
    "while": lambda o: jax.lax.fori_loop(0, 3, lambda i, x: x + o.a[i], o.s),
    "cond": lambda o: jax.lax.cond(o.c == 1, lambda: o.s, lambda: 2 * o.a[0]),
    "cond on data": lambda o: jax.lax.cond(True, lambda x: x, lambda x: 2 * x, o.s),
    "scalar select": lambda o: jnp.sum(jax.lax.select(jnp.asarray(True), o.a, o.b) * D4),
    "determinant": lambda o: jnp.linalg.slogdet(o.L)[1],
    "cholesky": lambda o: jnp.sum(jnp.linalg.cholesky(o.L)),
    "inverse": lambda o: jnp.sum(jnp.linalg.inv(o.L)),
    "solve": lambda o: jnp.sum(jnp.linalg.solve(o.L, D4[:2])),
    "a matrix's square": lambda o: jnp.sum(o.L @ o.L),
    "log of a matrix's element": lambda o: jnp.sum(o.L**2) + o.L[0, 1] * o.L[1, 0],
    "pi as a number": lambda o: jnp.sum(o.pi * D4[:K]),
    "pi[z] as a number": lambda o: jnp.sum(o.pi[o.z] * D4),
    "log of a sum of pi": lambda o: jnp.log(o.pi[0] + o.pi[1]),
    "log(1 - pi)": lambda o: jnp.sum(jnp.log1p(-o.pi)),
    "log of a scaled complement": lambda o: jnp.sum(jnp.log(1 - 0.5 * o.u)),
    "log of a complement, masked": lambda o: jnp.sum(jnp.log(1 - o.u * (D4 > 0))),
    "a gamma and its shift": lambda o: jnp.sum(jnp.log(o.tau + 1.0)),
    "random powers": lambda o: jnp.sum(2.0**o.a * D4) + jnp.sum(o.tau ** np.array([1.0, 2.0, 0.5, 0.3])),
    "powers of elements": lambda o: jnp.sum(o.tau**o.u),
    "integer powers of two": lambda o: jnp.sum(2**o.z * D4),
    "nan where masked in exp": lambda o: jnp.sum(jnp.where(D4 > 0, jnp.exp(0.3 * o.a + jnp.log(D4)), 0.0)),
    "outer then diagonal": lambda o: jnp.sum(jnp.diagonal(o.a[:, None] * o.b[None, :]) * D4),
    "step": lambda o: jnp.sum(jnp.where(o.a > 0.3, 1.0, 0.0) * D4),
    "sign": lambda o: jnp.sum(jnp.sign(o.a) * D4),
    "relu": lambda o: jnp.sum(jax.nn.relu(o.a) * D4),
    "leaky": lambda o: jnp.sum(jnp.where(o.a > 0, o.a, 0.1 * o.a) * D4),
    "min of two": lambda o: jnp.sum(jnp.minimum(o.a, o.b) * D4),
    "remainder": lambda o: jnp.sum(jnp.mod(o.a, 1.0) * D4),
    "reciprocal of a real": lambda o: jnp.sum(1 / o.a),
    "reciprocal of a matrix's element": lambda o: jnp.sum(1 / o.L[0, 0]),
    "norm": lambda o: jnp.linalg.norm(o.a),
    "variance": lambda o: jnp.var(o.a),
    "convolution": lambda o: jnp.sum(jnp.convolve(o.a, D4[:2]) ** 2),
    "interpolation": lambda o: jnp.interp(o.s, np.arange(4.0), D4),
}


#: Programs of one model, which is compiled once.
TOGETHER = 24


@cache
def programs(some: int) -> Programs:
    """One model of some of the programs."""
    mine = list({**INSIDE, **OUTSIDE}.items())[some * TOGETHER : (some + 1) * TOGETHER]

    def model():
        o = Names(latents())
        for name, program in mine:
            numpyro.factor(name, program(o))

    return Programs(model)


def outcome(name: str) -> Outcome:
    return programs(list({**INSIDE, **OUTSIDE}).index(name) // TOGETHER).outcome(name)


@pytest.mark.parametrize("name", INSIDE)
def test_right(name):
    found = outcome(name)
    assert found.refused is None, found
    assert not found.wrong, found


@pytest.mark.parametrize("name", OUTSIDE)
def test_right_or_refused(name):
    found = outcome(name)
    assert not found.wrong, found
