"""A fit: from a model and what was asked for to a posterior.

:func:`fit` chooses one of four ways, each in a file of its own: q on the unconstrained space
(:mod:`~lowerbound.fitting.unconstrained`), exact expectations (:mod:`~lowerbound.fitting.closed_form`), exponential
families from draws (:mod:`~lowerbound.fitting.black_box`), a network that gives each row its q
(:mod:`~lowerbound.fitting.amortized`). They share one loop (:mod:`~lowerbound.fitting.loop`), one session (clock,
display, trace: :mod:`~lowerbound.fitting.session`) and one end (:mod:`~lowerbound.fitting.assembly`).
"""

from lowerbound.fitting.assembly import Found as Found
from lowerbound.fitting.assembly import assemble as assemble
from lowerbound.fitting.assembly import warn_of as warn_of
from lowerbound.fitting.closed_form import fit_closed_form as fit_closed_form
from lowerbound.fitting.fit import fit as fit
from lowerbound.fitting.loop import run as run
from lowerbound.fitting.options import Options as Options
from lowerbound.fitting.session import Session as Session
