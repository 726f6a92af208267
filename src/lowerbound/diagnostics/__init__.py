"""KL(q || p): how much is left over, can it be trusted, can it be repaired?"""

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.importance import Weighted, weigh
from lowerbound.diagnostics.judging import judge
from lowerbound.diagnostics.linear_response import LinearResponse, linear_response, linear_response_gaussian
from lowerbound.diagnostics.paired_gain import paired_gain
from lowerbound.diagnostics.site_response import SiteResponse, site_response
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus

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
