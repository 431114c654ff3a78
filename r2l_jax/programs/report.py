"""Collects everything in run folders on one HTML page.

python scripts/report.py --run=runs/quickstart/parametrized --output=report.html
python scripts/report.py --run=runs/synthesis/bilinear,runs/synthesis/menon --output=report.html

The report shows the training, finished or not, and the results of evaluate.py, forensics.py and adjust.py from their
default folders. It needs no other file and no network, and is readable on a phone and in print. For a group of
trainings, the figure of all of them is also written to drift.png beside the report.
"""

import dataclasses
import functools
import pathlib

from r2l_jax.runtime import flags
from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.flags import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Report.

    Raises:
        InputError: no run, or an output that does not end in .html.
    """

    run: tuple[str, ...] = setting(
        "folders of runs, of groups of trainings, or of folds, separated by commas; several are shown side by side",
        kind="repeated",
    )
    output: str = setting("the HTML file", "report.html")

    def __post_init__(self):
        super().__post_init__()
        if not self.run:
            raise InputError("--run is empty")
        if pathlib.Path(self.output).suffix not in (".html", ".htm"):
            raise InputError(f"--output must be a file that ends in .html, got {self.output!r}")


def main(config: ReportConfig) -> None:
    """Writes the report."""
    from r2l_jax.apps.report.page import write_report
    from r2l_jax.runtime.hosts import refuse_several_processes

    refuse_several_processes()
    size = write_report(config.run, pathlib.Path(config.output))
    print(one_line(f"{config.output}: {size / 1e6:.1f} MB, of {', '.join(config.run)}"))


run = functools.partial(flags.run, main, ReportConfig)
