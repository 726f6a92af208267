"""Gradient estimators: which goes with which objective, no bias where none is promised, bias where a pair is refused.

For a Gaussian target N(m, S) and a Gaussian q the ELBO, the forward KL and the chi bound are known, and so are their
gradients: JAX differentiates the closed form. What has no closed form (bounds of several draws) is compared between
the estimators, which share nothing but the objective, on more than 200,000 draws.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowerbound import families, gradients, objectives
from lowerbound.algorithms import GradientVI
from lowerbound.errors import IncompatibleError
from lowerbound.objectives import GaussianPrior, Target
from lowerbound.precision import float64
from tests.measure import assert_mean, z_score
from tests.registry import FAMILIES, GRADIENTS, OBJECTIVES, Subject

REPEATS = 3000
#: Sets of draws, and draws in each, for the comparison of all pairs.
MANY, FEW = 52_000, 4
# A product adds nothing here but compile time: its blocks' parameters are these.
subjects = pytest.mark.parametrize(
    "subject", [s for s in FAMILIES if s.name in ("dense", "diagonal", "low rank")], ids=repr
)


def _target(d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(d)
    root = np.tril(0.5 * rng.standard_normal((d, d)), -1) + np.diag(rng.uniform(1.0, 2.0, d))
    return rng.standard_normal(d), np.linalg.inv(root @ root.T)


def _log_joint(mean: Any, precision: Any):
    # Not normalised: the constant 1.7 is the log evidence, up to the Gaussian's own.
    return lambda z: 1.7 - 0.5 * jnp.einsum("si,ij,sj->s", z - mean, precision, z - mean)


def _closed_form(family: Any, mean: Any, precision: Any):
    def elbo(phi):
        q = family.from_parameters(phi)
        distance = (q.mean - mean) @ precision @ (q.mean - mean) + jnp.trace(precision @ q.covariance())
        return 1.7 - 0.5 * distance + q.entropy()

    return elbo


def _estimates(
    gradient: Any, objective: Any, target: Target, family: Any, parameters: Any, repeats: int, width: int, seed: int = 3
) -> tuple:
    """Values ``[repeats]`` and gradients, by parameter ``[repeats, ...]``."""

    def one(noise):
        def surrogate(phi):
            found = gradient.surrogate(objective, target, family.from_parameters, phi, noise)
            return found.surrogate, (found.value, found.elbo)

        (_, value), slope = jax.value_and_grad(surrogate, has_aux=True)(parameters)
        return value, slope

    noise = np.random.default_rng(seed).standard_normal((repeats, objective.num_samples, width))
    return jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray(noise)))


def _of_subject(gradient: Any, subject: Subject, mean: Any, precision: Any, num_samples: int, **options: Any) -> tuple:
    parameters = {k: jnp.asarray(v) for k, v in subject.family.parameters(subject.block).items()}
    d = subject.block.dimension
    prior = GaussianPrior(np.arange(1, d), np.linspace(-1.0, 0.5, d - 1), np.linspace(0.7, 1.2, d - 1))
    target = Target(_log_joint(mean, precision), prior)
    objective = objectives.ELBO(num_samples, **options)
    width = subject.block.noise_dimension
    return _estimates(gradient, objective, target, subject.family, parameters, REPEATS, width)


ELBO_PAIRS = [(f, g) for f in ("joint", "entropy", "prior") for g in GRADIENTS]
ELBO_PAIRS = [(f, g) for f, g in ELBO_PAIRS if g.name in gradients.COMPATIBLE[objectives.ELBO(form=f).name]]


@pytest.mark.parametrize(("form", "gradient"), ELBO_PAIRS, ids=lambda v: getattr(v, "name", v))
@subjects
def test_unbiased(gradient, form, subject: Subject):
    with float64():
        mean, precision = _target(subject.block.dimension)
        parameters = {k: jnp.asarray(v) for k, v in subject.family.parameters(subject.block).items()}
        elbo = _closed_form(subject.family, mean, precision)
        truth, slope = jax.jit(jax.value_and_grad(elbo))(parameters)
        num_samples = max(2, gradient.min_samples)
        (value, bound), estimate = _of_subject(gradient, subject, mean, precision, num_samples, form=form)
        assert_mean(value, truth, "objective")
        assert_mean(bound, truth, "ELBO")
        for k in slope:
            assert_mean(estimate[k], np.asarray(slope[k]), f"gradient of {k}")


@pytest.mark.parametrize("subject", [s for s in FAMILIES if s.name in ("dense", "diagonal")], ids=repr)
def test_sticking_the_landing_has_no_variance_at_the_target(subject: Subject):
    q = subject.block
    with float64():
        mean, precision = q.mean, np.linalg.inv(q.covariance())
        _, landed = _of_subject(gradients.StickingTheLanding(), subject, mean, precision, 2)
        _, doubly = _of_subject(gradients.DoublyReparameterized(), subject, mean, precision, 2)
        _, noisy = _of_subject(gradients.Reparameterized(), subject, mean, precision, 2)
        (value, _), score = _of_subject(gradients.ScoreFunction(), subject, mean, precision, 2)
    assert max(np.abs(v).max() for v in landed.values()) < 1e-9
    assert max(np.abs(v).max() for v in doubly.values()) < 1e-9
    # The others are not at rest there, so this is a property of the estimator and not of the point; the
    # score function's is, since f is constant at q = p and its baseline takes it away.
    assert max(v.std(0).max(initial=0.0) for v in noisy.values()) > 0.1
    assert max(np.abs(v).max() for v in score.values()) < 1e-9
    assert value.std() < 1e-10


# -- every cell of the table ------------------------------------------------------------------------


def _curved(z):
    """Bent, with skewed margins: no symmetry hides a bias. Its tails are lighter than those of a wide Gaussian."""
    a, b = z[:, 0], z[:, 1]
    return -0.5 * (a - 0.4) ** 2 - 0.5 * (b - jnp.sin(1.5 * a)) ** 2 - 0.3 * jnp.exp(0.5 * a) + 0.2


_PRIOR = GaussianPrior(np.array([0]), jnp.asarray([0.4]), jnp.asarray([1.0]))


@cache
def _cell(gradient: str, which: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over sets of draws, each set with its own noise: values, and gradients in one row."""
    with float64():
        family = families.Dense()
        block = families.DenseGaussian(np.array([0.1, -0.3]), np.array([[0.8, 0.0], [0.3, 0.7]]))
        parameters = {k: jnp.asarray(v) for k, v in family.parameters(block).items()}
        estimator = next(g for g in GRADIENTS if g.name == gradient)
        objective = OBJECTIVES[which](FEW)
        seed = 100 * which + [g.name for g in GRADIENTS].index(gradient)
        target = Target(_curved, _PRIOR)
        (value, _), slope = _estimates(estimator, objective, target, family, parameters, MANY, 2, seed)
        rows = np.concatenate([np.asarray(v).reshape(MANY, -1) for v in slope.values()], 1)
        return value, rows


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z-scores of the difference of two independent means."""
    error = np.sqrt((a.var(0) + b.var(0)) / len(a))
    return (a.mean(0) - b.mean(0)) / np.where(error > 0, error, 1.0)


INDEPENDENT = [
    (i, g) for i in range(6) for g in gradients.COMPATIBLE[OBJECTIVES[i](FEW).name] if g != "reparameterized"
]


@pytest.mark.parametrize(("which", "gradient"), INDEPENDENT)
def test_allowed_gradients_agree_in_expectation(which, gradient):
    reference, slope = _cell("reparameterized", which)
    value, other = _cell(gradient, which)
    assert abs(float(_apart(value[:, None], reference[:, None])[0])) < 5
    assert np.abs(_apart(slope, other)).max() < 5
    assert np.abs(slope.mean(0)).max() > 0.05  # there is something to agree on


def test_of_a_discrepancy_there_is_no_log_q_to_leave_out():
    with float64():
        family, noise = families.Dense(), np.random.default_rng(0).standard_normal((20, 2))
        parameters = {k: jnp.asarray(v) for k, v in family.parameters(_WIDE).items()}
        objective = objectives.KernelStein(20)

        def surrogate(phi, gradient):
            found = gradient.surrogate(objective, Target(_curved), family.from_parameters, phi, noise)
            return found.surrogate, (found.value, found.elbo)

        one, other = (
            jax.grad(lambda phi, g=g: surrogate(phi, g), has_aux=True)(parameters)
            for g in (gradients.Reparameterized(), gradients.StickingTheLanding())
        )
    gradients.check_pair(objective, gradients.StickingTheLanding())
    for a, b in zip(jax.tree_util.tree_leaves(one), jax.tree_util.tree_leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("which", [3, 4, 5])
def test_sticking_the_landing_is_biased_for_bounds_of_several_draws(which):
    """The score that it leaves out has the mean zero only where its weights are fixed."""
    _, slope = _cell("reparameterized", which)
    _, stuck = _cell("sticking_the_landing", which)
    assert np.abs(_apart(slope, stuck)).max() > 20


@pytest.mark.parametrize("which", [0, 3, 4])
def test_self_normalised_weights_are_wrong_for_expectations_under_q(which):
    _, slope = _cell("reparameterized", which)
    value, rows = _cell("self_normalized", 7)  # the forward KL's
    assert np.isfinite(value).all() and np.abs(_apart(slope, rows)).max() > 5


#: Wide enough for the weights' squares to have a mean.
_WIDE = families.DenseGaussian(np.array([0.1, 0.4]), np.array([[1.3, 0.0], [0.3, 1.6]]))


def _weighted_truth(power: float) -> Any:
    """The gradient of E_pi[log q], pi ∝ p^n q^(1 - n), on a grid."""
    family = families.Dense()
    parameters = {k: jnp.asarray(v) for k, v in family.parameters(_WIDE).items()}
    x = np.linspace(-9, 12, 401)
    z = jnp.asarray(np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2))
    weights = jax.nn.softmax(power * _curved(z) + (1 - power) * _WIDE.log_prob(z))
    slope = jax.grad(lambda phi: (weights * family.from_parameters(phi).log_prob(z)).sum())(parameters)
    return np.concatenate([np.ravel(v) for v in slope.values()])


def _wide(gradient: Any, objective: Any, draws: int) -> np.ndarray:
    family = families.Dense()
    parameters = {k: jnp.asarray(v) for k, v in family.parameters(_WIDE).items()}
    repeats = draws // objective.num_samples
    _, slope = _estimates(gradient, objective, Target(_curved), family, parameters, repeats, 2)
    return np.concatenate([np.asarray(v).reshape(repeats, -1) for v in slope.values()], 1)


@pytest.mark.parametrize(("which", "power"), [pytest.param(7, 1.0, marks=pytest.mark.slow), (8, 2.0)])
def test_self_normalised_gradients_lose_their_bias_with_draws_and_others_do_not(which, power):
    with float64():
        truth = _weighted_truth(power)
        few, many = (_wide(gradients.SelfNormalized(), OBJECTIVES[which](n), 2**18) for n in (4, 1024))
        assert np.abs(z_score(few, truth)).max() > 5
        assert np.abs(z_score(many, truth)).max() < 5
        # The gradient of what few draws estimate is not the divergence's, whichever way it is taken.
        factor = (power - 1) / power if power > 1 else 1.0  # that of the bound over that of E_pi[log q]
        for g in GRADIENTS:
            if g.name != "self_normalized":
                rows = _wide(g, OBJECTIVES[which](4), 2**18)
                assert np.abs(z_score(rows, factor * truth)).max() > 5, g.name


def test_tail_adaptive_weights_are_those_of_the_paper():
    """Ranks alone matter: the tail probability of the largest of four is 1/4, of the least 1."""
    objective = objectives.TailAdaptive(4)
    weights = np.asarray(objective.path_weights(jnp.asarray([0.0, 50.0, 1.0, -3.0])))
    np.testing.assert_allclose(weights, np.array([4 / 3, 4, 2, 1]) / (4 / 3 + 4 + 2 + 1), rtol=1e-6)
    assert np.allclose(objectives.TailAdaptive(4, beta=0.0).path_weights(jnp.arange(4.0)), 0.25)


def test_doubly_reparameterised_weights_are_the_known_ones():
    log_weights = jnp.asarray([0.3, -1.0, 2.0])
    w = np.asarray(jax.nn.softmax(log_weights))
    with float64():
        found = objectives.ImportanceWeighted(3).path_weights(log_weights)
        np.testing.assert_allclose(found, w**2, rtol=1e-5)
        a = 0.3
        w = np.asarray(jax.nn.softmax((1 - a) * log_weights))
        found = objectives.Renyi(a, 3).path_weights(log_weights)
        np.testing.assert_allclose(found, a * w + (1 - a) * w**2, rtol=1e-5)


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda g: g.name)
@pytest.mark.parametrize("make", OBJECTIVES, ids=lambda m: m(2).name)
def test_every_pair_is_allowed_or_refused_as_the_table_says(gradient, make):
    objective = make(8)
    if gradient.name in gradients.COMPATIBLE[objective.name]:
        assert GradientVI(objective=objective, gradient=gradient).gradient is gradient
    else:
        why = gradients.REFUSED[objective.name, gradient.name]
        with pytest.raises(IncompatibleError, match=f"{gradient.name} gradient does not go with {objective.name}") as e:
            GradientVI(objective=objective, gradient=gradient)
        assert why in str(e.value)


def test_the_tables_name_every_objective_and_only_known_gradients():
    known, names = {g.name for g in GRADIENTS}, {make(2).name for make in OBJECTIVES}
    assert set(gradients.COMPATIBLE) == names
    assert set(itertools.chain(*gradients.COMPATIBLE.values())) <= known
    allowed = {(o, g) for o, row in gradients.COMPATIBLE.items() for g in row}
    assert allowed.isdisjoint(gradients.REFUSED)
    assert allowed | set(gradients.REFUSED) == set(itertools.product(names, known))
    for make in OBJECTIVES:
        objective = make(2)
        assert gradients.default_gradient(objective).name == gradients.COMPATIBLE[objective.name][0]
        assert objective.tendency and objective.caution


def test_an_objective_that_the_table_lacks_is_refused():
    class Other(objectives.Objective):
        name, num_samples = "mine", 8

        def value(self, log_weights):
            return 0.0

    with pytest.raises(IncompatibleError, match="no gradient is known to be right for the objective 'mine'"):
        GradientVI(objective=Other())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient": gradients.ScoreFunction(), "objective": objectives.ELBO(1)}, "at least 2 draws"),
        ({"gradient": gradients.Reparameterized}, "gradient is .*needed"),
        ({"gradient": "reparameterized"}, "gradient is 'reparameterized'"),
        ({"objective": objectives.ELBO}, "objective is .*needed"),
        ({"optimizer": 0.01}, "optimizer is 0.01; needed: an optax"),
    ],
)
def test_wrong_parts_are_refused_when_constructed(arguments, message):
    with pytest.raises(IncompatibleError, match=message):
        GradientVI(**arguments)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "8"])
def test_elbo_refuses_a_wrong_number_of_draws(wrong):
    with pytest.raises(IncompatibleError, match="positive integer"):
        objectives.ELBO(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.ELBO(form="kl"), "form='kl'.*one of joint, entropy, prior"),
        (lambda: objectives.ImportanceWeighted(1), "an integer of at least 2"),
        (lambda: objectives.Renyi(1), "Order 1 is ELBO"),
        (lambda: objectives.Renyi(-1.0), "ChiUpperBound"),
        (lambda: objectives.Renyi(True), "needed: a number"),
        (lambda: objectives.ChiUpperBound(1.0), "above 1"),
        (lambda: objectives.TailAdaptive(beta=0.5), "from -1 to 0"),
        (lambda: objectives.ForwardKL(1), "at least 2"),
    ],
)
def test_objectives_refuse_wrong_numbers(make, message):
    with pytest.raises(IncompatibleError, match=message):
        make()


def test_values_by_hand():
    log_w = jnp.asarray([0.5, 1.5, 1.0])
    w = np.exp(np.asarray(log_w))
    near = lambda x: pytest.approx(float(x), rel=1e-6)  # noqa: E731
    assert float(objectives.ELBO(3).value(log_w)) == near(1.0)
    assert float(objectives.ImportanceWeighted(3).value(log_w)) == near(np.log(w.mean()))
    assert float(objectives.Renyi(0.5, 3).value(log_w)) == near(2 * np.log((w**0.5).mean()))
    assert float(objectives.Renyi(3.0, 3).value(log_w)) == near(-0.5 * np.log((w**-2).mean()))
    assert float(objectives.ChiUpperBound(2.0, 3).value(log_w)) == near(0.5 * np.log((w**2).mean()))
    kl = (w / w.sum() * np.asarray(log_w)).sum() - np.log(w.mean())
    assert float(objectives.ForwardKL(3).value(log_w)) == near(kl)
