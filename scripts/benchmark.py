"""Measures how fast the library is beside what is in use today, and prints the table.

python scripts/benchmark.py
python scripts/benchmark.py --rows=demosaic,static_menon2007 --json

All rows take about ten minutes on two CPU cores. The baselines are in the extra bench: pip install -e '.[bench]'. Rows
whose baseline is not installed say so.
"""

import json

from absl import flags

from r2l_jax.bench import benchmark
from r2l_jax.runtime import startup

FLAGS = flags.FLAGS
flags.DEFINE_list("rows", [], "Rows to measure, or how their names begin, separated by commas; default: all.")
flags.DEFINE_bool("json", False, "Print JSON with every sample in place of the table.")
flags.DEFINE_integer("repeats", None, "How often each row is measured; default: as often as fits.", lower_bound=1)


def main() -> None:
    """Measures what the flags say."""
    result = benchmark.run(FLAGS.rows, FLAGS.repeats)
    print(json.dumps(result, indent=2) if FLAGS.json else benchmark.table(result))


if __name__ == "__main__":
    startup.run(main)
