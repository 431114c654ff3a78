"""The page of a report: the results of programs, turned into one HTML file by a program-independent template."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import itertools
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import markupsafe

from r2l_jax.apps.report import pictures, tables
from r2l_jax.apps.report.document import Block, Code, Details, Figures, Findings, Picture, Plot, Section
from r2l_jax.apps.report.runs import Numbers, RunRecord, differing_flags, read_runs, read_together
from r2l_jax.cli.commands import command
from r2l_jax.errors import InputError, spelled
from r2l_jax.results.files import clear_parts, replacing
from r2l_jax.results.result import SCORE, Cell, Column, Figure, Result, Table, points

# The greatest size of a report in bytes, so that it can be sent by mail.
LARGEST = 10_000_000

# The widths in pixels to which pictures may be reduced: a report takes the first that makes it small enough.
_WIDTHS = (1000, 640, 320, 160)


def write_report(uris: Sequence[str], output: pathlib.Path) -> int:
    """Writes a report of runs as one HTML file that needs no other file and no network, and returns its size in bytes.

    The report has the folds of the runs, finished or not, and all their results in the folders of the runs. Equal
    folders give equal files.

    Raises:
        InputError: a folder does not belong to a run or is given twice, a file in it is damaged, or the report would be
            larger than `LARGEST`.
    """
    page = make_page(read_runs(uris))
    clear_parts(output.parent)
    with replacing(output) as part:
        part.write_text(page, encoding="utf-8")
    return len(page.encode())


def make_page(runs: Sequence[RunRecord]) -> str:
    """Makes the HTML text of a report, with pictures as large as its size allows.

    Raises:
        InputError: a plot or a picture is damaged, or the report would be larger than `LARGEST`.
    """
    title, sections, size = ", ".join(run.name for run in runs), _sections(runs), 0
    for width in _WIDTHS:
        page = render(title, sections, width)
        size = len(page.encode())
        if size <= LARGEST:
            return page
    raise InputError(
        f"the report would take {size / 1e6:.0f} MB, more than the limit of {LARGEST / 1e6:.0f} MB: name fewer runs"
    )


def render(title: str, sections: Sequence[Section], width: int = _WIDTHS[0]) -> str:
    """Turns sections into the HTML text of a page under a title, with pictures of at most a width in pixels.

    Raises:
        InputError: a plot or a picture is damaged.
    """
    files = importlib.resources.files("r2l_jax.apps.report") / "templates"
    style, script = ((files / name).read_text() for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("r2l_jax.apps.report"),
        # Names of classes, files and runs are not trusted.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count()
    environment.globals.update(
        cells=tables.cells,
        breakable=tables.breakable,
        plot=lambda each: pictures.plot(each.file, f"p{next(numbers)}-", each.caption),
        picture=lambda each: pictures.picture(each.file, width, each.caption),
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        sections=sections,
        version=importlib.metadata.version("r2l_jax"),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        # The browser runs only this script, whatever names the page contains.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # File names need not be UTF-8: other bytes are shown as escape sequences.
    return page.encode(errors="backslashreplace").decode()


def blocks_of(result: Result) -> list[Block]:
    """Returns the plots, the tables, the pictures and the notes of a result, which was read from files."""
    shown = []
    for name, figure in result.figures.items():
        assert isinstance(figure, Figure)
        assert figure.file is not None
        file = figure.file
        caption = str(result.captions.get(name) or name.replace("_", " "))
        is_plot = f"{name}.svg" in result.files
        shown.append(Plot(file.with_suffix(".svg"), caption) if is_plot else Picture(file, caption))
    plots, others = ([each for each in shown if isinstance(each, kind)] for kind in (Plot, Picture))
    blocks: list[Block] = [Figures(plots), *result.tables.values(), Figures(others)]
    return [block for block in blocks if block != Figures([])] + [*map(spelled, result.metadata.get("notes", ()))]


def _sections(runs: Sequence[RunRecord]) -> list[Section]:
    together, left_out = read_together(runs)
    controls: dict[str, tuple[list[Section], list[Block]]] = {}
    named = [(None, found) for found in together] + [(run, found) for run in runs for found in run.results]
    for run, found in named:
        sections, parts = controls.setdefault(found.control, ([], []))
        of_run = run.name if run and len(runs) > 1 else ""
        title = ", ".join(filter(None, [found.metadata.title or "/".join(found.place), of_run, found.of]))
        if found.of and run and len(run.folds) > 1:
            parts.append(Details(title, blocks_of(found.result)))
        else:
            sections.append(Section(title.removesuffix(f", {found.of}"), blocks_of(found.result)))
    controls.setdefault("training", ([], []))
    shown = []
    for control, (sections, parts) in controls.items():
        blocks = [_models(runs)] if control == "training" else []
        inner = [*sections, *([Section("Each model", parts)] if parts else [])]
        shown.append(Section(control.capitalize(), blocks, inner))
    joint = [sentence for found in together for sentence in found.metadata.verdict]
    return [
        _of_runs("Verdict", [*([Findings(joint)] if joint else []), *left_out], runs, _verdict),
        *shown,
        _of_runs("How to reproduce", _differences(runs), runs, _reproduction),
    ]


def _of_runs(
    title: str, blocks: Sequence[Block], runs: Sequence[RunRecord], make: Callable[[RunRecord], list[Block]]
) -> Section:
    """Makes a section with the blocks of a single run, or with a section for each of several runs."""
    if len(runs) == 1:
        return Section(title, [*blocks, *make(runs[0])])
    return Section(title, blocks, [Section(run.name, make(run)) for run in runs])


def _verdict(run: RunRecord) -> list[Block]:
    """Collects the sentences of all results; sentences on single models only if none is about all models."""
    on_all = {found.control for found in run.results if not found.of and found.metadata.verdict}
    sentences = dict.fromkeys(
        sentence
        for found in run.results
        if not found.of or found.control not in on_all
        for sentence in found.metadata.verdict
    )
    blocks: list[Block] = [Findings([*sentences] or [_scored(run)]), *run.left_out]
    if all(fold.is_finished for fold in run.folds) and all(found.control == "training" for found in run.results):
        blocks.append(f"Not tested under drift yet: {command('evaluate')} {shlex.quote(f'--run={run.folder}')}")
    return blocks


def _scored(run: RunRecord) -> str:
    """States the validation scores of the models, or that training is not finished."""
    best = [fold.numbers.best for fold in run.folds if fold.is_finished and fold.numbers.best is not None]
    if not best:
        return f"Training is not finished: {run.folds[0].epochs} epochs so far."
    # Members of a group may not have begun.
    missing = sum(not any(member in fold.folder.parents for fold in run.folds) for member in run.members[1:])
    planned = len(run.folds) + missing
    of = f" of {len(best)}{f' of {planned}' if planned > len(best) else ''} models" if planned > 1 else ""
    ends = " to ".join(dict.fromkeys([points(min(best)), points(max(best))]))
    return f"The validation {run.score}{of} is {ends} points (best checkpoint)."


def _models(runs: Sequence[RunRecord]) -> Table:
    """Makes the table of all folds of all runs."""
    score = runs[0].score if len({run.score for run in runs}) == 1 else "score"
    columns = [Column("model"), Column("finished"), Column("epochs"), Column(f"best {score}", "", SCORE)]
    columns += [Column("best epoch"), Column(f"last {score}", "", SCORE), Column("best loss", "", ".3g")]
    columns += [Column("last loss", "", ".3g"), Column("training samples"), Column("validation samples")]
    rows = []
    for run in runs:
        for fold in run.folds:
            numbers = fold.numbers if fold.is_finished else Numbers()
            best = None if numbers.best_epoch is None else numbers.best_epoch + 1
            counts = [len(part) for part in (fold.record.train_indices, fold.record.valid_indices)]
            scores = [numbers.best, best, numbers.last, numbers.best_loss, numbers.val_loss]
            rows.append([run.title(fold), fold.is_finished, fold.epochs, *scores, *counts])
    note = "The best checkpoint is from the best epoch, and the last checkpoint from the last epoch."
    return Table("Validation scores and losses", columns, rows, note)


def _differences(runs: Sequence[RunRecord]) -> list[Block]:
    """Lists the settings in which the runs differ."""
    rows = [[name, *map(_value, values)] for name, values in differing_flags(runs).items()]
    columns = [Column("setting"), *(Column(run.name) for run in runs)]
    return [Table("Settings in which the runs differ", columns, rows)] if rows else []


def _value(value: Any) -> Cell:
    return value if isinstance(value, int | float | None) else str(value)


def _reproduction(run: RunRecord) -> list[Block]:
    numbers, fingerprint = run.folds[0].numbers, run.folds[0].record.fingerprint
    metadata = {
        "commit": numbers.git_commit,
        "versions": ", ".join(f"{name} {version}" for name, version in numbers.versions.items() if version),
        "devices": ", ".join(numbers.devices),
        "seed": None if numbers.seed is None else str(numbers.seed),
        "data": fingerprint,
        "folder": str(run.folder),
    }
    known = [[name, value] for name, value in metadata.items() if value not in (None, "")]
    settings = [[name, _value(value)] for name, value in run.flags.items()]
    return [
        Code(run.command),
        Table("Training environment", [Column("setting"), Column("value")], known),
        Details(
            "All settings",
            [Table("Settings, including defaults", [Column("setting"), Column("value")], settings)],
        ),
    ]
