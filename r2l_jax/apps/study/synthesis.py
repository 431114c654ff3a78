"""Collects drift synthesis: scores of twelve models under twelve pipelines and other drifts, and their drops."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.apps.study.plan import trainings_of
from r2l_jax.apps.study.published import Orientation, Results, difference
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.search.measure import LEAST_DROP
from r2l_jax.drift.statistics import CONFIDENCE
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError

Numbers = dict[str, Any]

# The draws of the bootstrap.
_DRAWS = 10000


class Scores(NamedTuple):
    """The scores of models that were each trained on the images of one pipeline.

    Attributes:
        names: the pipelines that models were trained with.
        processing: `(models, pipelines, folds)`, under each pipeline of `names`.
        corruption: `(models, corruptions, folds)`.
        sensor: `(models, kinds, folds)`; None without sensor drifts.
    """

    names: Sequence[str]
    processing: np.ndarray
    corruption: np.ndarray
    sensor: np.ndarray | None = None

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
        For each score its `processing`, `corruption` and, if asked for, `sensor`, each with `rows`, `columns`, `mean`
        and `std`, and the drop from the models' own scores as `drop_mean` and `drop_std`; and its `headline`. The
        published score also has the `published` tables and headline, and if the data is the same, each matrix and the
        headline have the `difference` to them in standard deviations of the folds.

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

    def columns(kinds: Sequence[str]) -> dict[str, list[str]]:
        return {kind: [f"{kind}.{severity}" for severity in config.choice.severities] for kind in kinds}

    corruptions, sensor = columns(config.choice.corruptions), columns(config.choice.sensor)
    content: Numbers = {"computed": names, "severities": list(config.choice.severities), "scores": {}}
    if not runs:
        return content
    for score in (task.score, *task.metrics):
        processing = _table(runs, {name: [case] for name, case in names.items()}, score)
        drifted = _table(runs, sensor, score) if sensor else None
        scores = Scores(list(names), processing, _table(runs, corruptions, score), drifted)
        content["scores"][score] = _described(scores, list(corruptions), list(sensor))
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


def _described(scores: Scores, corruptions: list[str], sensor: Sequence[str] = ()) -> Numbers:
    """Returns the matrices of scores and the headline."""
    drifted = {} if scores.sensor is None else {"sensor": _matrix(scores, scores.sensor, list(sensor))}
    return {
        "processing": _matrix(scores, scores.processing, list(scores.names)),
        "corruption": _matrix(scores, scores.corruption, corruptions),
        **drifted,
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
    """Computes the mean scores and drops of all models, and the logarithm of the ratio of the drops.

    Returns:
        `own`, `other_pipelines`, `corruption`, `processing_drop` and `corruption_drop`, and with sensor drifts
        `sensor` and `sensor_drop`, each with `mean` and the `std` over the folds; `log_ratio`, see `_log_ratio`; and
        `largest_column`: the pipeline under which the models lose most, its `share` of the drops under other pipelines,
        and the `log_ratio` without that column.
    """
    processing, corruption = scores.drops()
    of_folds = {
        "own": scores.own,
        "other_pipelines": scores.own - processing,
        "corruption": scores.own - corruption,
        "processing_drop": processing,
        "corruption_drop": corruption,
    }
    if scores.sensor is not None:
        drifted = scores.sensor.mean(1)
        of_folds |= {"sensor": drifted, "sensor_drop": scores.own - drifted}
    means = {name: value.mean(0) for name, value in of_folds.items()}
    return {
        **{name: {"mean": float(value.mean()), "std": float(value.std())} for name, value in means.items()},
        "log_ratio": _log_ratio(processing, corruption),
        "largest_column": _largest_column(scores),
    }


def _log_ratio(processing: np.ndarray, corruption: np.ndarray) -> Numbers | None:
    """Estimates the logarithm of the drop under corruption over that under other pipelines, `(models, folds)` each.

    Returns:
        The `estimate`, and `low` and `high`, between which are 95% of bootstrap samples of the models and the folds.
        None if the same interval of one of the drops holds 0.
    """
    rng = np.random.default_rng(0)
    models, folds = (rng.integers(size, size=(_DRAWS, size)) for size in processing.shape)
    drawn = (models[:, :, None], folds[:, None, :])
    drops = np.array([values[drawn].mean((1, 2)) for values in (processing, corruption)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drops, [tail, 1 - tail], axis=1, method="nearest")
    if processing.mean() < LEAST_DROP or low.min() <= 0:
        return None
    # Draws outside of that interval, which are not positive, are beyond the ends in any case.
    positive = np.maximum(drops, np.finfo(float).tiny)
    low, high = np.quantile(np.log(positive[1] / positive[0]), [tail, 1 - tail], method="nearest")
    return {"estimate": float(np.log(corruption.mean() / processing.mean())), "low": float(low), "high": float(high)}


def _largest_column(scores: Scores) -> Numbers | None:
    """Describes the pipeline under which models lose most; None with fewer than three pipelines."""
    if len(scores.names) < 3:
        return None
    of_cells = (scores.own[:, None] - scores.processing).mean(-1)
    columns = of_cells.sum(0)
    worst, total = int(columns.argmax()), columns.sum()
    count = len(scores.names)
    # Each model has drops in the other columns but its own.
    cells = count - 2 + (np.arange(count) == worst)[:, None]
    others = np.delete(scores.own[:, None] - scores.processing, worst, 1).sum(1) / cells
    _, corruption = scores.drops()
    return {
        "pipeline": scores.names[worst],
        "share": float(columns[worst] / total) if total > 0 else None,
        "log_ratio": _log_ratio(others, corruption),
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
        if isinstance(numbers, dict) and "mean" in numbers and name in published["headline"]:
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
            f"pipelines, {means['corruption']:.3f} under corruptions; log ratio of the drops "
            f"{ratio_text(numbers['log_ratio'])}"
        )
    return said


def ratio_text(ratio: Numbers | None) -> str:
    """Formats the logarithm of the ratio of the drops with its interval."""
    if ratio is None:
        return "left out, since a drop may be 0"
    return f"{ratio['estimate']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
