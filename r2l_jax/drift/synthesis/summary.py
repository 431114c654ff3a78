"""Summarizes the outcomes of a run or a group of seeds: drops with intervals, in tables, a figure and sentences."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isp.sensor_drift import QUANTITIES
from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.corruptions.declare import ORDER
from r2l_jax.drift.dots import Row, dots
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.measured import Measured
from r2l_jax.drift.verdict import change, in_words, level, single
from r2l_jax.names import CORRUPTIONS, DRIFTS, SENSOR
from r2l_jax.results.result import DROP, SCORE, Cell, Column, Figure, Interval, Result, Table

# The samples of each value of a field of their shots, or of each class.
Groups = Mapping[str, Mapping[str, np.ndarray]]

_UNDER = {
    "pipelines": " under other pipelines",
    "intensities": " at other measured intensities",
    "exposures": " at other simulated exposures",
    "sensor": " under sensor drift",
    "cameras": " with other cameras",
    "corruptions": " under common corruptions",
}
# The names of groups of cases, without the preposition.
NAMES = {"clean": "clean images"} | {group: under.split(maxsplit=1)[1] for group, under in _UNDER.items()}

# The target half width of an interval.
_HALF_WIDTH = 0.02


def summarize(
    config: EvaluationConfig, tested: Measured, ensemble: Measured | None, metadata: Mapping[str, Any], groups: Groups
) -> Result:
    """Makes the summary of a run or a group of seeds.

    Args:
        config: the settings of the evaluation.
        tested: the run or the group.
        ensemble: the ensemble of the group.
        metadata: further metadata.
        groups: groups of samples to score separately.

    Raises:
        InputError: a single seed says nothing about the training recipe.
    """
    about, several = tested.about, len(tested.members) > 1
    drops, kinds = tested.intervals(tested.groups | tested.drops), [name for name in DRIFTS if name in tested.groups]
    changed = [of_case for name, of_case in tested.drops.items() if not name.startswith("identity.")]
    clean = statistics.bounded(tested.clean, about, tested.fold.task.score.bounds)
    needed = {kind: statistics.members_needed(tested.groups[kind], _HALF_WIDTH) for kind in kinds} if several else {}
    shares = statistics.shares(np.stack(changed))._asdict() if several and changed else None
    ratio = None
    if config.as_published and {"pipelines", "corruptions"} <= set(kinds):
        ratio = statistics.log_ratio(tested.groups["corruptions"], tested.groups["pipelines"], about)
    tables = {"drops": _drops(tested, clean, drops)}
    if several:
        tables["members"] = _members(tested, ensemble, kinds)
    if tested.fold.task.class_scores:
        tables["by_class"] = _by_class(tested)
    tables |= {f"by_{field}": _by(tested, field, values) for field, values in groups.items()}
    # The other cases have their rows among the drops.
    if rows := [[name, drops[name]] for name in tested.drops if name not in lines([tested])]:
        tables["cases"] = Table("Drops at each severity", [Column("test"), Column("drop", "points", DROP)], rows)
    return Result(
        {
            "title": "Drops under drift",
            "verdict": _verdict(tested, clean, drops),
            "notes": _notes(tested, shares, needed, ratio),
            "score": tested.score_name,
            "about": about,
            "members": list(tested.members),
            "samples": tested.count,
            "groups": tested.clean.shape[1],
            "measured": f"{tested.fold.measured} samples",
            "clean": [case.name for case in tested.cases[1:] if tested.is_clean(case)],
            "shares": shares,
            "members_needed": needed,
            "log_ratio": ratio,
            **metadata,
        },
        tables,
        {"dots": figure([tested])} if tested.groups else {},
    )


def lines(tested: Sequence[Measured], with_cases: bool = True) -> dict[str, str]:
    """Returns the titles of groups of cases and, `with_cases`, of single cases, by name.

    A corruption or sensor drift with several severities has only one title, for the mean over them.
    """
    groups = dict.fromkeys(name for each in tested for name in each.groups)
    found = {name: name for name in groups if name not in (*CORRUPTIONS, *SENSOR)}
    cases = dict.fromkeys(name for each in tested for name in each.drops if with_cases)
    severities = collections.Counter(name.rpartition(".")[0] for name in cases)
    for name in cases:
        kind = name.rpartition(".")[0]
        if kind in groups and severities[kind] > 1:
            found[kind] = f"{kind} (mean of {severities[kind]} severities)"
        elif kind != "identity":
            found[name] = name
    return found


def _drops(tested: Measured, clean: Interval, drops: Mapping[str, Interval]) -> Table:
    rows: list[list[Cell]] = [[CLEAN.name, None, clean]]
    rows += [[title, drops[name], clean[0] - drops[name][0]] for name, title in lines([tested]).items()]
    columns = [Column("test"), Column("drop", "points", DROP), Column(tested.score_name, "points", SCORE)]
    return Table("Drops with 95% confidence intervals", columns, rows)


def _members(tested: Measured, ensemble: Measured | None, kinds: Sequence[str]) -> Table:
    """Makes a table of the scores and mean drops of the members of a group and of their ensemble."""
    rows: list[list[Cell]] = []
    for each in (tested, *([ensemble] if ensemble else [])):
        drops = np.stack([each.clean, *(each.groups[kind] for kind in kinds)]).mean(-1)
        rows += [[name, *map(float, of_member)] for name, of_member in zip(each.members, drops.T, strict=True)]
    columns = [Column(f"clean {tested.score_name}", "points", SCORE), *(Column(kind, "points", DROP) for kind in kinds)]
    return Table("Scores of the members, and their mean drops", [Column("run"), *columns], rows)


def _by(tested: Measured, field: str, values: Mapping[str, np.ndarray]) -> Table:
    """Makes a table of groups of samples: the score on clean images, and the mean and largest drop in other cases.

    Samples of one class have the default score, which is their recall: no other one makes sense without other classes.
    """
    scoring = tested.fold.task.default_score if field == "class" else tested.fold.task.score
    rows: list[list[Cell]] = []
    cases = [CLEAN, *(case for case in tested.cases if case.name in tested.drops)]
    folds = [fold for of_member in tested.members.values() for fold in of_member]
    for value, indices in values.items():
        taken = [np.isin(outcomes.samples, indices) for _, outcomes in folds]
        present = [(fold, each) for fold, each in zip(folds, taken, strict=True) if each.any()]
        scores = [
            [out.score(name, tested.source(case), each, scoring) for case in cases] for (name, out), each in present
        ]
        clean, *others = np.average(scores, 0, [np.count_nonzero(each) for _, each in present])
        samples = [outcomes.samples[each] for (_, outcomes), each in zip(folds, taken, strict=True)]
        row: list[Cell] = [value, len(np.unique(np.concatenate(samples))), clean]
        worst = int(np.argmin(others)) if others else 0
        drops = (
            [clean - np.mean(others), *_largest(clean - others[worst], cases[1 + worst].name)] if others else [None] * 3
        )
        rows.append(row + drops)
    columns = [Column(field.replace("_", " ")), Column("samples")]
    columns += [Column(f"clean {scoring.name}", "points", SCORE)]
    columns += [Column("mean drop", "points", DROP), Column("largest drop", "points", DROP), Column("in")]
    return Table(f"By {field.replace('_', ' ')}", columns, rows)


def _by_class(tested: Measured) -> Table:
    """Makes a table of the score of each class: on clean images, and the mean and largest drop in other cases."""
    names, rows = list(tested.drops), list[list[Cell]]()
    task = tested.fold.task
    for class_name, score in task.class_scores.items():
        outcomes = {case.name: tested.outcomes(case, score) for case in [CLEAN, *tested.cases]}
        clean = outcomes[CLEAN.name]
        drops = {name: clean - outcomes[name] for name in names}
        row: list[Cell] = [class_name, statistics.bounded(clean, tested.about, score.bounds), None, None, None]
        if drops:
            worst = max(drops, key=lambda name: drops[name].mean())
            mean = statistics.bounded(np.mean([*drops.values()], 0), tested.about, score.drop_bounds)
            row[2:] = mean, *_largest(float(drops[worst].mean()), worst)
        rows.append(row)
    columns = [Column("class"), Column("clean IoU", "points", SCORE), Column("mean drop", "points", DROP)]
    columns += [Column("largest drop", "points", DROP), Column("in")]
    return Table("By class", columns, rows)


def _largest(drop: float, case: str) -> tuple[float, str | None]:
    """Returns the largest drop and its case, or no case if nothing is lost."""
    return drop, case if drop > 0 else None


def figure(tested: Sequence[Measured]) -> Figure:
    """Draws the drops of each run's or group's members in groups of cases and in camera states, with intervals."""
    rows: dict[str, list[Row]] = {}
    for each in tested:
        states = [case.name for case in each.cases if case.group == "sensor" and case.kind is None]
        drops = {**each.groups, **{name: each.drops[name] for name in states if name in each.drops}}
        found = each.intervals(drops)
        titles = {name: NAMES[name] for name in ("pipelines", "intensities", "exposures", "cameras")}
        titles |= {each.group: f"sensor: {each.group}" for each in QUANTITIES.values()}
        titles |= {name: f"sensor: {name}" for name in states}
        titles |= {name: f"corruptions: {name}" for name in ORDER}
        rows[each.label] = [
            Row(title, drops[name].mean(-1), found[name]) for name, title in titles.items() if name in found
        ]
    seeds = "a dot for each seed, " if any(len(each.members) > 1 for each in tested) else ""
    words = f"{seeds}a line at the mean, a bar for its 95% confidence interval"
    return dots(rows, f"drop in {tested[0].score_name}, points", f"Drops: {words}")


def _verdict(tested: Measured, clean: Interval, drops: Mapping[str, Interval]) -> list[str]:
    """States the score without drift, and for each kind of drift the mean loss and the significant losses."""
    guess = f"; chance: {round(100 / len(tested.fold.task.classes))}" if tested.score_name == "accuracy" else ""
    groups = tested.clean.shape[1]
    few = f" Intervals of only {groups} groups are uncertain." if statistics.are_few(tested.count, groups) else ""
    without = f"The {tested.score_name} without drift is {level(clean)} ({tested.fold.about.state}{guess})."
    sentences, words = [without + few], ("Loses", "Gains", "Shows no loss")
    for kind, under in _UNDER.items():
        if kind not in tested.groups:
            continue
        names = [case.name for case in tested.cases if case.group == kind and case.kind != "identity"]
        parts = {name: drops[name] for name in names if name in drops}
        if len(parts) == 1 and kind in ("intensities", "exposures"):
            under = f" at {in_words(next(iter(parts)))}"
        p_values = {name: statistics.p_value(tested.drops[name], tested.about) for name in parts}
        mean, ending = (" on average", f"; {single(parts, p_values)}") if len(parts) > 1 else ("", "")
        sentences.append(f"{change(drops[kind], words, under + mean)}{ending}.")
    return sentences


def _notes(
    tested: Measured,
    shares: Mapping[str, float] | None,
    needed: Mapping[str, int | None],
    ratio: statistics.Interval | None,
) -> list[str]:
    """Returns lines on the shares of the variance, the members needed, and the meaning of the intervals."""
    found = []
    if shares:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        counts = ", ".join(
            f"{f'{count} seeds' if count else 'more samples'} for {kind}" for kind, count in needed.items()
        )
        found.append(f"{tested.label}: variance of the drops: {parts}; needed for ±2 points: {counts}")
    if ratio:
        numbers = f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        found.append(f"{tested.label}: log ratio of the drops under corruptions and pipelines: {numbers}")
    return [*found, tested.stated]
