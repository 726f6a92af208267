"""argmax: how does q move?"""

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.algorithms.gradient_vi import GradientVI
from lowerbound.algorithms.maximum import Maximum
from lowerbound.algorithms.sample_average import SampleAverage
from lowerbound.algorithms.score_regression import ScoreRegression

__all__ = [
    "Algorithm",
    "GradientVI",
    "Info",
    "Maximum",
    "Mode",
    "SampleAverage",
    "ScoreRegression",
    "Status",
]
