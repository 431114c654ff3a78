"""Writes docs/results/speed.csv, or a table of another name, from the JSON of the benchmark.

python scripts/benchmark.py --json > <file>; python docs/ext/speed.py <file> [<name>]
"""

import json
import pathlib
import sys
from typing import Any

import measurements


def row(measured: dict[str, Any]) -> dict[str, str]:
    """Formats a row of the benchmark."""
    cells = {
        "ours_ms": measured["ours_ms"],
        "megapixels_per_s": measured["pixels"] / measured["ours_ms"] / 1000,
        "baseline_ms": measured["baseline_ms"],
        "times_as_fast": measured["value"],
        "times_in_cpu_time": measured["cpu_value"],
        "cpu_ns_per_pixel": measured["cpu_ns_per_pixel"],
        "bar": measured["bar"],
        "times_floor": measured["times_floor"],
    }
    return {"row": measured["name"]} | {name: _text(value) for name, value in cells.items()}


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    name = "speed" if len(sys.argv) == 2 else sys.argv[2]
    measurements.write(name, [row(each) for each in json.loads(pathlib.Path(sys.argv[1]).read_text())["rows"]])
