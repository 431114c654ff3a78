"""The page of a report: its sections, turned into one HTML file by a template."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jinja2
import markupsafe

from r2l_jax.apps.report import (
    adjustment,
    charts,
    dots,
    forensics,
    overview,
    processing,
    synthesis,
    training,
    verdict,
)
from r2l_jax.apps.report.document import Section
from r2l_jax.apps.report.pictures import DETAILS, Detail
from r2l_jax.apps.report.runs import RunRecord, common_chance, read_members, read_runs
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing

# The greatest size of a report in bytes, so that it can be sent by mail.
LARGEST = 10_000_000

# The records of the members of each group, by its name.
Members: TypeAlias = Mapping[str, Sequence[RunRecord]]


def write_report(uris: Sequence[str], output: pathlib.Path) -> int:
    """Writes a report of runs as one HTML file that needs no other file and no network, and returns its size in bytes.

    The report has everything that the folders of the runs hold: the training, finished or not, and the results of
    `evaluate.py`, `forensics.py`, `adjust.py` and `monitor.py` for it where these programs write by default. Several
    runs, or folds, are shown side by side, and so are the members of a group of trainings. Equal folders give equal
    files.

    If there are groups, the figure of their trainings is written to `drift.png` beside the report as well.

    Raises:
        InputError: a folder does not belong to a run or is given twice, a file in it is damaged, or the report would be
            larger than `LARGEST`.
    """
    named = read_runs(uris)
    members = read_members(named)
    page = make_page(named, members)
    with replacing(output) as part:
        part.write_text(page, encoding="utf-8")
    _write_figure(named, members, output.with_name("drift.png"))
    return len(page.encode())


def _write_figure(named: Sequence[RunRecord], members: Members, output: pathlib.Path) -> None:
    """Writes the figure of the groups that have results of one score."""
    shown = [run for run in named if run.name in members and run.score == named[0].score]
    groups = {run.name: rows for run in shown if (rows := dots.make_rows(run, members[run.name]))}
    if groups:
        trainings = [training for name in groups for training in members[name]]
        with replacing(output) as part:
            part.write_bytes(dots.make_png(groups, shown[0].score, common_chance(trainings)))


def make_page(named: Sequence[RunRecord], members: Members = types.MappingProxyType({})) -> str:
    """Makes the HTML text of a report, with pictures as large and as many as its size allows.

    Args:
        named: the records of runs and groups, see `read_runs`.
        members: the records of the members of groups, see `read_members`.

    Raises:
        InputError: a picture is damaged, or the report would be larger than `LARGEST`.
    """
    size = 0
    for detail in DETAILS:
        page = render(", ".join(run.name for run in named), make_sections(named, members, detail))
        size = len(page.encode())
        if size <= LARGEST:
            return page
    raise InputError(
        f"the report would have {size / 1e6:.0f} MB, at most {LARGEST / 1e6:.0f} are allowed: name fewer runs"
    )


def make_sections(named: Sequence[RunRecord], members: Members, detail: Detail) -> list[Section]:
    """Makes all sections of a report that have any content; members of groups are shown as other runs are."""
    runs = [run for each in named for run in members.get(each.name, [each])]
    return [
        *verdict.make(named, members),
        *overview.make(runs),
        *training.make(runs, named),
        *processing.make(runs, detail),
        *synthesis.make(runs),
        *forensics.make(runs, detail),
        *adjustment.make(runs, detail),
    ]


def render(title: str, sections: Sequence[Section]) -> str:
    """Turns sections into the HTML text of a page under a title."""
    files = importlib.resources.files("r2l_jax.apps.report") / "templates"
    style, script = ((files / name).read_text() for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("r2l_jax.apps.report"),
        # Names of classes, files and runs come from elsewhere.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(svg=charts.svg, colors=len(charts.COLORS))
    page = environment.get_template("report.html.jinja").render(
        title=title,
        sections=sections,
        version=importlib.metadata.version("r2l_jax"),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        # The browser runs only this script, whatever names the page contains.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # File names need not be UTF-8; bytes that are not are shown as escape sequences.
    return page.encode(errors="backslashreplace").decode()
