"""Counts how often the intervals of `r2l_jax.drift.statistics` contain the truth, over accuracies, samples and members.

python docs/ext/coverage_of_intervals.py writes docs/results/coverage_of_intervals.csv, in two minutes on one core.
"""

import itertools
from collections.abc import Iterator

import measurements
import numpy as np
from jaxtyping import Float
from scipy import stats

from r2l_jax.drift import statistics

ACCURACIES = (0.9, 0.95, 0.98, 0.99, 0.995, 1)
SAMPLES = (20, 30, 60, 120, 500)
MEMBERS = (1, 2, 3, 4, 5, 6)
DRAWS = 4000

# The accuracy without drift, from which drops are counted.
CLEAN = 0.99

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


def main() -> None:
    """Writes the table of scores and drops."""
    measurements.write("coverage_of_intervals", [*rows("score", None), *rows(f"drop from {CLEAN:g}", CLEAN)])


if __name__ == "__main__":
    main()
