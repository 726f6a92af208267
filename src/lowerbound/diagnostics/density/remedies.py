"""What to do about a number that is not finite, by the operation that made it.

The rules are tried in order; the first that fits is told.
"""

from __future__ import annotations

DOUBLE_WHERE = (
    "both branches of a jnp.where are differentiated, and the one that is not taken is not finite here: make its "
    "argument safe first, jnp.where(ok, f(jnp.where(ok, x, 1.0)), 0.0) (the double-where trick)."
)
ROOT_AT_ZERO = (
    "the slope of a square root (or of a norm) at 0 is infinite: add a small constant inside, sqrt(x + 1e-12)."
)
JITTER = (
    "add jitter to the diagonal before factorising, K + 1e-6 * jnp.eye(n), and keep length-scales and correlations "
    "from making two rows alike."
)
UNDERFLOW = (
    "a scale underflows to 0: give it a prior bounded away from 0 (LogNormal, Gamma or InverseGamma in place of a "
    "flat or half-normal one), or measure it in a larger unit."
)
RATE_OVERFLOW = (
    "the rate overflows: standardise the covariates (mean 0, sd 1), and give their coefficients tighter priors."
)
EXP_OVERFLOW = (
    "standardise what is exponentiated, or stay on the log scale (logsumexp, logits= in place of probs=, log_prob in "
    "place of prob)."
)
LINK = "what is taken the log of must be positive: pass a rate or scale through a link, jnp.exp or jax.nn.softplus."
LOG_ZERO = "the log of 0: use jax.scipy.special.xlogy for x log x, jnp.logaddexp for sums, or keep it above 0."
NEGATIVE_ROOT = "what is under the root must not be negative: model its log, or pass it through jax.nn.softplus."
DIVISION = "keep the denominator away from 0: constrain it to be positive, or add a small constant to it."
LOGITS = (
    "a probability of exactly 0 or 1 has infinite logits: give the distribution logits= in place of probs=, or clip "
    "the probabilities, jnp.clip(p, 1e-6, 1 - 1e-6)."
)
DATA = (
    "this row of the data is not finite once transformed: look at it, and transform or remove it before the fit "
    "(a log of 0, a division by a standard deviation of 0)."
)
CALLBACK = "the function behind the callback returned it: look at it there, with the values shown."
CONSTANT = (
    "it is written in the model, or chosen by a jnp.where: use a large finite number, or a support that excludes the "
    "region (lb.Site, or the distribution's own)."
)
OVERFLOW = "a product or power overflows: measure the data and the latents in units in which they are of size 1."
GENERAL = "look at this line with the values shown; keep its argument inside the function's domain."


def remedy(
    name: str,
    operands: tuple[float, ...],
    *,
    result: float,
    gradient: bool,
    chosen: bool,
    latent: bool,
    underflow: bool,
    kinds: tuple[str, ...],
) -> str:
    """The advice that fits.

    Args:
        name: JAX's name of the operation; ``"constant"`` for a number.
        operands: What went in.
        result: What came out.
        gradient: Whether it broke the gradient, the value being finite.
        chosen: Whether a ``jnp.where`` lies between it and the end.
        latent: Whether it depends on any latent.
        underflow: Whether a zero that went in is an exp that underflowed.
        kinds: Classes of the distributions concerned.
    """
    first = operands[0] if operands else float("nan")
    last = operands[-1] if operands else float("nan")
    if name in ("pure_callback", "io_callback"):
        return CALLBACK
    if name == "constant":
        return CONSTANT
    if name in ("cholesky", "triangular_solve", "lu", "eigh"):
        return JITTER
    if not latent and not gradient:
        return DATA
    if gradient and chosen:
        return DOUBLE_WHERE
    if underflow:
        return UNDERFLOW
    if name in ("exp", "expm1", "exp2"):
        return RATE_OVERFLOW if any(k in kinds for k in _COUNTS) else EXP_OVERFLOW
    if name in ("log", "log1p") and any(k.startswith(_PROBABLE) for k in kinds):
        return LOGITS
    if name == "log":
        return LOG_ZERO if first == 0 else LINK
    if name == "log1p":
        return LOGITS if first == -1 else LINK
    if gradient and name in ("div", "rsqrt", "pow", "sqrt") and last == 0:
        return ROOT_AT_ZERO
    if name == "sqrt":
        return NEGATIVE_ROOT
    if name in ("div", "rsqrt") and last == 0:
        return DIVISION
    if name == "rsqrt":
        return NEGATIVE_ROOT
    if name in ("mul", "integer_pow", "pow", "square", "dot_general", "reduce_sum", "add", "div"):
        return OVERFLOW if abs(first) > 1 or first != first else GENERAL
    return GENERAL


_COUNTS = (
    "Poisson",
    "NegativeBinomial2",
    "NegativeBinomialLogits",
    "GammaPoisson",
    "ZeroInflatedPoisson",
    "Exponential",
)
_PROBABLE = ("Bernoulli", "Binomial", "Categorical", "Multinomial", "Geometric")
