"""``python -m lowerbound`` is the ``lowerbound`` command."""

from lowerbound.cli import main

main()
