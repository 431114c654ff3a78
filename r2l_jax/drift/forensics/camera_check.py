"""Checks whether a model tolerates the calibration values of a camera."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data.files.known_camera import read_camera_file
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.ranges import Facts
from r2l_jax.runtime import tables
from r2l_jax.runtime.errors import InputError

# Values this far outside an interval, in natural ranges, count as inside, because models hold them in float32.
_ROUNDING = 1e-6


class Finding(NamedTuple):
    """Compares one calibration value of a camera with the interval that a model tolerates.

    Attributes:
        name: the value's name, as in `isp.Parameter.element_names`, or `pattern`.
        value: the camera's value.
        low: the least tolerated value, or the expected pattern.
        high: the greatest tolerated value, or the expected pattern.
        inside: whether the value is tolerated.
        outside: how far the value is above `high` (positive) or below `low` (negative), in its unit; 0 inside, NaN for
            another pattern.
        ranges: the distance from the interval in natural ranges (`isp.Parameter`), without sign; 0 inside, infinite
            for a gain of the other sign, NaN for another pattern.
        untried: whether the value lies beyond an end at which the measurement stopped, so that it may be tolerated.
    """

    name: str
    value: float | str
    low: float | str
    high: float | str
    inside: bool
    outside: float = 0.0
    ranges: float = 0.0
    untried: bool = False


def read_camera(name: str) -> isp.Camera:
    """Returns the camera that `--check` names.

    Args:
        name: one of `isp.CAMERAS`, the path of a JSON file (`isp.Camera.to_json`), or the path of a raw file.

    Raises:
        InputError: there is no such camera or file, or the file lacks a camera's calibration values.
    """
    if name in isp.CAMERAS:
        return isp.CAMERAS[name]
    path = pathlib.Path(name)
    is_json = path.suffix.lower() == ".json"
    if not path.exists():
        wanted = f"a raw file, a camera's JSON file or one of {', '.join(isp.CAMERAS)}"
        raise InputError(f"--check must be {wanted}, got {name!r}: not found")
    try:
        return read_camera_file(path) if is_json else read_raw(path)[1]
    except InputError as error:  # The message names the path.
        raise InputError(f"--check{'=' if is_json else ': '}{error}") from None


def check(tolerances: Mapping[str, Any], facts: Facts, camera: isp.Camera) -> list[Finding]:
    """Compares a camera's color filter array, black levels, gains and matrix with the intervals that a model tolerates.

    The comparison answers whether the model's data may be processed with this camera's calibration values. Each value
    is compared separately, as the intervals were measured: with all other values at the model's default, which is the
    learned value if the processing was learned. `score_together` measures whether the model tolerates all values
    together. Noise, resolution and exposure of the camera are not compared, nor values without a knob in the model's
    processing, whose parameters `facts` declares.
    """
    wanted = tolerances["pattern"]
    findings = []
    if wanted:
        same = camera.pattern == wanted
        away = 0.0 if same else math.nan
        findings.append(Finding("pattern", camera.pattern, wanted, wanted, same, away, away))
    for parameter, values in _calibration(facts, camera).items():
        if facts[parameter].camera == "black_level" and wanted and values.shape != isp.cfa.black_level_shape(wanted):
            continue  # A sensor of another kind has other black levels, of sites or of colors.
        names = facts[parameter].element_names(parameter, values.shape)
        for name, value in zip(names, values.ravel().tolist(), strict=True):
            if name in tolerances["knobs"]:
                findings.append(_compared(name, value, tolerances["knobs"][name], facts[parameter]))
    return findings


def table(findings: Sequence[Finding]) -> str:
    """Formats findings as an aligned table, with a last line that names those that are not tolerated."""
    rows = [["figure", "camera", "low", "high", "tolerated", "natural ranges"]]
    for finding in findings:
        numbers = (finding.value, finding.low, finding.high)
        cells = [number if isinstance(number, str) else format_value(number) for number in numbers]
        rows.append([finding.name, *cells, *_verdict(finding)])
    outside = [finding.name for finding in findings if not finding.inside]
    summary = f"{len(outside)} of {len(findings)} are not tolerated: {', '.join(outside)}" if outside else "all inside"
    return f"{tables.table(rows)}\n{summary}"


def score_together(
    frozen: Frozen, dataset: RawDataset, indices: np.ndarray, batch_size: int, camera: isp.Camera
) -> tuple[float, float]:
    """Measures a model's score on samples by default, and with all calibration values of a camera at once.

    The processing keeps the model's color filter array.
    """
    calibration = {
        name: values
        for name, values in _calibration(frozen.facts, camera).items()
        if values.shape == np.shape(frozen.default[name])
    }
    processings = [frozen.default, frozen.default | calibration]
    default, together = Measurer(frozen).measure_samples(processings, dataset, indices, batch_size)
    return default.score, together.score


def _calibration(facts: Facts, camera: isp.Camera) -> dict[str, np.ndarray]:
    """Returns a camera's calibration values by the names of the parameters that start from them."""
    return {name: np.array(getattr(camera, each.camera)) for name, each in facts.items() if each.camera}


def _compared(name: str, value: float, knob: Mapping[str, Any], facts: isp.Parameter) -> Finding:
    low, high = knob["low"], knob["high"]
    nearest = min(max(value, low), high)
    ranges = abs(float(np.asarray(facts.offset(nearest, value))))
    # The offset of a gain of the other sign is NaN.
    if math.isnan(ranges):
        ranges = math.inf
    if ranges <= _ROUNDING:
        return Finding(name, value, low, high, inside=True)
    untried = bool(knob["low_at_limit" if value < low else "high_at_limit"])
    return Finding(name, value, low, high, inside=False, outside=value - nearest, ranges=ranges, untried=untried)


def _verdict(finding: Finding) -> tuple[str, str]:
    """Formats whether a value is tolerated, and its distance from the interval in natural ranges."""
    if finding.inside:
        return "yes", ""
    if isinstance(finding.value, str):
        return f"no, the processing expects {finding.low}", ""
    if math.isinf(finding.ranges):
        return "no, of the other sign", ""
    text = f"no, {format_value(abs(finding.outside))} too {'high' if finding.outside > 0 else 'low'}"
    return f"{text}, where it was not tried" if finding.untried else text, format_value(finding.ranges)
