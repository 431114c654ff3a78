"""Whether a camera's figures are within what a model tolerates."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data import loader, read_raw
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.ranges import Facts
from r2l_jax.runtime import tables
from r2l_jax.runtime.errors import InputError

# So far outside, in natural ranges, is inside: models keep their figures in float32.
_ROUNDING = 1e-6


class Finding(NamedTuple):
    """One of a camera's figures, against the interval that a model tolerates.

    Attributes:
        figure: what it is called, as in `isp.Parameter.element_names`, or `pattern`.
        value: the camera's.
        low: the least tolerated; the pattern has the same one for both.
        high: the greatest.
        inside: whether the value is tolerated.
        outside: how far it is above `high` (positive) or below `low` (negative), in its unit; 0 inside, NaN for a
            pattern.
        ranges: the same in natural ranges (`isp.Parameter`), without sign; infinite for a gain of the other
            sign, which no range reaches, NaN for a pattern.
        untried: whether it is outside of an end that is only where trying stopped.
    """

    figure: str
    value: float | str
    low: float | str
    high: float | str
    inside: bool
    outside: float = 0.0
    ranges: float = 0.0
    untried: bool = False


def read_camera(name: str) -> isp.Camera:
    """The camera of `--check`: one of `isp.CAMERAS`, that of a JSON file (`isp.Camera.to_json`), or that of a raw file.

    Raises:
        InputError: none of these, or a file without a camera's figures.
    """
    if name in isp.CAMERAS:
        return isp.CAMERAS[name]
    path = pathlib.Path(name)
    try:
        if path.suffix.lower() == ".json":
            return isp.Camera.from_json(path.read_text())
        _, camera = read_raw(path)
        return camera
    except FileNotFoundError:
        known = ", ".join(isp.CAMERAS)
        raise InputError(f"--check must be a raw file, a camera's JSON file, {known}, got {name!r}") from None
    except OSError as error:
        raise InputError(f"--check={name}: {error.strerror}") from None
    except InputError as error:  # of a raw file, which names the path
        raise InputError(f"--check: {error}") from None
    except ValueError as error:
        raise InputError(f"--check={name}: {error}") from None


def check(tolerances: Mapping[str, Any], facts: Facts, camera: isp.Camera) -> list[Finding]:
    """Compares a camera's Bayer pattern, black levels, gains and matrix with the intervals that a model tolerates.

    The question is whether the model's data may be processed by this camera's figures. Each figure is compared by
    itself, as the intervals were measured: with all others at the model's default, which are the learnt ones of a
    processing that was learnt. That each is inside does not say that the model tolerates all of them together;
    `score_together` measures that. Nor does it say anything of the camera's noise, resolution and exposure. What the
    processing has no knob for is left out.

    Args:
        tolerances: the `content` of `tolerance.analyse`.
        facts: of the parameters of the model's processing.
        camera: whose figures to compare.
    """
    wanted = tolerances["pattern"]
    findings = []
    if wanted:
        same = camera.pattern == wanted
        away = 0.0 if same else math.nan
        findings.append(Finding("pattern", camera.pattern, wanted, wanted, same, away, away))
    for parameter, values in _parameters(facts, camera).items():
        names = facts[parameter].element_names(parameter, values.shape)
        for name, value in zip(names, values.ravel().tolist(), strict=True):
            if name in tolerances["knobs"]:
                findings.append(_compared(name, value, tolerances["knobs"][name], facts[parameter]))
    return findings


def table(findings: Sequence[Finding]) -> str:
    """The findings as aligned text, and a last line that counts those that are not inside."""
    rows = [["figure", "camera", "low", "high", "tolerated", "natural ranges"]]
    for finding in findings:
        numbers = [each if isinstance(each, str) else format_value(each) for each in finding[1:4]]
        rows.append([finding.figure, *numbers, *_verdict(finding)])
    outside = [finding.figure for finding in findings if not finding.inside]
    summary = f"{len(outside)} of {len(findings)} are not tolerated: {', '.join(outside)}" if outside else "all inside"
    return f"{tables.table(rows)}\n{summary}"


def score_together(
    frozen: Frozen, dataset: RawDataset, indices: np.ndarray, batch_size: int, camera: isp.Camera
) -> tuple[float, float]:
    """A model's score by default, and with all of a camera's figures together in place of its own, but the pattern.

    Args:
        frozen: the model.
        dataset: where the samples are.
        indices: which of them to take.
        batch_size: samples at once.
        camera: whose figures to take.
    """
    figures = _parameters(frozen.facts, camera)
    batches = loader.eval_batches(dataset, indices, batch_size)
    default, together = Measurer(frozen).measure([frozen.default, frozen.default | figures], batches)
    return default.score, together.score


def _parameters(facts: Facts, camera: isp.Camera) -> dict[str, np.ndarray]:
    """Returns a camera's figures by the names of the parameters that start from them."""
    return {name: np.array(getattr(camera, each.camera)) for name, each in facts.items() if each.camera}


def _compared(name: str, value: float, knob: Mapping[str, Any], facts: isp.Parameter) -> Finding:
    end = "low" if value < knob["low"] else "high"
    nearest = min(max(value, knob["low"]), knob["high"])
    ranges = abs(facts.offset(nearest, value))
    if math.isnan(ranges):
        ranges = math.inf
    if ranges <= _ROUNDING:
        return Finding(name, value, knob["low"], knob["high"], True)
    return Finding(
        name, value, knob["low"], knob["high"], False, value - nearest, ranges, bool(knob[f"{end}_at_limit"])
    )


def _verdict(finding: Finding) -> tuple[str, str]:
    """Whether a figure is tolerated, and by how many natural ranges it is not."""
    if finding.inside:
        return "yes", ""
    if isinstance(finding.value, str):
        return f"no, the processing expects {finding.low}", ""
    if math.isinf(finding.ranges):
        return "no, of the other sign", ""
    text = f"no, {format_value(abs(finding.outside))} too {'high' if finding.outside > 0 else 'low'}"
    return text + ", where it was not tried" * finding.untried, format_value(finding.ranges)
