"""Collects everything in run folders on one HTML page.

python scripts/report.py --run=runs/quickstart/parametrized
python scripts/report.py --run=runs/synthesis/bilinear,runs/synthesis/menon --compare

The report shows the training, finished or not, and the results that other programs have written to the run's folder.
It is report.html in the run's folder, or in the innermost folder that holds all runs. It needs no other file and no
network, and is readable on a phone and in print. With --compare, the outcomes that evaluate.py has stored for runs with
the same samples are paired by sample.
"""

import dataclasses
import pathlib

from r2l_jax.cli.flags import Settings, setting
from r2l_jax.errors import InputError, one_line
from r2l_jax.results.files import common_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Report.

    Raises:
        InputError: no run is given, --compare has only one, or the output does not end in .html.
    """

    run: tuple[str, ...] = setting(
        "folders of runs, of groups of seeds, or of folds, separated by commas; several are shown side by side",
        kind="repeated",
    )
    output: str | None = setting(
        "the HTML file; default: report.html in the run's folder, or in the innermost folder that holds all runs",
        None,
    )
    compare: bool = setting(
        "also print the runs side by side: scores, settings that differ, and paired differences of scores with 95% "
        "confidence intervals",
        False,
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.run:
            raise InputError("`run` is empty")
        if self.compare and len(self.run) < 2:
            raise InputError(f"`compare` takes two or more runs, got `run={','.join(self.run)}`")
        if self.file.suffix not in (".html", ".htm"):
            raise InputError(f"`output` must end in .html, got {self.output!r}")

    @property
    def file(self) -> pathlib.Path:
        """The HTML file."""
        if self.output is not None:
            return pathlib.Path(self.output)
        first, *others = self.run
        return (common_folder(self.run) if others else pathlib.Path(first)) / "report.html"


def main(config: ReportConfig) -> None:
    """Writes the report."""
    from r2l_jax.apps.report.page import write_report

    if config.compare:
        from r2l_jax.apps.report.comparison import comparison_table, differences_table
        from r2l_jax.apps.report.runs import read_runs

        runs = read_runs(config.run)
        print(f"{comparison_table(runs)}\n\n{differences_table(runs)}\n")
    size = write_report(config.run, config.file)
    print(one_line(f"{config.file}: {size / 1e6:.1f} MB, for {', '.join(config.run)}"))
