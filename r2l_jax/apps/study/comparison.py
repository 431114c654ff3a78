"""Compares the results of a study with the published numbers, for each control."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import PIPELINES
from r2l_jax.apps.study.published import Published
from r2l_jax.cli.flags import flat
from r2l_jax.config import TrainConfig
from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import by_member, over_folds, unpacked_blocks
from r2l_jax.errors import InputError
from r2l_jax.model.scores import MeanIou
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import DROP, SCORE, Cell, Column, Figure, Result, Table, read
from r2l_jax.training.plan import Batches
from r2l_jax.training.record import read_record

# The runs of a control whose jobs have succeeded, by name.
Runs = Mapping[str, TrainConfig]

# The positions of a curve, and its scores, `(folds, positions)` or the published `(positions,)`.
Curve = tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """The scores on each group of samples of models that were each trained on one pipeline's images.

    The study published only means over the samples, so each published mean counts as one group.

    Attributes:
        pipelines: the pipelines that models were trained with, and tested under.
        corruptions: the corruptions.
        processing: the scores under each pipeline.
        corruption: the scores under each corruption.
    """

    pipelines: Sequence[str]
    corruptions: Sequence[str]
    processing: Float[np.ndarray, "models pipelines groups"]
    corruption: Float[np.ndarray, "models corruptions groups"]

    @property
    def clean(self) -> Float[np.ndarray, "models samples"]:
        """The scores on the models' clean images."""
        return np.diagonal(self.processing).T

    @property
    def matrices(self) -> dict[str, tuple[Sequence[str], np.ndarray]]:
        """The columns and the means over the samples of both tables."""
        return {
            "processing": (self.pipelines, self.processing.mean(-1)),
            "corruption": (self.corruptions, self.corruption.mean(-1)),
        }

    def others(self, left_out: int | None = None) -> Float[np.ndarray, "models samples"]:
        """Computes the mean scores under the other pipelines, of which one may be left out."""
        taken = ~np.eye(len(self.pipelines), dtype=bool)
        if left_out is not None:
            taken[:, left_out] = False
        return (self.processing * taken[..., None]).sum(1) / taken.sum(1)[:, None]


def synthesis(config: StudyConfig, theirs: Published, runs: Runs) -> Result:
    """Compares the scores of models under each other's pipelines and under corruptions.

    Raises:
        InputError: an evaluation cannot be read.
    """
    ours, same = _scores(config, runs), theirs.is_of(config.data.dataset)
    published = Scores(
        theirs.pipelines, theirs.corruptions[1:], theirs.processing[..., None], theirs.corruption[:, 1:, None]
    )
    tables, figures = {"headline": _headline(ours, published, same), "log_ratio": _log_ratios(ours, published)}, {}
    for whose, scores in (("ours", ours), ("published", published)):
        for kind, (columns, values) in scores.matrices.items():
            name, title = f"{kind}_{whose}", f"Score under {kind}, {whose}"
            tables[name] = _matrix(title, scores.pipelines, columns, values)
            figures[name] = _heat_map(title, scores.pipelines, columns, values)
    for kind, (columns, values) in ours.matrices.items():
        drops = ours.clean.mean(-1)[:, None] - values
        tables[f"{kind}_drops"] = _matrix(f"Drop under {kind}", ours.pipelines, columns, drops, DROP)
        if same:
            difference = values - _aligned(published, kind, ours.pipelines, columns)
            title = f"Score under {kind}, ours minus published"
            tables[f"{kind}_differences"] = _matrix(title, ours.pipelines, columns, difference, DROP)
    notes = [
        "Rows are the pipelines that models were trained with. As in the study's program, unsharp_masking blurs along "
        "columns only.",
        "95% confidence intervals cover other models and samples; for the published numbers, only other models. Log "
        "ratios are natural logarithms, and left out if the interval of the drop under other pipelines includes 0.",
    ]
    return Result(_metadata("Drift synthesis", config, theirs, _verdict(tables["log_ratio"]), notes), tables, figures)


def _metadata(
    title: str, config: StudyConfig, theirs: Published, verdict: Sequence[str] = (), notes: Sequence[str] = ()
) -> dict[str, Any]:
    about = {"title": title, "score": theirs.recorded, "flags": flat(config), "verdict": verdict}
    return {**about, "notes": [*notes, theirs.note(config.data.dataset)]}


def _scores(config: StudyConfig, runs: Runs) -> Scores:
    kinds, severities = config.choice.corruptions, config.choice.severities
    samples = {name: _samples(run) for name, run in runs.items()}
    processing = [
        [cases[CLEAN.name if name == trained else PIPELINES[name]] for name in samples]
        for trained, cases in samples.items()
    ]
    corruption = [
        [np.mean([cases[f"{kind}.{each}"] for each in severities], 0) for kind in kinds] for cases in samples.values()
    ]
    return Scores(list(runs), kinds, np.array(processing), np.array(corruption))


def _samples(run: TrainConfig) -> dict[str, np.ndarray]:
    """Returns, for each case, numbers of groups of samples whose mean is the mean score of samples (`over_folds`)."""
    found = dict[str, np.ndarray]()
    for group in (CLEAN.group, "pipelines", "corruptions"):
        blocks = unpacked_blocks(_read(run.run_dir / "evaluation" / group).outcomes)
        (folds,) = by_member(blocks).values()
        scoring = MeanIou("tile_iou") if "confusion" in blocks[0].arrays else None
        found |= {case: over_folds(folds, case, scoring) for case in blocks[0].cases}
    return found


def _drawn(values: np.ndarray) -> tuple[np.ndarray, statistics.About]:
    """Returns the arguments of `statistics.interval`; if only means are known, models take the place of samples."""
    return (values.T, "model") if values.shape[1] == 1 else (values, "recipe")


def _cell(interval: statistics.Interval) -> tuple[float, float, float]:
    return float(interval.estimate), float(interval.low), float(interval.high)


def _headline(ours: Scores, published: Scores, same: bool) -> Table:
    """Makes a table of the mean scores and drops of all models."""
    rows = []
    for whose, scores in (("ours", ours), ("published", published)):
        clean, others, corrupted = scores.clean, scores.others(), scores.corruption.mean(1)
        values = clean, others, corrupted, clean - others, clean - corrupted
        rows.append([whose, *(_cell(statistics.interval(*_drawn(each))) for each in values)])
    if same:
        difference = np.array(rows[0][1:]) - np.array(rows[1][1:])[:, :1]
        rows.append(["ours minus published", *map(tuple, difference.tolist())])
    scores = [Column(name, format=SCORE) for name in ("clean images", "other pipelines", "corruptions")]
    drops = [Column(f"drop under {each.name}", format=DROP) for each in scores[1:]]
    return Table("Mean scores and drops of all models", [Column("models"), *scores, *drops], rows)


def _log_ratios(ours: Scores, published: Scores) -> Table:
    """Makes a table of the log ratio of the drops, with and without the pipeline under which models lose most."""
    rows = []
    for whose, scores in (("ours", ours), ("published", published)):
        row: list[Cell] = [whose]
        corruption = scores.clean - scores.corruption.mean(1)
        lost = (scores.clean[:, None] - scores.processing).mean(-1).sum(0)
        worst = int(lost.argmax())
        for left_out in (None, worst):
            numerator, about = _drawn(corruption)
            denominator, _ = _drawn(scores.clean - scores.others(left_out))
            ratio = statistics.log_ratio(numerator, denominator, about)
            row.append(ratio and _cell(ratio))
        rows.append([*row, scores.pipelines[worst], lost[worst] / lost.sum() if lost.sum() > 0 else None])
    columns = [
        Column("models"),
        Column("log ratio", format=".2f"),
        Column("without the worst pipeline", format=".2f"),
        Column("worst pipeline"),
        Column("its share of all drops under pipelines", format=".0%"),
    ]
    return Table("Log ratio of the drops under corruptions and under other pipelines", columns, rows)


def _verdict(log_ratios: Table) -> list[str]:
    ours, published = (log_ratios.columns[1].text(row[1]) for row in log_ratios.rows)
    return [f"The log ratio of the drops under corruptions and other pipelines is {ours}; published: {published}."]


def _matrix(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, format: str = SCORE) -> Table:
    cells = [[row, *of_row] for row, of_row in zip(rows, values.tolist(), strict=True)]
    return Table(title, [Column("trained with"), *(Column(name, format=format) for name in columns)], cells)


def _aligned(scores: Scores, kind: str, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Returns the values of a table in the order of other rows and columns, NaN where it has none."""
    known, values = scores.matrices[kind]
    by_name = {
        (row, column): value
        for row, of_row in zip(scores.pipelines, values, strict=True)
        for column, value in zip(known, of_row, strict=True)
    }
    return np.array([[by_name.get((row, column), np.nan) for column in columns] for row in rows])


def _heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> Figure:
    framed = [(row, columns.index(name)) for row, name in enumerate(rows) if name in columns]
    return heat_map(
        values, rows, columns, label="score", row_title="trained with", column_title="tested with", framed=framed,
        number=".2f", caption=title,
    )  # fmt: skip


def forensics(config: StudyConfig, theirs: Published, runs: Runs) -> Result:
    """Compares the scores in the worst cases over the weight of the distance.

    Raises:
        InputError: a result cannot be read.
    """
    (run,) = runs.values()
    folds = [_worst_cases(run, fold) for fold in range(config.data.n_splits)]
    weights = np.sort(config.choice.adv_aux_weight)[::-1]
    default = np.array([content["default"] for content in folds])
    same = theirs.is_of(config.data.dataset) and theirs.data == theirs.searched
    curves = {"default": (weights, np.repeat(default[:, None], len(weights), 1))}
    rows = [_row("default", default, theirs.default, same)]
    for group in config.choice.adv_parameters:
        known, scores = theirs.worst.get(group, {}), []
        for weight in weights:
            scores.append([content[f"{group}, weight {weight:g}"] for content in folds])
            rows.append(_row(f"{group} at {weight:g}", scores[-1], known.get(weight), same))
        curves[group] = weights, np.array(scores).T
    published = {group: (np.array([*curve]), np.array([*curve.values()])) for group, curve in theirs.worst.items()}

    def draw(axes: Axes) -> None:
        _draw_curves(axes, curves, published)
        axes.set(xscale="log", xlabel="weight of the distance (l2_sum)", ylabel=f"validation {theirs.recorded}")
        # As published, the weight falls from left to right.
        axes.invert_xaxis()

    caption = "Worst cases: a smaller weight lets a search move farther from the default rendering."
    return Result(
        _metadata("Drift forensics", config, theirs),
        {"worst_cases": _table("Scores in the worst cases", "group and weight of the distance", rows)},
        {"worst_cases": Figure(draw, (7.0, 4.5), caption)},
    )


def adjustment(config: StudyConfig, theirs: Published, runs: Runs) -> Result:
    """Compares the validation scores of learned and of frozen processing at low intensity, over the steps.

    Raises:
        InputError: a run cannot be read.
    """
    name, rows, curves, published = f"val_{theirs.recorded}", [], {}, {}
    for processing, run in runs.items():
        records = [
            read_record(run.run_dir / f"fold_{fold}" / "metrics.json", "repeat the command to train it again")
            for fold in range(config.data.n_splits)
        ]
        updates = Batches.of(len(records[0].train_indices), run.optimization.batch_size).per_epoch
        steps = np.array([(row["epoch"] + 1) * updates for row in records[0].history if name in row])
        scores = np.array([[row[name] for row in record.history if name in row] for record in records])
        rows.append(_row(processing, scores[:, -1], theirs.ends[processing], theirs.is_of(config.data.dataset)))
        curves[processing] = steps, scores
        published[processing] = steps, np.full(len(steps), theirs.ends[processing])

    def draw(axes: Axes) -> None:
        _draw_curves(axes, curves, published)
        axes.set(xlabel="step", ylabel=f"validation {theirs.recorded}")

    caption = f"Learned and frozen processing at intensity {config.choice.low_intensity:g}, during training."
    return Result(
        _metadata("Drift adjustment", config, theirs),
        {"ends": _table("Scores after the last epoch", "processing", rows)},
        {"curves": Figure(draw, caption=caption)},
    )


def _row(title: str, of_folds: np.ndarray | Sequence[float], published: float | None, same: bool) -> list[Cell]:
    """Makes a row: the mean over the folds with the lowest and highest, the published score, and the difference."""
    values = np.asarray(of_folds)
    mean = values.mean().item()
    ours = (mean, values.min().item(), values.max().item()) if len(values) > 1 else mean
    return [title, ours, published, None if published is None or not same else mean - published]


def _table(title: str, first: str, rows: Sequence[Sequence[Cell]]) -> Table:
    columns = [Column(first), Column("ours", format=SCORE), Column("published", format=SCORE)]
    note = "Ours: mean over the folds (lowest to highest)."
    return Table(title, [*columns, Column("ours minus published", format=DROP)], rows, note)


def _draw_curves(axes: Axes, ours: Mapping[str, Curve], published: Mapping[str, Curve]) -> None:
    """Draws a line of means, a thin one for each fold, and a dashed one of published scores."""
    colors = {name: f"C{number}" for number, name in enumerate(dict.fromkeys([*ours, *published]))}
    for name, (places, scores) in ours.items():
        axes.plot(places, np.mean(scores, 0), ".-", color=colors[name], label=name.replace("_", " "))
        axes.plot(places, np.transpose(scores), color=colors[name], alpha=0.4, linewidth=0.7)
    for name, (places, scores) in published.items():
        label = f"{name.replace('_', ' ')}, published"
        axes.plot(places, scores, "--", color=colors[name], linewidth=1, alpha=0.7, label=label)
    axes.grid(alpha=0.3)
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)


def _worst_cases(run: TrainConfig, fold: int) -> dict[str, float]:
    """Returns the scores of a fold with the default processing and in each worst case."""
    found = _read(run.run_dir / "forensics" / f"fold_{fold}" / "worst_case")
    table = found.tables["worst_case"]
    return {"default": found.metadata["score"], **table.numbers(table.columns[1].name)}


def _read(folder: pathlib.Path) -> Result:
    if (found := read(folder)) is None:
        raise InputError(f"{folder} holds no result: repeat the command to compute it")
    return found
