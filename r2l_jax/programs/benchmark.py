"""Measures the speed of r2l_jax and of comparable libraries, and prints a table.

python scripts/benchmark.py
python scripts/benchmark.py --rows=demosaic,static_menon2007 --json
JAX_PLATFORMS=cpu python scripts/benchmark.py

All rows take half an hour or more on two CPU cores. The baselines are in the extra bench: pip install -e '.[bench]'.
Rows whose baseline is not installed say so. The exit status is 1 if a row misses its bar by more than noise, that is,
even when the better quartiles of both sides are compared.
"""

import dataclasses
import json
import sys

from r2l_jax.cli.flags import POSITIVE, Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings):
    """Benchmark."""

    rows: tuple[str, ...] = setting("rows to measure, by name or the start of a name; default: all", ())
    json: bool = setting("print JSON with every sample instead of the table", False)
    repeats: int | None = setting("measurements of each row; default: as many as time allows", None, bound=POSITIVE)


def main(config: BenchmarkConfig) -> int:
    """Measures the rows that the flags name, and returns the exit status."""
    from r2l_jax.bench import benchmark

    result = benchmark.run(config.rows, config.repeats)
    print(json.dumps(result, indent=2) if config.json else benchmark.table(result))
    if missed := benchmark.missed(result):
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
