"""Writes docs/results/speed.csv from the JSON of the benchmark.

python scripts/benchmark.py --json > <file>; python docs/ext/speed.py <file>
"""

import json
import math
import pathlib
import sys
from typing import Any

import measurements

from r2l_jax.bench.benchmark import Sizes


def row(measured: dict[str, Any]) -> dict[str, str]:
    """Formats a row of the benchmark."""
    sizes = Sizes()
    pixels = math.prod(sizes.mosaic if measured["name"].startswith("demosaic") else sizes.batch)
    cells = {
        "ours_ms": measured["ours_ms"],
        "megapixels_per_s": pixels / measured["ours_ms"] / 1000,
        "baseline_ms": measured["baseline_ms"],
        "times_as_fast": measured["value"],
        "bar": measured["bar"],
        "times_floor": measured["times_floor"],
    }
    return {"row": measured["name"]} | {name: _text(value) for name, value in cells.items()}


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    measurements.write("speed", [row(each) for each in json.loads(pathlib.Path(sys.argv[1]).read_text())["rows"]])
