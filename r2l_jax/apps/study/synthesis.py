"""Collects drift synthesis: scores of twelve models under twelve pipelines and under corruptions, and their drops."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.apps.study.plan import trainings_of
from r2l_jax.apps.study.published import Orientation, Results, difference
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.search.measure import LEAST_DROP
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError

Numbers = dict[str, Any]

# The draws of the bootstrap, and the part of them that the interval holds.
_DRAWS, _INTERVAL = 10000, 0.95


class Scores(NamedTuple):
    """The scores of models that were each trained on the images of one pipeline.

    Attributes:
        names: the pipelines that models were trained with.
        processing: `(models, pipelines, folds)`, under each pipeline of `names`.
        corruption: `(models, corruptions, folds)`.
    """

    names: Sequence[str]
    processing: np.ndarray
    corruption: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """The scores on the models' own images, `(models, folds)`."""
        return np.diagonal(self.processing).T

    def drops(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean drops under the other pipelines and under the corruptions, each `(models, folds)`."""
        count = len(self.names)
        others = (self.processing.sum(1) - self.own) / max(count - 1, 1)
        return self.own - others, self.own - self.corruption.mean(1)


def collect(results: Results) -> Numbers:
    """Collects the matrices of scores and their headline, for every score of the task.

    Returns:
        For each score its `processing` and `corruption`, each with `rows`, `columns`, `mean` and `std`, and the drop
        from the models' own scores as `drop_mean` and `drop_std`; and its `headline`. The published score also has the
        `published` tables and headline, and if the data is the same, each matrix and the headline have the `difference`
        to them in standard deviations of the folds.

    Raises:
        InputError: an evaluation cannot be read.
    """
    config, task = results.config, results.task
    done = {job.config.output_dir for job in results.jobs if isinstance(job.config, EvaluationConfig)}
    evaluations = {
        name: config.evaluation_of(training).output_dir for name, training in trainings_of(config, "synthesis").items()
    }
    runs = {name: _folds(folder / "evaluation.json") for name, folder in evaluations.items() if folder in done}
    names = {name: config.pipelines[name] for name in runs}
    corruptions = {
        name: [f"{name}.{severity}" for severity in config.choice.severities] for name in config.choice.corruptions
    }
    content: Numbers = {"computed": names, "severities": list(config.choice.severities), "scores": {}}
    if not runs:
        return content
    for score in (task.score, *task.metrics):
        processing = _table(runs, {name: [case] for name, case in names.items()}, score)
        scores = Scores(list(names), processing, _table(runs, corruptions, score))
        content["scores"][score] = _described(scores, list(corruptions))
    _compare(content["scores"][results.theirs.score], results.theirs)
    return content


def _folds(file: pathlib.Path) -> list[dict[str, Numbers]]:
    """Reads the numbers of each fold of the only run of an evaluation, by case."""
    try:
        (run,) = json.loads(file.read_text())["runs"].values()
        return list(run["folds"].values())
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{file} cannot be read ({error}): remove it, and the same command evaluates anew") from None


def _table(runs: Mapping[str, list[dict[str, Numbers]]], columns: Mapping[str, list[str]], score: str) -> np.ndarray:
    """Returns the scores `(runs, columns, folds)`, each the mean over the cases of its column."""
    return np.array(
        [
            [[np.mean([fold[case][score] for case in cases]) for fold in folds] for cases in columns.values()]
            for folds in runs.values()
        ]
    )


def _described(scores: Scores, corruptions: list[str]) -> Numbers:
    """Returns the matrices of scores and the headline."""
    return {
        "processing": _matrix(scores, scores.processing, list(scores.names)),
        "corruption": _matrix(scores, scores.corruption, corruptions),
        "headline": headline(scores),
    }


def _matrix(scores: Scores, values: np.ndarray, columns: list[str]) -> Numbers:
    drops = scores.own[:, None] - values
    return {
        "rows": list(scores.names),
        "columns": columns,
        "mean": values.mean(-1).tolist(),
        "std": values.std(-1).tolist(),
        "drop_mean": drops.mean(-1).tolist(),
        "drop_std": drops.std(-1).tolist(),
    }


def headline(scores: Scores) -> Numbers:
    """Computes the mean scores and drops of all models, and the ratio of the drops.

    Returns:
        `own`, `other_pipelines`, `corruption`, `processing_drop` and `corruption_drop`, each with `mean` and the `std`
        over the folds; `ratio`, the drop under corruption over that under other pipelines, None if the latter is too
        small to divide by; `interval`, the bounds that hold 95% of the ratios of bootstrap samples of the models and
        the folds, None where a bound is not finite; and `largest_column`: the pipeline under which the models lose
        most, its `share` of the drops under other pipelines, and the `ratio` without that column.
    """
    processing, corruption = scores.drops()
    of_folds = {
        "own": scores.own,
        "other_pipelines": scores.own - processing,
        "corruption": scores.own - corruption,
        "processing_drop": processing,
        "corruption_drop": corruption,
    }
    means = {name: value.mean(0) for name, value in of_folds.items()}
    return {
        **{name: {"mean": float(value.mean()), "std": float(value.std())} for name, value in means.items()},
        "ratio": _ratio(processing.mean(), corruption.mean()),
        "interval": _interval(processing, corruption),
        "largest_column": _largest_column(scores),
    }


def _ratio(processing: float, corruption: float) -> float | None:
    return float(corruption / processing) if processing >= LEAST_DROP else None


def _interval(processing: np.ndarray, corruption: np.ndarray) -> list[float | None]:
    """Returns the bounds of the ratio over bootstrap samples of models and folds, `(models, folds)`."""
    rng = np.random.default_rng(0)
    models, folds = (rng.integers(size, size=(_DRAWS, size)) for size in processing.shape)
    drawn = (models[:, :, None], folds[:, None, :])
    drops, damage = (values[drawn].mean((1, 2)) for values in (processing, corruption))
    # Where pipelines cost nothing, corruptions cost more than any multiple of it.
    ratios = np.where(drops > 0, damage / np.where(drops > 0, drops, 1), np.inf)
    tail = (1 - _INTERVAL) / 2
    bounds = (np.quantile(ratios, share, method="nearest") for share in (tail, 1 - tail))
    return [float(bound) if np.isfinite(bound) else None for bound in bounds]


def _largest_column(scores: Scores) -> Numbers | None:
    """Describes the pipeline under which models lose most; None with less than three pipelines."""
    if len(scores.names) < 3:
        return None
    of_cells = (scores.own[:, None] - scores.processing).mean(-1)
    columns = of_cells.sum(0)
    worst, total = int(columns.argmax()), columns.sum()
    rest = total - columns[worst]
    count = len(scores.names)
    _, corruption = scores.drops()
    return {
        "pipeline": scores.names[worst],
        "share": float(columns[worst] / total) if total > 0 else None,
        "ratio": _ratio(rest / (count - 1) ** 2, corruption.mean()),
    }


def published_scores(theirs: Orientation) -> Scores:
    """Returns the published scores as one fold, without the column of the corruption that changes nothing."""
    tables = theirs.tables
    processing, corruption = (np.array(values)[..., None] for values in (tables.processing_drift, tables.corruption))
    return Scores(theirs.study.pipelines, processing, corruption[:, 1:])


def _compare(content: Numbers, theirs: Orientation) -> None:
    """Adds the published numbers, and the differences to them in standard deviations of the folds."""
    content["published"] = published = _described(published_scores(theirs), theirs.study.corruptions[1:])
    if not theirs.comparable:
        return
    for name in ("processing", "corruption"):
        content[name]["difference"] = _differences(content[name], published[name])
    for name, numbers in content["headline"].items():
        if isinstance(numbers, dict) and "mean" in numbers:
            numbers["difference"] = difference(numbers["mean"], numbers["std"], published["headline"][name]["mean"])


def _differences(ours: Numbers, theirs: Numbers) -> list[list[float | None]]:
    """Returns the difference of each cell in standard deviations of the folds; None where nothing is published."""
    published = {
        (row, column): value
        for row, values in zip(theirs["rows"], theirs["mean"], strict=True)
        for column, value in zip(theirs["columns"], values, strict=True)
    }
    return [
        [
            difference(mean, deviation, published.get((row, column)))
            for column, mean, deviation in zip(ours["columns"], means, deviations, strict=True)
        ]
        for row, means, deviations in zip(ours["rows"], ours["mean"], ours["std"], strict=True)
    ]


def lines(content: Numbers) -> list[str]:
    """Returns the headline in words, for the terminal."""
    said = []
    for score, of_score in content.get("synthesis", {}).get("scores", {}).items():
        numbers = of_score["headline"]
        means = {name: numbers[name]["mean"] for name in ("own", "other_pipelines", "corruption")}
        said.append(
            f"synthesis: {score} {means[OWN.name]:.3f} on own images, {means['other_pipelines']:.3f} under other "
            f"pipelines, {means['corruption']:.3f} under corruptions; ratio of the drops {ratio_text(numbers)}"
        )
    return said


def ratio_text(numbers: Numbers) -> str:
    """Formats the ratio of the drops with its interval."""
    if numbers["ratio"] is None:
        return "not defined, since other pipelines cost nothing"
    low, high = ("unbounded" if bound is None else f"{bound:.1f}" for bound in numbers["interval"])
    return f"{numbers['ratio']:.1f} ({low} to {high})"
