"""KL(q || p): how much is left over, can it be trusted, can it be repaired?"""

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.response.linear_response import LinearResponse, linear_response, linear_response_gaussian
from lowerbound.diagnostics.response.site_response import SiteResponse, site_response
from lowerbound.diagnostics.rules.by_weights import judge
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.importance import Weighted, weigh
from lowerbound.diagnostics.weights.paired_gain import paired_gain

__all__ = [
    "Estimate",
    "LinearResponse",
    "SiteResponse",
    "Verdict",
    "VerdictStatus",
    "Weighted",
    "judge",
    "linear_response",
    "linear_response_gaussian",
    "paired_gain",
    "site_response",
    "weigh",
]
