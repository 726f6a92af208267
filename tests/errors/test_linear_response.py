"""What linear response refuses, in words."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound import families
from lowerbound.diagnostics import linear_response, linear_response_gaussian
from lowerbound.errors import DataError, IncompatibleError, UnknownNameError
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model


def _kernel(density, p: int = 3) -> Kernel:
    return Kernel(as_model(lb.LogDensity(density, {"x": lb.Site(shape=(p,))})))


@pytest.fixture(scope="module")
def normal() -> Kernel:
    return _kernel(lambda x: -0.5 * (x**2).sum())


STANDARD = families.DiagonalGaussian(np.zeros(3), np.ones(3))


@pytest.mark.parametrize(
    ("coordinates", "pattern"),
    [
        ([0, 3], r"coordinates go from 0 to 3; there are 0 to 2"),
        ([-1], r"coordinates go from -1 to -1"),
        ([], r"coordinates are \[\]; needed: whole numbers"),
        ([0.5], r"coordinates are \[0\.5\]; needed: whole numbers"),
        ("x", r"coordinates are 'x'; needed: whole numbers"),
    ],
)
def test_coordinates(normal, coordinates, pattern):
    with pytest.raises(DataError, match=pattern):
        linear_response(normal, STANDARD, coordinates)


@pytest.mark.parametrize(
    "q",
    [
        families.LowRankGaussian(np.zeros(3), np.ones(3), np.ones((3, 1))),
        families.Point(np.zeros(3)),
    ],
)
def test_families(normal, q):
    with pytest.raises(IncompatibleError, match=rf"for mean-field Gaussians; q is a {type(q).__name__}"):
        linear_response(normal, q)


def test_forming_what_cannot_be_formed(normal):
    q = families.ProductBlock(
        (families.DenseGaussian(np.zeros(2), np.eye(2)), families.DiagonalGaussian(np.zeros(1), np.ones(1))),
        (np.array([0, 1]), np.array([2])),
    )
    with pytest.raises(IncompatibleError, match="form=True needs a diagonal q of at most 2000 dimensions"):
        linear_response(normal, q, form=True)


def test_all_coordinates_of_too_many():
    p = 2001
    kernel, q = _kernel(lambda x: -0.5 * (x**2).sum(), p), families.DiagonalGaussian(np.zeros(p), np.ones(p))
    with pytest.raises(IncompatibleError, match=r"all 2,001 coordinates is too much to ask\. Name the sites"):
        linear_response(kernel, q)
    assert linear_response(kernel, q, [1500]).sd == pytest.approx(1.0)


def test_a_dense_block_that_is_too_wide():
    p = 300
    kernel, q = _kernel(lambda x: -0.5 * (x**2).sum(), p), families.DenseGaussian(np.zeros(p), np.eye(p))
    with pytest.raises(IncompatibleError, match="a dense block of 300 dimensions needs 1200 draws; at most 1024"):
        linear_response(kernel, q, [0])


def test_no_maximum():
    kernel = _kernel(lambda x: 0.0 * x.sum())
    with pytest.raises(IncompatibleError, match="needs a maximum of the ELBO, and Newton steps from q found none"):
        linear_response(kernel, STANDARD)


def test_not_finite():
    kernel = _kernel(lambda x: jnp.where(x.sum() > 0, jnp.nan, -0.5 * (x**2).sum()))
    with pytest.raises(IncompatibleError, match="not finite at draws of q"):
        linear_response(kernel, STANDARD)


def test_kinks_name_the_site():
    # Only the last is hidden in a kink; the mean is settled by the smooth part.
    kernel = _kernel(lambda x: -0.5 * (x[:2] ** 2).sum() - 30.0 * jnp.abs(x[2]) - 0.005 * x[2] ** 2)
    q = families.DiagonalGaussian(np.zeros(3), np.array([1.0, 1.0, np.sqrt(np.pi / 2) / 30]))
    with pytest.raises(IncompatibleError, match=r"'x\[2\]'.*The density has kinks|found none on new noise"):
        linear_response_gaussian(kernel, q)


def test_posteriors(tmp_path):
    posterior = lb.fit(lb.LogDensity(lambda x: -0.5 * (x**2).sum(), {"x": lb.Site(shape=(3,))}), family="diagonal")
    with pytest.raises(UnknownNameError, match="unknown site 'z'"):
        posterior.linear_response("z")
    with pytest.raises(DataError, match="no sites"):
        posterior.linear_response([])
    posterior.save(tmp_path / "p.lb")
    with pytest.raises(IncompatibleError, match="loaded from a file, which does not hold the model"):
        lb.load(tmp_path / "p.lb").linear_response("x")
