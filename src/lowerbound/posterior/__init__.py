"""The answer: what a person gets from :func:`lowerbound.fit`.

:class:`Posterior` is q with its verdict and its history; what it reports, number by number, is in
:mod:`~lowerbound.posterior.reported`; in a file, :mod:`~lowerbound.posterior.storage`.
"""

from lowerbound.posterior.posterior import Posterior as Posterior
from lowerbound.posterior.trace import Trace as Trace
