"""A bound model against NumPyro's own log density, at random points of the unconstrained space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import potential_energy

import lowerbound as lb
from lowerbound.precision import float64


def points(model: lb.Model, n: int = 3) -> np.ndarray:
    return np.random.default_rng(11).normal(0, 1.2, (n, model.dimension))


def quick_jit(f):
    """Compiling is all the time there is."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def log_densities(model: lb.Model, x: np.ndarray) -> np.ndarray:
    with float64():
        return np.asarray(quick_jit(jax.vmap(model.log_density, in_axes=(0, None)))(x, model.arguments))


def agrees_with_numpyro(fn, data=None, *, of=None, same=None, n: int = 3) -> lb.Model:
    """Bind ``fn`` to data; its density is that of NumPyro's potential energy (of the model ``of``).

    ``same`` is another Model that should have that density.
    """
    model = lb.Model.from_numpyro(fn, data)
    data = data or {}

    def all_of_them(u, arguments):
        theirs = -potential_energy(of or fn, (), data, model.unflatten(u))
        mine = [m.log_density(u, a) for m, a in zip((model, same) if same else (model,), arguments, strict=True)]
        return theirs, mine

    x = points(model, n)
    with float64():
        arguments = [model.arguments] + ([same.arguments] if same else [])
        expected, mine = quick_jit(jax.vmap(all_of_them, in_axes=(0, None)))(x, arguments)
    assert np.isfinite(expected).all()
    for value in mine:
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-9)
    return model


def round_trip(model: lb.Model) -> None:
    """unconstrain(constrain(x)) is x, and the joint density there differs by the Jacobian."""

    def there_and_back(u, arguments):
        values = model.constrain(u, arguments)
        latents = {n: values[n] for n in model.sites}
        back, log_det = model.unconstrain(latents, arguments)
        return back, model.log_joint(latents, arguments) + log_det, model.log_density(u, arguments)

    x = points(model, 1)[0]
    with float64():
        back, joint, density = quick_jit(there_and_back)(jnp.asarray(x), model.arguments)
    np.testing.assert_allclose(back, x, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(joint, density, rtol=1e-7, atol=1e-7)
