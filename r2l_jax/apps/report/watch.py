"""The watch over a camera in a report: the windows of new images, what has changed in them, and what it costs."""

from collections.abc import Sequence

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.document import Block, Cell, Code, Pictures, Section, Table, Text
from r2l_jax.apps.report.pictures import Detail, embedded, existing
from r2l_jax.apps.report.runs import RunRecord
from r2l_jax.drift.watch.results import Watched

# A table shows the latest windows.
_SHOWN = 30


def make(named: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes the section of the latest watch over each run or group."""
    panels = []
    for run in named:
        blocks: list[Block] = []
        if run.watched is not None:
            blocks = _blocks(run.watched)
            if file := existing(run.folder, "monitor", "windows.png"):
                title = f"{run.name}: p-values and confidence of the windows"
                blocks.insert(1, Pictures([embedded(file, detail.width, title, title, is_plot=True)]))
        panels.append((run.name, blocks))
    return document.section("Watch over the camera", document.panels(panels))


def _blocks(watched: Watched) -> list[Block]:
    rows = [
        [
            Cell(each.name),
            tables.number(each.images),
            _short(each.p_value),
            Cell("yes" if each.alarm else "no"),
            Cell(each.causes[0].name if each.causes else ""),
        ]
        for each in watched.windows[-_SHOWN:]
    ]
    columns = ["window", "images", "p-value", "alarm", "strongest cause"]
    blocks: list[Block] = [Text(watched.verdict), Table("Windows of new images", columns, rows)]
    if watched.causes:
        causes = [
            [Cell(each.name), *map(_short, (each.value, each.low, each.high)), Cell(each.unit)]
            for each in watched.causes
        ]
        blocks.append(Table("Causes", ["cause", "value", "low", "high", "unit"], causes))
    expected = [each for each in (watched.reference, watched.expected_score, *watched.by_confidence) if each]
    if watched.alarm and expected:
        scores = [[Cell(each.method), *map(tables.score, (each.mean, each.low, each.high))] for each in expected]
        blocks.append(Table(f"Expected {watched.score}", ["method", "mean", "low", "high"], scores))
    if watched.remedy and watched.remedy.gain and watched.remedy.helps:
        blocks += [
            Text(f"Adapting by statistics would bring {watched.remedy.gain.points} points."),
            Code(watched.remedy.command),
        ]
    return blocks


def _short(value: float) -> Cell:
    return Cell(f"{value:.3g}", value)
