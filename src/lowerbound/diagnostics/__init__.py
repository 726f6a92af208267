"""KL(q || p): how much is left over, can it be trusted, can it be repaired?"""

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.importance import Weighted, weigh
from lowerbound.diagnostics.paired_gain import paired_gain
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, judge

__all__ = ["Estimate", "Verdict", "VerdictStatus", "Weighted", "judge", "paired_gain", "weigh"]
