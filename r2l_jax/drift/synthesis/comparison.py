"""Compares several runs or groups of seeds, from the outcomes of the same samples."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN, Case
from r2l_jax.drift.renderer import grouped
from r2l_jax.drift.synthesis import summary
from r2l_jax.drift.synthesis.measured import Measured
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import DROP, SCORE, Cell, Column, Figure, Result, Table

# More runs or groups than this become rows of the tables, which then leave out single cases.
_FEW = 3


def compare(tested: Sequence[Measured], metadata: Mapping[str, Any]) -> Result:
    """Makes the result of several runs or groups: their differences and drops, and their scores in all cases.

    Args:
        tested: the runs or groups.
        metadata: further metadata.
    """
    tables, figures = {"drops": _drops(tested)}, {"dots": summary.figure(tested)}
    if found := _differences(tested):
        tables = {"differences": found, **tables}
    for group, cases in grouped(tested[0].cases[1:], lambda case: case.group):
        tables[group], figures[group] = _matrix(tested, summary.NAMES[group].capitalize(), cases)
    notes = [*dict.fromkeys(each.stated for each in tested)]
    kept = {"title": "Runs under drift", "score": tested[0].score_name, "notes": notes, **metadata}
    return Result(kept, tables, figures)


def _drops(tested: Sequence[Measured]) -> Table:
    """Makes a table of the drops of all runs: a column for each run, or a row if there are many."""
    lines = summary.lines(tested, with_cases=len(tested) <= _FEW)
    columns: list[list[Any]] = [["drop, points", f"(clean {tested[0].score_name})", *lines.values()]]
    for each in tested:
        drops = each.intervals(each.groups | each.drops)
        # As text, since the other cells of its column are drops.
        score = Column("", format=SCORE).text(statistics.bounded(each.clean, each.about, each.fold.task.score.bounds))
        columns.append([each.label, score, *(drops.get(name) for name in lines)])
    header, *rows = columns if len(tested) > _FEW else zip(*columns, strict=True)
    return Table(
        "Drops with 95% confidence intervals",
        [Column(name, format=DROP) for name in header],
        [list(row) for row in rows],
    )


def _differences(tested: Sequence[Measured]) -> Table | None:
    """Makes a table of how much more the first run or group loses than each other one with the same samples.

    Only the difference of two groups is about the training recipes, since a single run says nothing about its recipe.
    """
    first, *others = tested
    others = [each for each in others if len(first.samples) == 1 and each.samples == first.samples]
    lines, rows = summary.lines([first, *others], with_cases=len(others) <= _FEW), list[list[Cell]]()
    for other in others:
        wanted = "recipe" if first.about == other.about == "recipe" else "model"
        ours, theirs = (each.groups | each.drops for each in (first, other))
        for name in (name for name in lines if name in ours and name in theirs):
            estimate, low, high, probability = map(float, statistics.difference(ours[name], theirs[name], wanted))
            rows.append([lines[name], f"{first.label} - {other.label} ({wanted})", (estimate, low, high), probability])
    columns = [Column("test"), Column("runs"), Column("difference of drops", "points", DROP)]
    columns.append(Column("probability", format=".0%"))
    note = "how much more the first run loses, and the probability that it loses more"
    return Table("Differences with 95% confidence intervals", columns, rows, note) if rows else None


def _matrix(tested: Sequence[Measured], title: str, cases: Sequence[Case]) -> tuple[Table, Figure]:
    """Makes a table and a heat map of the scores of all runs in a group's cases, or kinds if these have severities.

    If a run's clean images are not exactly one of the cases, clean images have a column as well.
    """
    graded = any(case.kind for case in cases)
    columns = {CLEAN.name: [CLEAN], **dict(grouped(cases, lambda case: case.kind or case.name))}
    unchanged = {each.label: [case.name for case in cases if not graded and each.is_clean(case)] for each in tested}
    diagonal = {label: names[0] if len(names) == 1 else CLEAN.name for label, names in unchanged.items()}
    if CLEAN.name not in diagonal.values():
        del columns[CLEAN.name]
    # This row order puts the clean images near the diagonal.
    rows = sorted(tested, key=lambda each: [*columns].index(diagonal[each.label]))
    values = [[each.score(*of_column) for of_column in columns.values()] for each in rows]
    framed = {
        (row, place)
        for row, each in enumerate(rows)
        for place, name in enumerate(columns)
        if not graded and name in (diagonal[each.label], *unchanged[each.label])
    }
    label = tested[0].score_name
    heading = [Column("trained"), *(Column(name, format=SCORE) for name in columns)]
    cells = [[each.label, *scores] for each, scores in zip(rows, values, strict=True)]
    mean = "; means over the severities" if graded else ""
    names, caption = [each.label for each in rows], f"{title}{mean}"
    return Table(title, heading, cells), heat_map(
        values,
        names,
        [*columns],
        label=label,
        row_title="trained",
        column_title="tested",
        framed=framed,
        caption=caption,
    )
