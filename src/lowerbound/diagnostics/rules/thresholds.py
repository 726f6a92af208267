"""The numbers in the rules, and what is said where nothing else helps."""

from __future__ import annotations

#: By weights, TRUSTED: nats of KL(q || p), and shifts of a mean (in sds) and of a log sd.
GAP, SHIFT = 0.005, 0.05
#: Nats that float64 must be able to tell apart in the log density.
RESOLUTION = 1e-3
#: By weights, CORRECTED: k-hat with so large a share of the draws effective,
GOOD_K, FLOOR = 0.5, 0.2
#: ... or this k-hat with that share;
USABLE_K, LEARNED = 0.7, 0.4
#: ... effective draws, nats of the log evidence's error, and share of modes that no search met.
EFFECTIVE, EVIDENCE_SE, MISSING = 1000, 0.1, 0.2
#: Shift of a reported moment, in sds, that mixed chains must not show.
DRIFT = 0.1
#: R-hat from which chains say nothing, but that something is wrong.
APART = 1.2

#: What to try where q does not match and could not be corrected.
NEXT = (
    "Tighten vague priors on the parameters named, fix what the data cannot tell apart, or check them with MCMC. "
    "(Other parameterisations and families are tried unless escalate=False or a family or algorithm is asked for.)"
)
