"""The page of a report: its sections, turned into one HTML file by a template."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import pathlib
from collections.abc import Sequence

import jinja2
import markupsafe

from r2l_jax.apps.report import adjustment, charts, forensics, overview, processing, synthesis, training
from r2l_jax.apps.report.document import Section
from r2l_jax.apps.report.pictures import DETAILS, Detail
from r2l_jax.apps.report.runs import RunRecord, read_runs
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing

# The greatest size of a report in bytes, so that it can be sent by mail.
LARGEST = 10_000_000


def write_report(uris: Sequence[str], output: pathlib.Path) -> int:
    """Writes a report of runs as one HTML file that needs no other file and no network, and returns its size in bytes.

    The report has everything that the folders of the runs hold: the training, finished or not, and the results of
    `evaluate.py`, `forensics.py` and `adjust.py` for it where these programs write by default. Several runs, or
    folds, are shown side by side. Equal folders give equal files.

    Raises:
        InputError: a folder does not belong to a run or is given twice, a file in it is damaged, or the report would be
            larger than `LARGEST`.
    """
    page = make_page(read_runs(uris))
    with replacing(output) as part:
        part.write_text(page, encoding="utf-8")
    return len(page.encode())


def make_page(runs: Sequence[RunRecord]) -> str:
    """Makes the HTML text of a report, with pictures as large and as many as its size allows.

    Raises:
        InputError: a picture is damaged, or the report would be larger than `LARGEST`.
    """
    size = 0
    for detail in DETAILS:
        page = render(", ".join(run.name for run in runs), make_sections(runs, detail))
        size = len(page.encode())
        if size <= LARGEST:
            return page
    raise InputError(
        f"the report would have {size / 1e6:.0f} MB, at most {LARGEST / 1e6:.0f} are allowed: name fewer runs"
    )


def make_sections(runs: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes all sections of a report that have any content."""
    return [
        *overview.make(runs),
        *training.make(runs),
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
