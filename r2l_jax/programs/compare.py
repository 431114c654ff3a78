"""Compares runs and groups of trainings: scores, settings that differ, paired differences, and learning curves.

python scripts/compare.py --run=runs/synthesis/bilinear,runs/synthesis/menon --output=curves.png

The best checkpoints of runs with the same samples are measured on them, for the difference of every two scores with an
interval of 95%. Tables have at most 100 columns. For everything else in the folders of runs, see report.py.
"""

import dataclasses
import functools
import pathlib

from r2l_jax.runtime import flags
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonConfig(Settings):
    """Comparison.

    Raises:
        InputError: fewer than two runs, or an output that does not end in .png.
    """

    run: tuple[str, ...] = setting(
        "folders of runs, of groups of trainings, or of folds, separated by commas", kind="repeated"
    )
    output: str | None = setting("also draw the learning curves, as a PNG file", None)

    def __post_init__(self):
        super().__post_init__()
        if len(self.run) < 2:
            raise InputError(f"--run must name at least two runs, got {','.join(self.run)!r}")
        if self.output is not None and pathlib.Path(self.output).suffix != ".png":
            raise InputError(f"--output must be a file that ends in .png, got {self.output!r}")


def main(config: ComparisonConfig) -> None:
    """Compares the runs that the flags name."""
    from r2l_jax.apps.report.comparison import comparison_table, differences_table, write_curves
    from r2l_jax.apps.report.runs import read_runs
    from r2l_jax.runtime.hosts import refuse_several_processes

    refuse_several_processes()
    runs = read_runs(config.run)
    print(f"{comparison_table(runs)}\n")
    print(differences_table(runs))
    if config.output is not None:
        write_curves(runs, pathlib.Path(config.output))
        print(f"\ncurves in {config.output}")


run = functools.partial(flags.run, main, ComparisonConfig)
