"""Write ``data/`` from a checkout of posteriordb: ``python -m benchmarks.posteriors.make_reference CHECKOUT``.

The data are copied number for number (JSON writes a float64 so that it reads back the same bits). Of the reference
draws, ten chains of 1,000, are kept each parameter's mean, standard deviation (divisor n - 1) and 99 quantiles
(rounded to 10 digits).
"""

from __future__ import annotations

import argparse
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.posteriors.registry import DATA, REGISTRY, Posterior

PROBABILITIES = np.arange(1, 100) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="directory of posteriordb, or of its posterior_database")
    root: Path = parser.parse_args().checkout
    root = root / "posterior_database" if (root / "posterior_database").is_dir() else root
    for dataset in sorted({p.dataset for p in REGISTRY.values()}):
        write(f"{dataset}.json.xz", unzip(root / "data" / "data" / f"{dataset}.json.zip"))
    write("reference.json.xz", {p.name: describe(p, draws(root, p)) for p in REGISTRY.values()})


def unzip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def draws(root: Path, p: Posterior) -> dict[str, np.ndarray]:
    """Reference draws by parameter, all chains together."""
    chains = unzip(root / "reference_posteriors" / "draws" / "draws" / f"{p.draws}.json.zip")
    return {k: np.concatenate([np.asarray(c[k], float) for c in chains]) for k in chains[0]}


def describe(p: Posterior, by_parameter: dict[str, np.ndarray]) -> dict[str, Any]:
    # "theta[1]", "theta[2]" … come in order within a site; sites in the order of the registry.
    parameters = [k for s in p.sites for k in by_parameter if k.split("[")[0] == s]
    table = np.stack([by_parameter[k] for k in parameters])
    return {
        "parameters": parameters,
        "mean": table.mean(1).tolist(),
        "sd": table.std(1, ddof=1).tolist(),
        "quantiles": [[float(f"{q:.10g}") for q in row] for row in np.quantile(table, PROBABILITIES, axis=1).T],
    }


def write(name: str, content: Any) -> None:
    DATA.mkdir(exist_ok=True)
    text = json.dumps(content, separators=(",", ":"))
    (DATA / name).write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{(DATA / name).stat().st_size:>9,} {name}")


if __name__ == "__main__":
    main()
