"""Measures the speed of the library and of the programs in use today, and prints the table.

python scripts/benchmark.py
python scripts/benchmark.py --rows=demosaic,static_menon2007 --json
python scripts/benchmark.py --device=gpu

All rows take 15 to 30 minutes on two CPU cores. The baselines are in the extra bench: pip install -e '.[bench]'.
Rows whose baseline is not installed say so. The exit status is 1 if a row misses its bar by more than noise,
that is, with the better quartiles of both sides as well.
"""

import dataclasses
import functools
import json
import sys

from r2l_jax.runtime import flags
from r2l_jax.runtime.flags import POSITIVE, Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings):
    """Benchmark."""

    rows: tuple[str, ...] = setting("rows to measure, or how their names begin; default: all", ())
    device: str | None = setting(
        "where JAX and PyTorch compute; default: where JAX does by itself", None, choices=("cpu", "gpu")
    )
    json: bool = setting("print JSON with every sample in place of the table", False)
    repeats: int | None = setting("how often each row is measured; default: as often as fits", None, bound=POSITIVE)


def main(config: BenchmarkConfig) -> int:
    """Measures the rows that the flags name, and returns the exit status."""
    from r2l_jax.bench import benchmark, machine

    result = benchmark.run(config.rows, config.repeats, device=machine.compute_on(config.device))
    print(json.dumps(result, indent=2) if config.json else benchmark.table(result))
    if missed := benchmark.missed(result):
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


run = functools.partial(flags.run, main, BenchmarkConfig)
