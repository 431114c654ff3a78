"""Drift forensics in a report: sensitivities, tolerances and worst cases of each fold."""

import math
from collections.abc import Callable, Sequence

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.charts import Line, LineChart, range_bar
from r2l_jax.apps.report.document import Block, Cell, Charts, Details, Pictures, Section, Table, Text
from r2l_jax.apps.report.pictures import Detail, embedded, existing
from r2l_jax.apps.report.runs import Analyses, RunRecord, common_chance
from r2l_jax.drift.results import (
    RANGE_OF_STARTS,
    Knob,
    KnobMap,
    OfFold,
    Sensitivity,
    Shots,
    Tolerances,
    WorstCase,
    WorstCases,
    too_few,
    worst,
)
from r2l_jax.drift.statistics import points

# The axis of tolerances, in natural ranges, is about linear up to here, and logarithmic beyond.
_LINEAR = 0.02

# The distances of a worst case from the default rendering, with their titles.
DISTANCES = {"ssim": "SSIM", "change": "largest change", "color": "CIEDE2000", "color_95": "CIEDE2000, 95%"}


def make(runs: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes the section of the analyses of all folds."""
    named = [(run.title(each.fold), each) for run in runs for each in run.analyses]
    others = [(run.name, []) for run in runs if not run.analyses]

    def of(name: str, make_blocks: Callable[[Analyses], list[Block]]) -> list[Section]:
        titles = {"worst_case": "Worst cases", "shots": "Worst cases by shots"}
        found = [(title, make_blocks(each) if name in each.found else []) for title, each in named]
        return document.section(titles.get(name, name.capitalize()), document.panels([*found, *others]))

    sections = [
        *of("sensitivity", lambda each: _sensitivity(each.found["sensitivity"])),
        *of("tolerances", lambda each: _tolerances(each.found["tolerances"], common_chance(runs))),
        *of("worst_case", lambda each: _worst_cases(each, each.found["worst_case"], detail)),
        *of("shots", lambda each: _shots(each.found["shots"])),
    ]
    return document.section("Drift forensics", [], sections)


def _sensitivity(content: Sensitivity) -> list[Block]:
    elements = [
        [Cell(tables.breakable(name)), tables.number(mean.mean), tables.number(mean.mean_absolute)]
        for name, mean in content.overall.elements.items()
    ]
    blocks: list[Block] = [
        Text(
            f"{_sentence(content.unit)} Means over {content.overall.samples} samples, whose mean loss is "
            f"{tables.three_digits(content.overall.loss)}. Worst: each value moves in the direction that raises the "
            f"loss of the sample; up: all values move up.{_tested(content)}"
        ),
        _changes_table("Parameters", "parameter", content, "parameters"),
        _changes_table("Images after stages", "stage", content, "stages"),
    ]
    if content.caution and "clipped" in content.overall.stages:
        blocks.append(Text(_sentence(content.caution)))
    if elements:
        columns = ("value", "mean", "mean of absolute values")
        blocks.append(Details("Single values", [Table("Change of the loss with single values", columns, elements)]))
    return blocks


def _tested(content: OfFold) -> str:
    """Says which checkpoint was analyzed, if the result records it."""
    return f" Of the {content.checkpoint} checkpoint." if content.checkpoint else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _changes_table(title: str, heading: str, content: Sensitivity, kind: str) -> Table:
    """Makes the table of worst changes: a row for each parameter or stage, and a column for each class."""
    changes = {group: getattr(each, kind) for group, each in {"": content.overall, **content.by_class}.items()}
    worst = [
        [tables.number(each[name].worst if name in each else None) for each in changes.values()] for name in changes[""]
    ]
    rows = []
    for name, cells in zip(changes[""], tables.leveled(worst, logarithmic=True), strict=True):
        natural = content.ranges.get(name if kind == "parameters" else "images")
        width = Cell("its value") if natural and natural.width is None else tables.number(natural and natural.width)
        rows.append([Cell(name), width, cells[0], tables.number(changes[""][name].together.mean), *cells[1:]])
    of_classes = [f"worst, {name}" for name in content.by_class]
    return Table(title, [heading, "natural range", "worst, all samples", "up, all samples", *of_classes], rows)


def _tolerances(content: Tolerances, chance: float | None) -> list[Block]:
    rows = [_knob_row(name, knob, _reach(content)) for name, knob in content.knobs.items()]
    columns = ["knob", "quantity", "value", "low", "high", "fails below", "fails above", "interval in natural ranges"]
    blocks: list[Block] = [
        Text(
            f"{_sentence(content.score)[:-1]} {points(content.default)} of {content.samples} samples falls by at most "
            f"{100 * content.tolerance:g} points from low to high, while one knob moves. Below an end are the "
            "percentiles 5 and 95 of resampled samples, which are also the whiskers of the bar. From the place where "
            "it fails, a paired test at 5% finds the drop to exceed the tolerance. No knob was moved beyond its "
            f"limit.{_tested(content)}"
        ),
        Table("Tolerated intervals", columns, rows),
    ]
    blocks += [Text(_sentence(line)) for line in too_few(content)]
    blocks += [_map_table(each, content.score) for each in content.maps]
    if charts := [_knob_chart(name, knob, content, chance) for name, knob in content.knobs.items() if knob.points]:
        blocks.append(Details(f"{content.score} along each knob", [Charts(charts)]))
    return blocks


def _away(knob: Knob, value: float) -> float:
    """Returns the distance of a value from the default in natural ranges, or 0 if it is not finite."""
    away = knob.away(value)
    return away if math.isfinite(away) else 0.0


def _reach(content: Tolerances) -> float:
    ends = [_away(knob, value) for knob in content.knobs.values() for value in (knob.low, knob.high)]
    return max([_LINEAR, *map(abs, ends)])


def _knob_row(name: str, knob: Knob, reach: float) -> list[Cell]:
    # The low value of a negative gain lies to the right of the high value.
    left, right = sorted((_away(knob, knob.low), _away(knob, knob.high)))
    whiskers = [sorted(_away(knob, value) for value in ends) for ends in (knob.low_interval, knob.high_interval)]
    bar = range_bar(left, right, whiskers, reach, _LINEAR, f"{left:.3g} to {right:.3g} natural ranges")
    ends = []
    for value, interval, is_limit, _ in knob.ends.values():
        cell = tables.value(value)
        text = f"limit {cell.text}" if is_limit else cell.text
        ends.append(cell._replace(text=text, remark=" to ".join(tables.value(each).text for each in interval)))
    return [
        Cell(tables.breakable(name)),
        Cell(knob.quantity),
        tables.number(knob.value),
        *ends,
        *(tables.value(end.failing) for end in knob.ends.values()),
        Cell("", right - left, range=bar),
    ]


def _map_table(found: KnobMap, score: str) -> Table:
    first, second = found.knobs
    cells = [
        [tables.score(each, framed=inside) for each, inside in zip(*of_row, strict=False)]
        for of_row in zip(found.scores, found.tolerated, strict=False)
    ]
    rows = [[tables.number(value), *row] for value, row in zip(found.values[0], tables.leveled(cells), strict=False)]
    columns = [f"{first} \\ {second}", *(tables.number(value).text for value in found.values[1])]
    return Table(f"{score} while {first} and {second} move; framed cells are tolerated", columns, rows)


def _knob_chart(name: str, knob: Knob, content: Tolerances, chance: float | None) -> LineChart:
    values, scores = map(list, zip(*knob.points, strict=True))
    floor = content.default - content.tolerance
    return LineChart(
        name,
        knob.quantity,
        content.score,
        [Line(content.score, values, scores)],
        log_x=knob.scale == "log" and min(values) > 0,
        levels=[(floor, 0)],
        places=[knob.value],
        chance=chance,
        in_points=True,
    )


def _worst_cases(analyses: Analyses, content: WorstCases, detail: Detail) -> list[Block]:
    (drops,) = tables.dropped([[tables.score(row.drop) for row in content.rows]])
    rows = [
        [
            Cell(row.group),
            tables.number(row.aux_weight),
            tables.score(row.score),
            drop,
            *map(tables.loss, (row.loss, row.ssim)),
            *map(tables.number, (row.change, row.color, row.color_95)),
            tables.score(row.spread),
        ]
        for row, drop in zip(content.rows, drops, strict=True)
    ]
    columns = ["parameters", "weight of the distance", content.score, "drop", "loss", *DISTANCES.values()]
    columns.append("range of starts")
    return [
        Text(
            f"By default, the {content.score} is {points(content.default.score)} and the loss "
            f"{tables.three_digits(content.default.loss)}. "
            "Each search raises the task loss over its parameters; distance from the default rendering has a price. "
            f"{RANGE_OF_STARTS[0].upper()}{RANGE_OF_STARTS[1:]}.{_tested(content)}"
        ),
        Table("Worst case of each search", columns, rows),
        *_worst_pictures(analyses, content, detail),
        Charts(_search_charts(content.rows)),
        *(Details("Parameters of the worst cases", [values]) for values in _worst_values(content.rows)),
    ]


def _search_charts(rows: Sequence[WorstCase]) -> list[LineChart]:
    """Makes charts of the task loss and of the distance by step, with a color for each group of parameters."""
    colors = {group: color for color, group in enumerate(dict.fromkeys(row.group for row in rows))}
    charts = []
    for name, title in (("task_loss", "task loss"), ("deviation", "distance from the default")):
        lines = [
            Line(row.group, [step + 1.0 for step in range(len(values))], values, colors[row.group])
            for row in rows
            if (values := getattr(row, name))
        ]
        if lines:
            charts.append(LineChart(title, "step", title, lines))
    return charts


def _worst_pictures(analyses: Analyses, content: WorstCases, detail: Detail) -> list[Block]:
    pictures = []
    for group in dict.fromkeys(row.group for row in content.rows):
        if file := existing(analyses.folder, "worst_case", f"{group}.png"):
            caption = f"{group}: default, worst case, and their difference around gray"
            alternative = f"Samples under the worst case of {caption}"
            pictures.append(embedded(file, detail.width, alternative, caption, on_paper=True))
    return [Pictures(pictures)] if pictures else []


def _worst_values(rows: Sequence[WorstCase]) -> list[Table]:
    """Makes the table of the single values of small parameters in the worst case of each group."""
    values = {group: tables.elements(row.parameters) for group, row in worst(rows).items()}
    return tables.values("Values in the worst case of each group", values)


def _shots(content: Shots) -> list[Block]:
    return [tables.by_shots(content.score, field, groups, groups.scores) for field, groups in content.fields.items()]
