"""Whether verdicts are right: some hundred targets with known means and sds, and some that have none."""

from benchmarks.trust.run import main

__all__ = ["main"]
