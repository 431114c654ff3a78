"""Verdict sentences: how much a score changes under drift, from the interval of the change."""

from r2l_jax.drift.sensor import KINDS
from r2l_jax.names import DEMOSAICING, DENOISING, SHARPENING
from r2l_jax.runtime.result import Interval


def change(found: Interval, words: tuple[str, str, str], under: str = "") -> str:
    """Says in points how much the score changes; `words` are for a positive change, a negative one, and neither."""
    _, low, high = found
    if low > 0:
        return f"{words[0]} {whole_points(low, high)}{under}"
    if high < 0:
        return f"{words[1]} {whole_points(-high, -low)}{under}"
    return f"{words[2]}{under} ({whole_points(low, high)})"


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
    if parts[0] in KINDS:
        kind, *severity = parts
        return " ".join([kind.replace("_", " "), *(f"of severity {each}" for each in severity)])
    return name.replace("iso=", "an intensity of ").replace("exposure=", "an exposure of ")
