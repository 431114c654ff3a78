"""The figure of groups of trainings: a row for each kind of drift, with a dot for each training at its score."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import markupsafe
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r2l_jax.apps.report.charts import COLORS, element
from r2l_jax.apps.report.document import Drawing
from r2l_jax.apps.report.runs import RunRecord
from r2l_jax.drift import sensor
from r2l_jax.drift.cases import GROUPS, OWN
from r2l_jax.drift.corruptions.declare import ORDER
from r2l_jax.drift.results import Adaptation, Test, WorstCases, worst
from r2l_jax.drift.statistics import points

# Shares of the light in words.
_SHARES = {0.01: "a hundredth", 0.05: "a twentieth", 0.1: "a tenth", 0.25: "a quarter", 0.5: "half"}


class Row(NamedTuple):
    """A row of the figure: its title, and the score of each training."""

    title: str
    scores: list[float]


def make_rows(group: RunRecord, members: Sequence[RunRecord]) -> list[Row]:
    """Collects the rows for which there are results.

    These are the own images, the mean of the other pipelines, the mean of each group of sensor drifts and of
    corruptions, the worst black level that a search has found (or the worst processing, if none was searched for by
    itself), and a low intensity before and after adjustment: the lowest that the group was adjusted to, or else the
    lowest tested.

    Args:
        group: the record of the group.
        members: the records of its trainings.
    """
    tests = _tests(group)
    pipelines = _cases(tests, lambda name, test: test.group == "pipelines")
    rows = [
        _mean_row("own images", tests, [OWN.name]),
        _mean_row(f"other pipelines (mean of {len(pipelines)})", tests, pipelines),
    ]
    for drift, groups in {"sensor": sensor.ORDER, "corruptions": ORDER}.items():
        for kind in groups:
            of_kind = _cases(tests, lambda name, _, kind=kind: GROUPS.get(name.rpartition(".")[0]) == kind)
            rows.append(_mean_row(f"{drift}: {kind}", tests, of_kind))
    rows += [_worst_row(members), *_intensity_rows(tests, group.adaptation)]
    return [row for row in rows if row.scores]


def _tests(group: RunRecord) -> list[dict[str, Test]]:
    """Returns the numbers of each training by case, without the cases that equal its own images."""
    if not group.evaluation:
        return []
    where = group.folder / "evaluation" / "evaluation.json"
    return [
        {name: test for name, test in group.evaluation.tests(label, where).items() if name not in run.own}
        for label, run in group.evaluation.runs.items()
    ]


def _cases(tests: Sequence[dict[str, Test]], is_shown: Callable[[str, Test], bool]) -> list[str]:
    """Returns the names of some cases, which are the same for all trainings."""
    return [name for name, test in tests[0].items() if is_shown(name, test)] if tests else []


def _mean_row(title: str, tests: Sequence[dict[str, Test]], names: Sequence[str]) -> Row:
    return Row(title, [float(np.mean([each[name].score.mean for name in names])) for each in tests] if names else [])


def _worst_row(members: Sequence[RunRecord]) -> Row:
    """Makes the row of the lowest scores that searches have found."""
    found: list[list[WorstCases]] = [
        [each.found["worst_case"] for each in member.analyses if "worst_case" in each.found] for member in members
    ]
    found = [of_member for of_member in found if of_member]
    if all("black_level" in worst(each.rows) for of_member in found for each in of_member):
        lowest = [[worst(each.rows)["black_level"].score for each in of_member] for of_member in found]
        return Row("worst black level", [float(np.mean(scores)) for scores in lowest])
    lowest = [[min(row.score for row in each.rows) for each in of_member] for of_member in found]
    return Row("worst processing", [float(np.mean(scores)) for scores in lowest])


def _intensity_rows(tests: Sequence[dict[str, Test]], adaptation: Adaptation | None) -> list[Row]:
    """Makes the rows of an intensity, without and with adjustment."""
    drifts = {name: drift for name, drift in (adaptation.drifts.items() if adaptation else ()) if _share(name)}
    names = list(drifts) or _cases(tests, lambda name, test: test.group == "intensities")
    if not names:
        return []
    name = min(names, key=_share)
    title = f"{_SHARES.get(_share(name), f'{_share(name):g}')} of the light"
    if name not in drifts:
        return [_mean_row(title, tests, [name])]
    drift = drifts[name]
    before, after = ([score for score in each.folds if score is not None] for each in (drift.before, drift.after))
    return [Row(title, before), Row(f"{title}, adjusted", after)]


def _share(name: str) -> float:
    """Returns the share of the light in the name of a case, such as "iso=0.05"; 0 for other cases."""
    return float(name.removeprefix("iso=")) if name.startswith("iso=") else 0.0


def make_png(groups: Mapping[str, Sequence[Row]], score: str, chance: float | None) -> bytes:
    """Draws the figure as a PNG file of 1800 pixels in width; ten rows of one group are 1000 pixels high.

    Args:
        groups: the rows of each group, from the top.
        score: the name of the score.
        chance: the score of a guess, where there is a dashed line; None without one.
    """
    lines = len(_titles(groups)) * (1 + len(groups)) / 2
    figure = Figure(figsize=(9, 1 + 0.4 * lines + 0.3 * (len(groups) > 1)), layout="constrained")
    draw(figure.subplots(), groups, score, chance)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200)
    return stream.getvalue()


def make_drawing(rows: Sequence[Row], score: str, chance: float | None) -> Drawing:
    """Draws the rows of one group in the colors of a page, for wide pages and for narrow ones."""

    def drawn(width: int, row: int, is_narrow: bool) -> markupsafe.Markup:
        height = 60 + row * len(rows)
        stream = io.StringIO()
        # Text in plain black would not be in a color of the page.
        colors = dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), COLORS[8])
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": score, **colors}):
            figure = Figure(figsize=(width / 72, height / 72), layout="constrained", frameon=False)
            axes = figure.subplots()
            axes.set_facecolor("none")
            draw(axes, {"": rows}, score, chance, is_narrow)
            figure.savefig(stream, format="svg", metadata={"Date": None})
        return element(stream.getvalue(), width, height, alternative(rows, score))

    return Drawing(drawn(720, 28, False), drawn(360, 42, True))


def draw(
    axes: Axes, groups: Mapping[str, Sequence[Row]], score: str, chance: float | None, is_narrow: bool = False
) -> None:
    """Draws rows of dots, with a bar at each median, into the axes of a figure; groups differ in color.

    Where a group has no results for a row of another one, its place stays empty. A narrow figure has the titles of its
    rows above the dots rather than beside them.
    """
    titles, share = _titles(groups), 1 / len(groups)
    for number, (name, rows) in enumerate(groups.items()):
        for title, fractions in rows:
            scores = [100 * each for each in fractions]
            place = titles.index(title) + (number + 0.5) * share - 0.5
            # Trainings have their places within a row, so that equal scores stay apart.
            place += 0.15 * is_narrow
            places = place + share * np.linspace(-0.2, 0.2, len(scores)) if len(scores) > 1 else [place]
            label = name if title == rows[0].title else None
            style = {"alpha": 0.7, "markersize": 7, "markeredgewidth": 0, "clip_on": False}
            axes.plot(scores, places, "o", color=COLORS[number % 7], label=label, **style)
            ends = [place - 0.32 * share, place + 0.32 * share]
            axes.plot([np.median(scores)] * 2, ends, color=COLORS[8], linewidth=2.5)
            axes.annotate(
                points(float(np.median(fractions))),
                (1.015, place),
                xycoords=("axes fraction", "data"),
                color=COLORS[7] if len(groups) == 1 else COLORS[number % 7],
                verticalalignment="center",
                annotation_clip=False,
            )
    if chance is not None:
        # In a narrow figure, it does not cross the titles above the dots.
        spans = [(1 - (place + share) / len(titles)) for place in range(len(titles)) for share in (0.95, 0.5)]
        for low, high in zip(spans[::2], spans[1::2], strict=True) if is_narrow else [(0.0, 1.0)]:
            axes.axvline(100 * chance, low, high, color=COLORS[7], linestyle="dashed", linewidth=1.5)
        axes.annotate("chance", (100 * chance, -0.5), (0, 3), textcoords="offset points", color=COLORS[7], ha="center")
    axes.set_yticks(range(len(titles)), [""] * len(titles) if is_narrow else titles, fontsize=12)
    for place, title in enumerate(titles if is_narrow else ()):
        axes.annotate(title, (0, place - 0.18), (2, 0), textcoords="offset points", fontsize=12)
    axes.set(xlim=(0, 100), ylim=(len(titles) - 0.5, -0.5), axisbelow=True)
    trainings = max(len(row.scores) for rows in groups.values() for row in rows)
    words = f"{score}, points: a dot for each of {trainings} trainings,", "a bar and a number at their median"
    axes.set_xlabel(("\n" if is_narrow else " ").join(words), fontsize=11)
    # Lines through the rows of one group, and between the rows that several share.
    axes.grid(axis="both" if len(groups) == 1 else "x", color="#dce1e7")
    for place in range(1, len(titles)) if len(groups) > 1 else ():
        axes.axhline(place - 0.5, color="#dce1e7", linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(groups) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(groups), frameon=False, fontsize=11)


def _titles(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the titles of all rows in order: the order of the group that has most of them."""
    fullest = max(groups.values(), key=len)
    titles = dict.fromkeys(row.title for rows in (fullest, *groups.values()) for row in rows)
    return list(titles)


def alternative(rows: Sequence[Row], score: str) -> str:
    """Returns the text in place of the figure: the median and the range of each row."""
    parts = [
        f"{title} {points(float(np.median(scores)))} ({points(min(scores))} to {points(max(scores))})"
        for title, scores in rows
    ]
    return f"Median {score} of the trainings in points, and their range: {'; '.join(parts)}."
