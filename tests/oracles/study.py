"""The numbers of a study from the outcome files of its runs, after docs/study.md and docs/confidence.md."""

import json

import numpy as np
import safetensors
from oracles import scores


def by_group(folder):
    """For each case, a number for each group of the samples of all folds, whose mean is the score.

    The number of a class is 1 if it is right, else 0. That of a mask is its intersection over union with the object, or
    1 if both are empty. A sample on which several splits validate counts once.
    """
    outcomes, samples, groups = {}, [], []
    with safetensors.safe_open(folder / "outcomes.safetensors", "numpy") as file:
        for number, about in sorted(file.metadata().items()):
            arrays = {
                name.removeprefix(f"{number}/"): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(f"{number}/")
            }
            if "outcome/confusion" in arrays:
                (_, added), (missed, hit) = np.moveaxis(arrays["outcome/confusion"][0], (-2, -1), (0, 1))
                union = added + missed + hit
                each = np.where(union > 0, hit / np.maximum(union, 1), 1)
            else:
                each = (arrays["outcome/predicted"] == arrays["outcome/target"])[0] * 1.0
            for case, row in zip(json.loads(about)["cases"], each, strict=True):
                outcomes.setdefault(case, []).append(row)
            samples.append(arrays["samples"])
            groups.append(arrays["groups"])
    samples, groups = np.concatenate(samples), np.concatenate(groups)
    weights = 1 / np.array([np.count_nonzero(samples == sample) for sample in samples])
    joined = {case: np.concatenate(rows) for case, rows in outcomes.items()}
    return {
        case: scores.of_groups(lambda kept, row=row: np.average(row[kept], weights=weights[kept]), groups)
        for case, row in joined.items()
    }


def under_others(processing, left_out=None):
    """The mean score of each model under the pipelines of the others, from scores `(models, pipelines, groups)`."""
    own = range(len(processing))
    return np.array([processing[m, [p for p in own if p not in (m, left_out)]].mean(0) for m in own])


def interval(models):
    """The interval about the recipe of scores `(models, groups)`; about other models if only means are known."""
    return scores.interval(models[:, 0]) if models.shape[1] == 1 else scores.interval(models.mean(0), models)


def headline(processing, corruption):
    """The mean scores and drops of all models, from scores `(models, pipelines or corruptions, groups)`."""
    clean = np.array([of_model[place] for place, of_model in enumerate(processing)])
    others, corrupted = under_others(processing), corruption.mean(1)
    return [*map(interval, (clean, others, corrupted, clean - others, clean - corrupted))]


def worst_pipeline(processing):
    """The pipeline under which all models together lose most, and its share of all that they lose."""
    clean = processing.mean(-1).diagonal()
    lost = sum(clean[:, None] - processing.mean(-1))
    return int(lost.argmax()), lost.max() / lost.sum()


def log_ratio(processing, corruption, left_out=None):
    """The logarithm of the ratio of the drops under corruptions and under other pipelines, linearized for its interval.

    It is None where a drop is not positive, or where the interval of the denominator includes 0.
    """
    clean = np.array([of_model[place] for place, of_model in enumerate(processing)])
    above, below = clean - corruption.mean(1), clean - under_others(processing, left_out)
    if above.mean() <= 0 or interval(below)[1] <= 0:
        return None
    _, low, high = interval(above / above.mean() - below / below.mean())
    middle = np.log(above.mean() / below.mean())
    return middle, middle + low, middle + high
