"""Counts how often the intervals of `r2l_jax.drift.statistics` hold the truth, over accuracies, samples and members.

python docs/ext/coverage_of_intervals.py writes docs/results/coverage_of_intervals.md, in two minutes on one core.
"""

import itertools
import pathlib

import numpy as np
from jaxtyping import Float
from scipy import stats

from r2l_jax.drift import statistics

RESULTS = pathlib.Path(__file__).parents[1] / "results/coverage_of_intervals.md"

ACCURACIES = (0.9, 0.95, 0.98, 0.99, 0.995, 1)
SAMPLES = (20, 30, 60, 120, 500)
MEMBERS = (1, 2, 3, 4, 5, 6)
DRAWS = 4000

# The accuracy without drift that drops are from.
CLEAN = 0.99

_AT_ONCE = 500

_TEXT = """---
orphan: true
---

# Coverage of the intervals

The share of {draws} simulated 95% confidence intervals that hold the truth and, in parentheses, their median width in
points. One member has an interval about the model, several have one about the training recipe. This page is written by
`python docs/ext/coverage_of_intervals.py`; [Confidence intervals](../confidence.md) says how intervals are made.

The error rates of members have a standard deviation of half their mean. Some images are hard for all members: half of
the variance of what decides between right and wrong belongs to the image. If the accuracy is 1, nothing varies.

## Scores

{scores}

## Drops from an accuracy of {clean}

{drops}
"""


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
    """Returns the share of intervals that hold the truth, and their median width.

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


def table(clean: float | None) -> str:
    """Formats the coverage of scores, or of drops from an accuracy."""
    lines = ["| accuracy | images | 1 member | " + " | ".join(f"{count} members" for count in MEMBERS[1:]) + " |"]
    lines.append("| --- " * (2 + len(MEMBERS)) + "|")
    for accuracy, samples in itertools.product(ACCURACIES, SAMPLES):
        cells = [coverage(accuracy, samples, members, clean) for members in MEMBERS]
        texts = [f"{100 * share:.1f} ({100 * width:.1f})" for share, width in cells]
        lines.append(f"| {accuracy:g} | {samples} | {' | '.join(texts)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Writes the page of both tables."""
    text = _TEXT.format(draws=f"{DRAWS:,}", scores=table(None), clean=CLEAN, drops=table(CLEAN))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
