"""The rules by which a verdict is come to: how far a posterior can be trusted.

The rules, in order:

* NOT_TRUSTED if the fit ended for a reason that leaves no answer (flat, unbounded, interrupted, out
  of time, not finite), more than 1% of q's draws have a density that is not finite, or the log density is so large
  that float64 cannot tell 0.001 nats apart.
* TRUSTED if q is the posterior by the form of the model and log p - log q is the same at all draws, to rounding.
* By weights, TRUSTED if the stopping rule was met, the estimated gap KL(q || p) is below 0.005 nats (beyond its
  error), k-hat < 0.5, and importance weighting moves no mean by more than 0.05 sd and no sd by more
  than 5%, neither of an unconstrained coordinate nor (beyond its error) of a site or deterministic as it is reported:
  q is the posterior, for every use that a sample of some thousand draws has.
* By weights, CORRECTED if those of the defensive mixture can bear the correction: k-hat < 0.5 with a fifth of
  the draws effective, or < 0.7 with two fifths (a mixture that has been taught and is still less
  efficient has met a shape it cannot take, and what it misses k-hat cannot see), or weights so even
  that their tail means nothing; at least 1,000 effective draws, before smoothing as after; the log
  evidence known to 0.1 nats; two halves of the draws that agree; and, where there are several modes,
  few that a single search met. The draws returned are importance resamples, not q's.
* Then short Hamiltonian chains are started from the draws. *Mixed* chains have R-hat < 1.05, at least 400
  effective draws, Monte Carlo errors below 0.04 sd, fewer than 0.1% divergent, acceptance above 0.5, and have been
  wherever 99% of the importance weight is. If they
  move a reported mean or log sd by more than 0.1, significantly (at 1% for all parameters together), the weights
  had not seen everything: the draws returned are those of the chains (CORRECTED) if they are mixed, and
  NOT_TRUSTED if not. Chains so far from agreement (R-hat above 1.2) that they can say nothing overrule the weights
  too. Where several modes are known, chains that have not crossed between them say nothing.
* Where the weights could not tell, mixed chains can: TRUSTED if the stopping rule was met and they move no mean
  and no log sd of q by more than 0.05 (of what is reported on the constrained space: beyond its error), CORRECTED if
  they move some, with the draws of the chains. (Above 200 dimensions also where the weights could: they have fewer
  draws than q has digits.)
* Where neither can be vouched for and labellings of components overlap, both are asked again of q's labelling alone.
* NOT_TRUSTED where an image of q (two components exchanged, some sites of the other sign) has more than 3% of the mass
  of both, beyond three standard errors (:mod:`lowerbound.diagnostics.modes.images`), and could not be made a mode.
* NOT_TRUSTED otherwise, and where a parameter's tail is so heavy that its sd may not exist (k-hat of its second
  moment at least 0.9). If the chains came near (R-hat < 1.2) the draws are theirs all the same.

Thresholds: k-hat from Vehtari et al. (2024); 1,000 effective draws are a Monte Carlo error of 0.03 sd;
0.005 nats move a mean by at most 0.1 sd in the worst direction there is.
"""
