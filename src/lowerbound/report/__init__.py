"""What a person looks at: progress while it works, the table and the verdict at the end."""

from lowerbound.report.progress import Progress
from lowerbound.report.table import render, show

__all__ = ["Progress", "render", "show"]
