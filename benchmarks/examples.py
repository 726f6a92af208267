"""Every bundled example under one or all families: seconds, ELBO, verdict. ``make bench ARGS=examples``.

``python -m benchmarks.examples [NAME ...] [--family NAME]... [--seeds N]``. The first fit of a shape compiles; what it
cost is its own column. Set ``LOWERBOUND_CACHE=0`` to keep programs of earlier runs out of it.
"""

from __future__ import annotations

import argparse
import warnings

import lowerbound as lb
from lowerbound import examples
from lowerbound.errors import TrustWarning

HEAD = (
    f"{'example':<20} {'family':<9} {'seed':>4} {'compile':>8} {'run':>8} {'steps':>6} {'evals':>8}  "
    f"{'ELBO':<20} verdict"
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.examples", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--family", action="append", help="default: what lb.fit chooses")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TrustWarning)
    print(HEAD)
    for name in options.names or examples.names():
        example = examples.load(name)
        for family in options.family or [None]:
            for seed in range(options.seeds):
                p = lb.fit(example.model, example.data, family=family, seed=seed, progress=False)
                run = p.timings["total"] - p.timings["compile"]
                print(
                    f"{example.name:<20} {p.family_name:<9} {seed:>4} {p.timings['compile']:>7.2f}s "
                    f"{run:>7.2f}s {p.counts['steps']:>6,} {p.counts['evaluations']:>8,}  "
                    f"{p.elbo!s:<20} {p.verdict.status.name}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
