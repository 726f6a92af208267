"""``python -m benchmarks.closed_forms``; see ``run.py``."""

from benchmarks.closed_forms import main

if __name__ == "__main__":
    main()
