"""Drift synthesis in a report: matrices of runs and cases, drops from own images, and curves by strength."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.charts import BarChart, Line, LineChart
from r2l_jax.apps.report.document import Block, Cell, Charts, Details, Section, Table, Text
from r2l_jax.apps.report.runs import RunRecord, common_chance, common_score, joint_evaluation
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.results import EvaluatedRun, Evaluation, Groups, Test
from r2l_jax.drift.sensor import KINDS
from r2l_jax.names import SEVERITIES

# Groups of cases whose names state a strength after "=".
_STRENGTHS = {"intensities": "measured intensity", "exposures": "exposure by the model of the sensor"}

_TITLES = {
    "pipelines": "Processing drift",
    "intensities": "Measured intensities",
    "exposures": "Exposures",
    "sensor": "Drift of the sensor",
    "corruptions": "Common corruptions",
}


class Row(NamedTuple):
    """A tested run: its name, its numbers, the numbers of each case, and the score of a guess."""

    name: str
    run: EvaluatedRun
    tests: Mapping[str, Test]
    chance: float | None

    def is_own(self, name: str) -> bool:
        """Tells whether the run was trained on the images of a case."""
        return name == OWN.name or name in self.run.own


def make(runs: Sequence[RunRecord]) -> list[Section]:
    """Makes the section of the evaluations of the runs, each alone and all together."""
    alone, by, chance = [], [], common_chance(runs)
    for run in runs:
        if run.evaluation:
            found = _rows(run.evaluation, run.folder / "evaluation", chance)
            alone += found if len(found) > 1 else [each._replace(name=run.name) for each in found]
            by += [(run.name, _groups(run.evaluation.by, run.evaluation.score))]
    sections = _sections(alone, common_score(runs), "")
    if joint := joint_evaluation(runs):
        folder, evaluation = joint
        suffix = ", runs together" if sections else ""
        if isinstance(evaluation, str):
            sections += document.section(f"Mean drops{suffix}", [Text(evaluation)])
        else:
            sections += _sections(_rows(evaluation, folder, chance), evaluation.score, suffix)
            by.append(("runs together", _groups(evaluation.by, evaluation.score)))
    sections += document.section("Scores by shots", document.panels(by))
    return document.section("Drift synthesis", [], sections)


def _rows(evaluation: Evaluation, folder: pathlib.Path, chance: float | None) -> list[Row]:
    where = folder / "evaluation.json"
    rows = [Row(name, each, evaluation.tests(name, where), chance) for name, each in evaluation.runs.items()]
    return [row for row in rows if OWN.name in row.tests]


def _sections(rows: Sequence[Row], score: str, suffix: str) -> list[Section]:
    """Makes a section of the mean drops, and one for each group of cases."""
    if not rows:
        return []
    legend = Text(
        "Framed cells are a run's own images, which are the diagonal of a matrix of runs in rows and cases in columns. "
        "Drops are differences from there."
    )
    sections = document.section(f"Mean drops{suffix}", [_headlines(rows, score), legend])
    for group, title in _TITLES.items():
        tested = [row for row in rows if any(test.group == group for test in row.tests.values())]
        graded = {"sensor": "drift", "corruptions": "corruption"}
        blocks = _graded(tested, group, graded[group], score) if group in graded else _cases(tested, group, score)
        sections += document.section(f"{title}{suffix}", blocks)
    return sections


def _headlines(rows: Sequence[Row], score: str) -> Table:
    names = dict.fromkeys(name for row in rows for name in row.run.headline)
    titles = {OWN.name: f"{score} on own images"}
    columns = ["run", *(titles.get(name, f"mean {name.replace('_', ' ')}") for name in names)]
    cells = [[Cell(row.name), *(tables.score(row.run.headline.get(name)) for name in names)] for row in rows]
    return Table(f"{score} on own images, and mean drops under drift", columns, cells)


def _columns(rows: Sequence[Row], group: str) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name, test in row.tests.items() if test.group == group))


def _cases(rows: Sequence[Row], group: str, score: str) -> list[Block]:
    """Makes the matrices of scores and of drops from the diagonal, and curves if the cases state a strength."""
    columns = _columns(rows, group)
    if not columns:
        return []
    blocks: list[Block] = []
    if group in _STRENGTHS:
        cases = {strength: name for name in columns if (strength := _strength(name)) is not None}
        if len(cases) > 1:
            blocks.append(Charts([_chart(score, _STRENGTHS[group], cases, score=score, rows=rows, log_x=True)]))
    if not all(sum(name in row.run.own for name in columns) == 1 for row in rows):
        columns = [OWN.name, *columns]
    if len(rows) == 1:
        return [*blocks, _cases_table(rows[0], columns, score)]
    scores = [[_score_cell(row, name) for name in columns] for row in rows]
    drops = [[_drop_cell(row, name) for name in columns] for row in rows]
    return [
        *blocks,
        _matrix(score, rows, columns, tables.leveled(scores)),
        _matrix(f"Drop of {score} from the diagonal", rows, columns, tables.dropped(drops)),
    ]


def _cases_table(row: Row, columns: Sequence[str], score: str) -> Table:
    """Makes the table of a single run, with a row for each case."""
    names = [name for name in columns if name in row.tests]
    (scores,) = tables.leveled([[_score_cell(row, name) for name in names]])
    (drops,) = tables.dropped([[tables.score(row.tests[name].drop.mean) for name in names]])
    cells = [
        [Cell(tables.breakable(name)), found, drop, tables.loss(row.tests[name].loss.mean)]
        for name, found, drop in zip(names, scores, drops, strict=True)
    ]
    return Table(f"{score} and drop of {row.name}", ["case", score, "drop", "loss"], cells)


def _score_cell(row: Row, name: str) -> Cell:
    """Makes the cell of a score, with the deviation over folds if there are several."""
    if name not in row.tests:
        return tables.text(None)
    found = row.tests[name].score
    deviation = found.std if len(row.run.folds) > 1 else None
    return tables.with_deviation(tables.score, found.mean, deviation)._replace(framed=row.is_own(name))


def _drop_cell(row: Row, name: str) -> Cell:
    """Makes the cell of a drop from the score on the own images."""
    return tables.score(row.tests[name].drop.mean if name in row.tests else None, framed=row.is_own(name))


def _matrix(title: str, rows: Sequence[Row], columns: Iterable[str], cells: tables.Rows) -> Table:
    """Makes a matrix of runs and cases, or groups of cases."""
    titled = [[Cell(row.name), *of_run] for row, of_run in zip(rows, cells, strict=True)]
    return Table(title, ["run", *map(tables.breakable, columns)], titled)


def _chart(
    title: str, x: str, cases: Mapping[float, str], *, score: str, rows: Sequence[Row], **options: Any
) -> LineChart:
    """Makes a chart of the scores of all runs over the strengths of cases, given by their names.

    Each run's score on its own images is a dotted line, and the score of a guess is a dashed one.
    """
    owns = [(row.tests[OWN.name].score.mean, color) for color, row in enumerate(rows)]
    lines = []
    for color, row in enumerate(rows):
        points = {strength: row.tests[name].score.mean for strength, name in sorted(cases.items()) if name in row.tests}
        if points:
            lines.append(Line(row.name, list(points), list(points.values()), color))
    return LineChart(title, x, score, lines, levels=owns, chance=rows[0].chance, in_points=True, **options)


def _strength(name: str) -> float | None:
    """Reads the strength from the name of a case, such as "iso=0.05"."""
    try:
        return float(name.partition("=")[2])
    except ValueError:
        return None


def _graded(rows: Sequence[Row], group: str, word: str, score: str) -> list[Block]:
    """Makes a chart of each kind of a group by severity, with a line for each run, and the table of all.

    Where each kind was tested at a single severity, one chart has a bar for each kind instead.

    Args:
        rows: the runs.
        group: the group.
        word: what one of its kinds is called.
        score: the name of the score.
    """
    found: dict[str, dict[float, str]] = {}
    columns = _columns(rows, group)
    for name in columns:
        kind, _, severity = name.rpartition(".")
        if severity.isdecimal():
            found.setdefault(kind, {})[float(severity)] = name
    if not found:
        return []
    cases = [OWN.name, *columns]
    scores = [row.tests[name].score.mean for row in rows for name in cases if name in row.tests]
    matrices = [] if len(rows) == 1 else [_graded_of_runs(rows, found, score)]
    if all(len(severities) == 1 for severities in found.values()):
        charts = [_bars(_TITLES[group], found, score, rows)]
    else:
        charts = [
            _chart(
                kind.replace("_", " "),
                *_axis(kind, severities),
                score=score,
                rows=rows,
                log_x=kind in KINDS,
                y_range=(min(scores), max(scores)),
            )
            for kind, severities in found.items()
        ]
    return [
        *matrices,
        Text("Dotted lines are the scores on the runs' own images, dashed lines the score of a guess."),
        Charts(charts),
        Details(f"Scores and drops of each {word}", [_graded_table(_TITLES[group], word, rows, found, score)]),
    ]


def _bars(title: str, found: Mapping[str, Mapping[float, str]], score: str, rows: Sequence[Row]) -> BarChart:
    """Makes a chart of the scores of all runs in the only case of each kind."""
    severities = sorted({severity for cases in found.values() for severity in cases})
    names = {kind.replace("_", " "): next(iter(cases.values())) for kind, cases in found.items()}
    return BarChart(
        f"{title}, severity {' or '.join(f'{severity:g}' for severity in severities)}",
        score,
        {
            row.name: {kind: row.tests[name].score.mean for kind, name in names.items() if name in row.tests}
            for row in rows
        },
        {row.name: row.tests[OWN.name].score.mean for row in rows},
        rows[0].chance,
    )


def _axis(kind: str, severities: Mapping[float, str]) -> tuple[str, Mapping[float, str]]:
    """Returns the unit of a kind and its cases by their amounts in it; for corruptions, by their severities."""
    if kind not in KINDS or not {*SEVERITIES} >= severities.keys():
        return "severity", severities
    amounts = KINDS[kind].amounts
    return KINDS[kind].unit, {amounts[int(severity) - 1]: name for severity, name in severities.items()}


def _graded_of_runs(rows: Sequence[Row], found: Mapping[str, Mapping[float, str]], score: str) -> Table:
    """Makes the matrix of runs and kinds: the mean drop over those severities in which all runs were tested."""
    shared = {
        kind: [name for name in cases.values() if all(name in row.tests for row in rows)]
        for kind, cases in found.items()
    }
    drops = [
        [
            tables.score(float(np.mean([row.tests[name].drop.mean for name in names])) if names else None)
            for names in shared.values()
        ]
        for row in rows
    ]
    title = f"Drop of {score} from own images, mean over the severities"
    return _matrix(title, rows, shared, tables.dropped(drops))


def _graded_table(
    title: str, word: str, rows: Sequence[Row], found: Mapping[str, Mapping[float, str]], score: str
) -> Table:
    cells = [
        [
            *(Cell(row.name), Cell(kind), tables.number(severity)),
            *map(tables.score, (test.score.mean, test.drop.mean)),
            tables.loss(test.loss.mean),
        ]
        for row in rows
        for kind, names in found.items()
        for severity, name in sorted(names.items())
        if (test := row.tests.get(name))
    ]
    return Table(title, ["run", word, "severity", score, "drop", "loss"], cells)


def _groups(fields: Mapping[str, Groups], score: str) -> list[Block]:
    """Makes the matrix of groups of samples and cases of each fact of the shots."""
    return [tables.by_shots(score, field, groups, groups.mean) for field, groups in fields.items()]
