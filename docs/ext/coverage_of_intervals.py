"""Counts how often the intervals of `r2l_jax.drift.statistics` contain the truth, over accuracies, samples and members.

python docs/ext/coverage_of_intervals.py writes coverage_of_intervals.csv and coverage_of_groups.csv to docs/results, in
six minutes on one core.
"""

import itertools
from collections.abc import Iterator

import measurements
import numpy as np
from jaxtyping import Float
from scipy import stats

from r2l_jax.drift import statistics
from r2l_jax.drift.measure import Outcomes, over_folds
from r2l_jax.model.scores import OfCounts

ACCURACIES = (0.9, 0.95, 0.98, 0.99, 0.995, 1)
SAMPLES = (20, 30, 60, 120, 500)
MEMBERS = (1, 2, 3, 4, 5, 6)
DRAWS = 4000

# The accuracy without drift, from which drops are counted.
CLEAN = 0.99

ACCURACY = OfCounts("accuracy", ("wrong", "right"))

_AT_ONCE = 500


def right(
    random: np.random.Generator, accuracy: float, members: int, hard: Float[np.ndarray, "draws 1 samples"]
) -> np.ndarray:
    """Draws which samples members classify correctly, `(draws, members, samples)`."""
    errors = np.full((len(hard), members, 1), 1 - accuracy)
    if members > 1 and accuracy < 1:
        # A beta distribution whose standard deviation is half its mean.
        size = 4 * accuracy / (1 - accuracy) - 1
        errors = random.beta((1 - accuracy) * size, accuracy * size, errors.shape)
    noise = random.normal(size=(len(hard), members, hard.shape[-1]))
    return np.sqrt(0.5) * (hard + noise) < stats.norm.isf(errors)


def coverage(accuracy: float, samples: int, members: int, clean: float | None = None, draws: int = DRAWS) -> np.ndarray:
    """Returns the share of intervals that contain the truth, and their median width.

    Args:
        accuracy: the accuracy that is estimated.
        samples: how many samples an interval is computed from.
        members: how many members.
        clean: the accuracy without drift, if the drop from it is estimated.
        draws: how many intervals.
    """
    random, held, widths = np.random.default_rng(0), [], []
    truth, least = (accuracy, 0) if clean is None else (clean - accuracy, -1)
    for start in range(0, draws, _AT_ONCE):
        hard = random.normal(size=(min(_AT_ONCE, draws - start), 1, samples))
        outcomes = right(random, accuracy, members, hard).astype(float)
        if clean is not None:
            outcomes = right(random, clean, members, hard) - outcomes
        found = statistics.interval(outcomes, "model" if members == 1 else "recipe")
        low, high = np.maximum(found.low, least), np.minimum(found.high, 1)
        held.append((low <= truth) & (truth <= high))
        widths.append(high - low)
    return np.array([np.mean(np.concatenate(held)), np.median(np.concatenate(widths))])


def rows(quantity: str, clean: float | None) -> Iterator[dict[str, object]]:
    """Yields the coverage of scores, or of drops from an accuracy, in percent, and the median width in points."""
    for accuracy, samples, members in itertools.product(ACCURACIES, SAMPLES, MEMBERS):
        share, width = coverage(accuracy, samples, members, clean)
        yield {
            **{"quantity": quantity, "accuracy": f"{accuracy:g}", "images": samples, "members": members},
            **{"coverage_percent": f"{100 * share:.1f}", "median_width": f"{100 * width:.1f}"},
        }


def of_groups(sizes: np.ndarray, correlation: float, members: int, folds: int, draws: int = DRAWS // 8) -> np.ndarray:
    """Returns the share of intervals that contain an accuracy, counting groups or samples, and the median width.

    The accuracies of groups have a beta distribution around 0.8. Each model fails on samples of its own in a fifth of
    the cases.

    Args:
        sizes: how many samples each group has.
        correlation: the correlation of the outcomes of two samples of a group.
        members: how many seeds.
        folds: 1 to measure all samples, or how many random fifths of the groups, which may overlap, are measured.
        draws: how many intervals.
    """
    random, groups, held, widths = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes), [], []
    size = (1 - correlation) / max(correlation, 1e-6)
    about = "model" if members == 1 else "recipe"

    def measured(hard: np.ndarray, accuracy: np.ndarray) -> tuple[str, Outcomes]:
        some = random.permutation(len(sizes))[: max(len(sizes) // 5, 1)]
        samples = np.flatnonzero(np.isin(groups, some) | (folds == 1))
        difficulty = np.where(random.random(len(groups)) < 0.2, random.random(len(groups)), hard)
        right = (difficulty < accuracy)[None, None, samples].astype(np.uint8)
        arrays = {"predicted": right, "target": np.ones_like(right)}
        return "", Outcomes(("",), ("clean",), samples, arrays, np.zeros((1, 1)), ACCURACY, groups[samples])

    for _ in range(draws):
        hard, accuracy = random.random(len(groups)), random.beta(0.8 * size, 0.2 * size, len(sizes))[groups]
        of_members = [[measured(hard, accuracy) for _ in range(folds)] for _ in range(members)]
        independent = [[(name, each._replace(groups=None)) for name, each in of_member] for of_member in of_members]
        each = [
            statistics.interval(np.stack(list(map(over_folds, found))), about) for found in (of_members, independent)
        ]
        ends = np.clip([(one.low, one.high) for one in each], 0, 1)
        held.append([low <= 0.8 <= high for low, high in ends])
        widths.append(np.ptp(ends[0]))
    return np.array([*np.mean(held, 0), np.median(widths)])


def rows_of_groups() -> Iterator[dict[str, object]]:
    """Yields the coverage of accuracies of groups of equal and of unequal sizes, with seeds and with random splits."""
    for groups, sizes, correlation in itertools.product((2, 5, 8, 20, 50), ("equal", "unequal"), (0, 0.02, 0.06, 0.3)):
        # Unequal sizes differ by up to nine times.
        each = np.full(groups, 20) if sizes == "equal" else np.linspace(4, 36, groups).round().astype(int)
        for members, folds in ((1, 1), (3, 1), (1, 5)):
            if folds > 1 and groups < 20:
                continue  # Few splits of few groups may all measure the same group.
            share, of_samples, width = of_groups(each, correlation, members, folds)
            yield {
                **{"groups": groups, "sizes": sizes, "correlation": correlation, "seeds": members, "splits": folds},
                **{"coverage_percent": f"{100 * share:.1f}", "of_samples_percent": f"{100 * of_samples:.1f}"},
                "median_width": f"{100 * width:.1f}",
            }


def main() -> None:
    """Writes the tables of groups, and of scores and drops."""
    measurements.write("coverage_of_groups", [*rows_of_groups()])
    measurements.write("coverage_of_intervals", [*rows("score", None), *rows(f"drop from {CLEAN:g}", CLEAN)])


if __name__ == "__main__":
    main()
