"""argmax: how does q move?"""

from lowerbound.algorithms.amortized_vi import AmortizedVI
from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.algorithms.batch_and_match import BatchAndMatch
from lowerbound.algorithms.black_box_vi import BlackBoxVI
from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.flow_training import fit_flow, prepare_flow
from lowerbound.algorithms.from_gaussian import FromGaussian
from lowerbound.algorithms.gradient_vi import GradientVI
from lowerbound.algorithms.markovian_score_climbing import MarkovianScoreClimbing
from lowerbound.algorithms.maximum import Maximum
from lowerbound.algorithms.memoized_vi import MemoizedVI
from lowerbound.algorithms.moment_matching import MomentMatching
from lowerbound.algorithms.sample_average import SampleAverage
from lowerbound.algorithms.score_regression import ScoreRegression
from lowerbound.algorithms.shape_ascent import fit_sinh_arcsinh
from lowerbound.algorithms.stochastic_vi import StochasticVI
from lowerbound.algorithms.svgd import SVGD

__all__ = [
    "SVGD",
    "Algorithm",
    "AmortizedVI",
    "BatchAndMatch",
    "BlackBoxVI",
    "ConjugateComputationVI",
    "CoordinateAscent",
    "FromGaussian",
    "GradientVI",
    "Info",
    "MarkovianScoreClimbing",
    "Maximum",
    "MemoizedVI",
    "Mode",
    "MomentMatching",
    "SampleAverage",
    "ScoreRegression",
    "Status",
    "StochasticVI",
    "fit_flow",
    "fit_sinh_arcsinh",
    "prepare_flow",
]
