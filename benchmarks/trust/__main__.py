"""``python -m benchmarks.trust``; see ``run.py``."""

from benchmarks.trust.run import main

if __name__ == "__main__":
    main()
