"""Draws the path from raw data to a decision, and the three drift controls along it.

python docs/ext/overview.py writes docs/images/overview.svg. Stages and parameters are read from `isp.parametrized`.
"""

import base64
import html
import io
import pathlib
from collections.abc import Sequence

import numpy as np
import svg
from PIL import Image

import isp
from r2l_jax.data.sets import datasets

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/overview.svg"

# The sample of the embedded data set whose renderings are shown.
_SAMPLE = 3

_WIDTH, _HEIGHT = 900, 356
_MIDDLE = 138  # The height of the middle of the images.
_SIDE, _GAP = 108, 16  # The side of an image, and the gap after it.
_FIRST = 12  # The left of the first image.

_STYLE = """
  .name { fill: var(--ink); font-size: 14px; font-weight: 600; text-anchor: middle }
  .parameter { fill: var(--soft); font-size: 13px; text-anchor: middle }
  .control { fill: var(--ink); font-size: 15px; text-anchor: middle }
  .control tspan { font-weight: 600 }
  .control .plain { font-weight: 400 }
  .back { fill: none; stroke: var(--back); stroke-width: 1.8; stroke-dasharray: 6 4 }
  .gradient { fill: var(--back); font-size: 14px; text-anchor: middle }
  .head { fill: var(--line) }
  .back-head { fill: var(--back) }
"""

# Short names of stages and parameters; the published names are too long for the picture.
_SHORT = {
    "demosaic": "demosaic",
    "color_correct": "color",
    "sharpening": "sharpen",
    "gaussian": "denoise",
    "gamma_correct": "gamma",
    "black_level": "black level",
    "white_balance": "white balance",
    "colour_correction": "color matrix",
    "sharpening_filter": "kernel",
    "gaussian_blur": "kernel",
}

_TITLE = (
    "From a raw image through the stages of a pipeline and a network to classes; the gradient of the task loss "
    "reaches every parameter. Drift synthesis swaps the pipeline, drift forensics climbs, and drift adjustment "
    "descends."
)


def draw() -> str:
    """Returns the picture as SVG."""
    data = datasets.load("Synthetic", synthetic_images=_SAMPLE + 5, synthetic_size=64)
    raws, _ = data.samples(np.arange(_SAMPLE, _SAMPLE + 1))
    assert data.camera is not None
    pipeline = isp.parametrized(data.camera)
    _, images = pipeline.trace(raws[0])
    # Clipping changes nothing that can be seen, so it is left out.
    stages = [stage for stage in pipeline.stages if stage.parameters]
    lefts = [_FIRST + (number + 1) * (_SIDE + _GAP) for number in range(len(stages))]
    shown = {"raw image": _as_filters(raws[0], data.camera)}
    shown |= {_SHORT[stage.name]: np.asarray(images[stage.name]) for stage in stages}
    parts = []
    for left, (name, image) in zip([_FIRST, *lefts], shown.items(), strict=True):
        parts += [_picture(left, image), svg.text("name", left + _SIDE / 2, _MIDDLE + _SIDE / 2 + 18, name)]
    for left, stage in zip(lefts, stages, strict=True):
        for line, name in enumerate(each for each in stage.parameters if each in _SHORT and each != stage.name):
            parts.append(svg.text("parameter", left + _SIDE / 2, _MIDDLE + _SIDE / 2 + 36 + 16 * line, _SHORT[name]))
    right = lefts[-1] + _SIDE
    parts += [_arrow(left - _GAP + 2, left - 1) for left in [*lefts, right + _GAP]]
    parts += _classes(right + _GAP, _MIDDLE)
    parts += _brackets(lefts[0], right, right + _GAP, [left + _SIDE / 2 for left in lefts])
    return svg.document(_WIDTH, _HEIGHT, _TITLE, _STYLE, parts)


def _as_filters(raw: np.ndarray, camera: isp.Camera) -> np.ndarray:
    """Shows each site of a raw image in the color of its filter."""
    light = np.asarray(isp.sensor.site_light(raw, camera)).clip(0, 1)
    colors = isp.cfa.tile(camera.pattern)[np.arange(len(raw))[:, None] % 2, np.arange(raw.shape[1]) % 2]
    return light[..., None] * np.eye(3)[colors]


def _picture(left: float, image: np.ndarray) -> str:
    """Embeds an image of linear or finished values, each brightened so that linear ones can be seen."""
    most = np.quantile(image, 0.99)
    pixels = Image.fromarray((255 * (image / max(most, 1e-6)).clip(0, 1) ** (1 / 1.4)).astype(np.uint8))
    buffer = io.BytesIO()
    pixels.save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    place = f'x="{left:g}" y="{_MIDDLE - _SIDE / 2:g}" width="{_SIDE}" height="{_SIDE}"'
    return f'<image {place} style="image-rendering: pixelated" href="data:image/png;base64,{data}"/>'


def _arrow(start: float, stop: float) -> str:
    tip = f"M {stop:g} {_MIDDLE} l -7 -4 v 8 z"
    return f'<path class="line" d="M {start:g} {_MIDDLE} H {stop - 6:g}"/><path class="head" d="{tip}"/>'


def _classes(left: float, middle: float) -> list[str]:
    bars = (14, 22, 92, 30, 11)
    drawn = [
        f'<rect class="head" x="{left + 4:g}" y="{middle - 46 + 19 * row:g}" width="{width:g}" height="12" rx="2"/>'
        for row, width in enumerate(bars)
    ]
    return [
        *drawn,
        svg.text("name", left + 52, middle + _SIDE / 2 + 18, "network"),
        svg.text("parameter", left + 52, middle + _SIDE / 2 + 36, "classes, masks"),
    ]


def _brackets(left: float, right: float, classes: float, learned: Sequence[float]) -> list[str]:
    """Draws the three controls, and the way of the gradient from the classes back to the stages that learn."""
    top, below = _MIDDLE - _SIDE / 2 - 12, _MIDDLE + _SIDE / 2 + 58
    center = (left + right) / 2
    synthesis = f"M {_FIRST} {top + 8:g} v -8 H {right:g} v 8"
    back = f"M {classes + 52:g} {below - 8:g} V {below + 24:g} H {learned[0]:g}"
    ways = "".join(
        f'<path class="back" d="M {x:g} {below + 24:g} V {below + 18:g}"/>'
        f'<path class="back-head" d="M {x:g} {below + 11:g} l -5 8 h 10 z"/>'
        for x in learned
    )

    def control(x: float, y: float, name: str, *lines: str) -> str:
        first, *rest = [html.escape(line) for line in lines]
        more = "".join(f'<tspan class="plain" x="{x:g}" dy="19">{line}</tspan>' for line in rest)
        return f'<text class="control" x="{x:g}" y="{y:g}"><tspan>{name}</tspan> {first}{more}</text>'

    words = "swaps the pipeline, the sensor or the light: what does it cost?"
    return [
        f'<path class="line" d="{synthesis}"/>',
        control((_FIRST + right) / 2, top - 14, "Drift synthesis", words),
        f'<path class="back" d="{back}"/>{ways}',
        svg.text("gradient", center, below + 44, "the gradient of the task loss reaches every parameter"),
        control(228, below + 76, "Drift forensics", "climbs it:", "which parameters break the model, and how soon?"),
        control(680, below + 76, "Drift adjustment", "descends it:", "the processing is tuned, the network stays"),
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw())
