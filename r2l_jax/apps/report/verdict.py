"""The verdict of a report: how much a run or a group of trainings loses under drift, in sentences with intervals.

A group of trainings also has a figure and tables of its results; its members are in the other sections.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r2l_jax.apps.report import document, dots, tables
from r2l_jax.apps.report.document import Block, Cell, Details, Findings, Section, Table, Text
from r2l_jax.apps.report.forensics import DISTANCES
from r2l_jax.apps.report.runs import RunRecord, common_chance
from r2l_jax.drift import statistics
from r2l_jax.drift.corruptions import GROUPS
from r2l_jax.drift.results import Adaptation, Drops, Estimate, Evaluation, Forensics, Spread, too_few, worst
from r2l_jax.drift.sensor import KINDS
from r2l_jax.names import DEMOSAICING, DENOISING, SHARPENING

_UNDER = {
    "pipelines": " under other pipelines",
    "intensities": " at other measured intensities",
    "exposures": " at other exposures",
    "sensor": " under drift of the sensor",
    "corruptions": " under common corruptions",
}


def make(named: Sequence[RunRecord], members: Mapping[str, Sequence[RunRecord]]) -> list[Section]:
    """Makes the section of the verdicts.

    Args:
        named: the records of the runs and groups that the report was asked for.
        members: the records of the trainings of each group, by its name.
    """
    panels = []
    for run in named:
        blocks: list[Block] = [Findings([*scored(run), *judge(run)])]
        blocks += [Text(" ".join(each)) for each in (stated(run), _untested(run)) if each]
        if run.name in members:
            blocks += [*_figure(run, members[run.name]), *_tables(run)]
        panels.append((run.name, blocks))
    return document.section("Verdict", document.panels(panels))


def scored(run: RunRecord) -> list[str]:
    """Returns the sentence on the score without drift: with an interval on the samples that drift was tested on.

    Without such a test it is the score of the best checkpoint in the validation, or the state of the training.
    """
    chance = common_chance([run])
    guess = [] if chance is None else [f"a guess: {round(100 * chance)}"]
    if run.evaluation and (drops := _drops(run.evaluation)):
        where = "without drift"
        if len(drops.members) < len(run.members):
            where += _part(len(drops.members), len(run.members))
        return [_of_score(run, where, (drops.score.low, drops.score.high), guess)]
    best = [fold.final.best for fold in run.folds if fold.final]
    if not best:
        return [f"The training is not finished: {len(run.folds[0].history)} epochs so far."]
    where = f"in the validation{_part(len(best), run.planned)}"
    return [_of_score(run, where, (min(best), max(best)), ["best checkpoint", *guess])]


def _part(count: int, planned: int) -> str:
    """Says how many trainings a number is about, and of how many if not all; nothing for a single training."""
    if count == planned:
        return f" of {count} trainings" if count > 1 else ""
    return f" of {count} of {planned} trainings"


def _of_score(run: RunRecord, where: str, ends: tuple[float, float], notes: Sequence[str]) -> str:
    beside = f" ({'; '.join(notes)})" if notes else ""
    return f"The {run.score} {where} is {_points(*ends)}{beside}."


def _untested(run: RunRecord) -> list[str]:
    """Says how the drift of a trained run is tested, if it has not been."""
    tested = run.evaluation or run.analyses or run.adaptation
    if tested or not all(fold.final for fold in run.folds):
        return []
    return [f"Not tested under drift yet: python scripts/evaluate.py {shlex.quote(f'--run={run.folder}')}"]


def judge(run: RunRecord) -> list[str]:
    """Returns the sentences of the verdict on a run or a group of trainings; none without results."""
    return [
        *(_losses(run.evaluation) if run.evaluation else []),
        *_worst_case(run),
        *(_adapted(run.adaptation) if run.adaptation else []),
    ]


def stated(run: RunRecord) -> list[str]:
    """Returns lines that say what the intervals of the verdict are about, and which checkpoint was tested."""
    lines = []
    if run.evaluation and (drops := _drops(run.evaluation)):
        lines.append(statistics.stated(drops.about, len(drops.members), drops.samples, drops.measured))
    if run.adaptation:
        for drift in run.adaptation.drifts.values():
            if drift.intervals:
                about, count = run.adaptation.about, len(run.adaptation.members)
                lines.append(statistics.stated(about, count, drift.samples, drift.measured or "samples"))
    return [*(f"{line}." for line in dict.fromkeys(lines)), *_tested(run)]


def _tested(run: RunRecord) -> list[str]:
    """Says which checkpoint the results are about; several, if programs were told different ones."""
    analyzed = {found.checkpoint for each in run.analyses for found in each.found.values() if found.checkpoint}
    known = {
        "Tested under drift": run.evaluation and run.evaluation.flags.get("checkpoint"),
        "Analyzed by forensics": analyzed.pop() if len(analyzed) == 1 else None,
        "Adjusted": run.adaptation and run.adaptation.flags.get("checkpoint"),
    }
    named = {work: checkpoint for work, checkpoint in known.items() if checkpoint}
    if len(named) > 1 and len({*named.values()}) == 1:
        return [f"Tested, here and below: the {next(iter(named.values()))} checkpoint."]
    return [f"{work}: the {checkpoint} checkpoint." for work, checkpoint in named.items()]


def _drops(evaluation: Evaluation) -> Drops | None:
    """Returns the drops of the only run or group of an evaluation, which earlier versions did not record."""
    return next(iter(evaluation.drops.values())) if len(evaluation.drops) == 1 else None


def _losses(evaluation: Evaluation) -> list[str]:
    """Says how much is lost under each kind of drift, and where most."""
    drops = _drops(evaluation)
    if drops is None:
        return []
    tests = next(iter(evaluation.runs.values())).tests
    sentences, words = [], ("Loses", "Gains", "Shows no loss")
    for kind, under in _UNDER.items():
        if kind not in drops.groups:
            continue
        if kind in ("sensor", "corruptions"):
            names = KINDS if kind == "sensor" else GROUPS.values()
            parts = {name: drops.groups[name] for name in names if name in drops.groups}
        else:
            parts = {name: each for name, each in drops.cases.items() if tests.get(name, {}).get("group") == kind}
        most = max(parts, key=lambda name: parts[name].estimate, default="")
        if len(parts) == 1 and kind in ("intensities", "exposures"):
            under = f" at {_in_words(most)}"
        is_shown = len(parts) > 1 and parts[most].low > 0
        ending = f"; the worst is {_in_words(most)}" if is_shown else ""
        sentences.append(f"{_change(drops.groups[kind], words, under)}{ending}.")
    return sentences


def _change(change: Estimate, words: tuple[str, str, str], under: str = "") -> str:
    """Says in points how much the score changes; `words` are for a positive change, a negative one, and neither."""
    if change.low > 0:
        return f"{words[0]} {_points(change.low, change.high)}{under}"
    if change.high < 0:
        return f"{words[1]} {_points(-change.high, -change.low)}{under}"
    return f"{words[2]}{under} ({_points(change.low, change.high)})"


def _points(low: float, high: float) -> str:
    """Formats the ends of an interval in whole points."""
    ends = dict.fromkeys(f"{round(100 * end)}".replace("-", "\N{MINUS SIGN}") for end in (low, high))
    return f"{' to '.join(ends)} point{'' if list(ends) == ['1'] else 's'}"


def _in_words(name: str) -> str:
    """Returns the name of a case or a group in words; names of a user's own pipelines stay."""
    parts = name.split(".")
    known = (DEMOSAICING, SHARPENING, DENOISING)
    if len(parts) == len(known) and all(part in names for part, names in zip(parts, known, strict=True)):
        steps = zip(parts, ("demosaicing", "sharpening", "denoising"), strict=True)
        first, *others = [f"no {step}" if part == "none" else part.replace("_", " ") for part, step in steps]
        return f"{first} with {' and '.join(others)}"
    if name in KINDS or parts[0] in KINDS:
        kind, *severity = parts
        return " ".join([kind.replace("_", " "), *(f"of severity {each}" for each in severity)])
    return name.replace("iso=", "an intensity of ").replace("exposure=", "an exposure of ")


def _worst_drops(run: RunRecord) -> dict[str, list[float]]:
    """Returns for each group of parameters the drops in the worst case of each training."""
    if run.forensics:
        drops = {group: numbers["drop"].trainings for group, numbers in run.forensics.worst_case.items()}
    else:
        found = [worst(each.found["worst_case"].rows) for each in run.analyses if "worst_case" in each.found]
        groups = dict.fromkeys(group for each in found for group in each)
        drops = {group: [each[group].drop for each in found if group in each] for group in groups}
    return {group: known for group, each in drops.items() if (known := [drop for drop in each if drop is not None])}


def _worst_case(run: RunRecord) -> list[str]:
    """Says how much the worst black level costs that a search has found, or else the worst processing."""
    drops = _worst_drops(run)
    if not drops:
        return []
    is_searched = "black_level" in drops
    found = drops["black_level" if is_searched else max(drops, key=lambda group: np.median(drops[group]))]
    median = float(np.median(found))
    sentence = f"The worst {'black level' if is_searched else 'processing'} that a search found costs "
    if len(found) == 1:
        return [f"{sentence}{_points(median, median)}."]
    of_each = f"{_points(min(found), max(found))} in {len(found)} trainings"
    return [f"{sentence}{of_each}, {_points(median, median)} in the median."]


def _adapted(adaptation: Adaptation) -> list[str]:
    """Says how much of the score adjustments win back."""
    words = ("wins back", "loses", "shows no gain")
    return [
        f"Adjustment to {_in_words(name)} {_change(drift.intervals.won_back, words)}."
        for name, drift in adaptation.drifts.items()
        if drift.intervals
    ]


def _figure(group: RunRecord, members: Sequence[RunRecord]) -> list[Block]:
    """Shows the figure of a group."""
    rows = dots.make_rows(group, members)
    return [dots.make_drawing(rows, group.score, common_chance(members))] if rows else []


def _tables(group: RunRecord) -> list[Block]:
    """Makes the tables of the results over all trainings of a group."""
    blocks: list[Block] = []
    if group.evaluation and (drops := _drops(group.evaluation)):
        blocks.append(Details("Drops with intervals", [_drops_table(drops, group.score)]))
    if group.forensics:
        blocks.append(Details("Forensics over the trainings", _spread_tables(group.forensics)))
    if group.adaptation:
        blocks.append(Details("Adjustment with intervals", [_adaptation_table(group.adaptation)]))
    return blocks


def _drops_table(drops: Drops, score: str) -> Table:
    """Makes the table of the drops in points with their intervals; a corruption has the mean over its severities."""
    cases = {name: each for name, each in drops.cases.items() if name.rpartition(".")[0] not in drops.groups}
    parts = drops.groups | cases
    rows = [[Cell(tables.breakable(name)), _interval(drop)] for name, drop in parts.items()]
    return Table(f"Drops in points of {score}, from {drops.score.points} on own images", ["drift", "drop"], rows)


def _interval(found: Estimate) -> Cell:
    return Cell(found.points.replace("-", "\N{MINUS SIGN}"), found.estimate)


def _spread_tables(content: Forensics) -> list[Block]:
    """Makes the tables of medians and ranges over trainings."""
    worst_rows = [
        [Cell(group), *(_spread(each, _form(name)) for name, each in numbers.items())]
        for group, numbers in content.worst_case.items()
    ]
    knobs = [
        [
            Cell(tables.breakable(name)),
            Cell(knob.quantity),
            *map(_spread, (knob.value, *(end.value for end in knob.ends.values()))),
        ]
        for name, knob in content.tolerances.items()
    ]
    sensitivities = [[Cell(name), _spread(each)] for name, each in content.sensitivity.items()]
    columns = [*next(iter(content.worst_case.values()), ())]
    found = [
        ("Worst cases", ["parameters", *(DISTANCES.get(name, name) for name in columns)], worst_rows),
        ("Tolerated intervals", ["knob", "quantity", "value", "low", "high"], knobs),
        ("Rise of the loss with each parameter and stage", ["parameter or stage", "worst"], sensitivities),
    ]
    over = f": median (least to greatest) of {len(content.training)} trainings"
    blocks: list[Block] = [Table(f"{title}{over}", columns, rows) for title, columns, rows in found if rows]
    return [*blocks, *(Text(f"{line}.") for line in too_few(content))]


def _form(name: str) -> Callable[[float], Cell]:
    """Returns what makes the cells of a number of the worst cases."""
    return tables.score if name in ("score", "drop", "spread") else tables.number


def _spread(found: Spread, make: Callable[[float], Cell] = tables.number) -> Cell:
    return Cell(found.text(lambda value: make(value).text), found.median)


def _adaptation_table(content: Adaptation) -> Table:
    """Makes the table of the scores before and after adjustment, in points with their intervals."""
    rows = [
        [Cell(name), *map(_interval, (found.undrifted, found.before, found.after, found.won_back))]
        for name, drift in content.drifts.items()
        if (found := drift.intervals)
    ]
    columns = ["drift", f"{content.score}, undrifted", "before", "after", "won back"]
    return Table("Adjustment, in points", columns, rows)
