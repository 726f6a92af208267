r"""Learning as data arrive: the posterior so far is the prior of what comes next.

    p(z, w_t | x_1..x_t)  proportional to  p(z | x_1..x_{t-1}) p(w_t, x_t | z),

z the latents that all rows share (*global*), w_t those of the new rows (*local*): the model is bound to the new data
alone, and the priors of z are replaced by what is carried of the posterior before. What is carried is

* where q is a product of exponential families whose draws needed no correction: its natural parameters, to which the
  likelihood of the new rows adds (:mod:`lowerbound.algorithms.carried`). In a conjugate model this is exact;
* else a Gaussian on the unconstrained space: q's marginal if it is Gaussian, the one with the mean and covariance of
  the reported draws if it is not, or if they are corrected ones. That is the Gaussian of least KL(p || q) as far as the
  draws are right: an assumed density (Opper 1998).

With a forgetting factor f < 1 the prior is the power prior p^(1-f) q^f, normalised (Ibrahim & Chen 2000).
"""

from lowerbound.updating.update import update as update
