"""Verdict sentences: how much a score changes under drift, from the interval of the change."""

from collections.abc import Mapping

import numpy as np

from r2l_jax.drift.statistics import CONFIDENCE, holm
from r2l_jax.names import CORRUPTIONS, DEMOSAICING, DENOISING, SENSOR, SHARPENING
from r2l_jax.results.result import Interval

# The most losses that a sentence names.
_NAMED = 3

# An interval wider than this, without a change that it shows, tells nothing.
_UNCLEAR = 0.2


def change(found: Interval, words: tuple[str, str, str], under: str = "") -> str:
    """Says in points how much the score changes; `words` are for a positive change, a negative one, and neither.

    If the interval is too wide to tell, the sentence says that the change may be chance.
    """
    estimate, low, high = found
    if low > 0:
        return f"{words[0]} {whole_points(low, high)}{under}"
    if high < 0:
        return f"{words[1]} {whole_points(-high, -low)}{under}"
    if high - low <= _UNCLEAR:
        return f"{words[2]}{under} ({whole_points(low, high)})"
    size, unclear = whole_points(abs(estimate), abs(estimate)), f"({whole_points(low, high)}; too few samples to tell)"
    if not round(100 * estimate):
        return f"{words[2]}{under} {unclear}"
    return f"{words[estimate < 0]} {size}{under}, perhaps by chance {unclear}"


def significant(losses: Mapping[str, Interval], p_values: Mapping[str, float]) -> list[str]:
    """Returns the names of losses that differ from 0 at 5% after Holm's correction, the greatest first.

    `p_values` are two-sided, of each change.
    """
    of_losses = np.array([p_values[name] if losses[name][0] > 0 else 1.0 for name in losses])
    found = [name for name, p in zip(losses, holm(of_losses), strict=True) if p <= 1 - CONFIDENCE]
    return sorted(found, key=lambda name: -losses[name][0])


def single(losses: Mapping[str, Interval], p_values: Mapping[str, float]) -> str:
    """Says how many of several cases lose significantly, and names those that lose most."""
    found = significant(losses, p_values)
    named = [f"{in_words(name)} ({whole_points(*losses[name][1:])})" for name in found[:_NAMED]]
    named += [f"and {len(found) - _NAMED} others"] if len(found) > _NAMED else []
    count = f"{len(found)} lose{'s' if len(found) == 1 else ''}" if found else "none alone loses"
    return f"of {len(losses)} cases, {count} significantly (Holm){': ' if found else ''}{', '.join(named)}"


def level(found: Interval) -> str:
    """Says in points what a score is, by the ends of its interval, or by its estimate if these are too wide to tell."""
    estimate, low, high = found
    ends = whole_points(low, high)
    return ends if high - low <= _UNCLEAR else f"{whole_points(estimate, estimate)} ({ends}; too few samples to tell)"


def whole_points(low: float, high: float) -> str:
    """Formats the ends of an interval in whole points."""
    ends = dict.fromkeys(f"{round(100 * end)}".replace("-", "\N{MINUS SIGN}") for end in (low, high))
    return f"{' to '.join(ends)} point{'' if list(ends) == ['1'] else 's'}"


def in_words(name: str) -> str:
    """Returns the name of a case or a group in words; names of custom pipelines are kept."""
    parts = name.split(".")
    known = (DEMOSAICING, SHARPENING, DENOISING)
    if len(parts) == len(known) and all(part in names for part, names in zip(parts, known, strict=True)):
        steps = zip(parts, ("demosaicing", "sharpening", "denoising"), strict=True)
        first, *others = [f"no {step}" if part == "none" else part.replace("_", " ") for part, step in steps]
        return f"{first} with {' and '.join(others)}"
    if parts[0] in SENSOR or parts[0] in CORRUPTIONS:
        kind, *severity = parts
        return " ".join([kind.replace("_", " "), *(f"of severity {each}" for each in severity)])
    name = name.replace("iso=", "an intensity of ").replace("light=", "an exposure of ")
    return name.replace(",", " with ").replace("=", " ")
