"""Draws how raw data becomes a decision, and what the three drift controls do to it.

python docs/ext/overview.py writes docs/images/overview.svg. The stages and their
parameters are read from `isp.parametrized`.
"""

import html
import pathlib
from collections.abc import Sequence

import svg

import isp

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/overview.svg"

_WIDTH, _HEIGHT = 900, 340
_MIDDLE = 148  # The height of the row from mosaic to classes.
_FIRST, _STAGE, _GAP = 100, 96, 8  # The left of the first stage, and the width of a stage and of a gap.
_TALL = 92  # The height of a stage.

_STYLE = """
  .name { fill: var(--ink); font-size: 11.5px; font-weight: 600; text-anchor: middle }
  .control { fill: var(--ink); font-size: 13px; text-anchor: middle }
  .control tspan { font-weight: 600 }
  .control .plain { font-weight: 400 }
  .back { fill: none; stroke: var(--back); stroke-width: 1.8; stroke-dasharray: 6 4 }
  .gradient { fill: var(--back); font-size: 12px; text-anchor: middle }
  .head { fill: var(--line) }
  .back-head { fill: var(--back) }
"""

_TITLE = (
    "From a raw mosaic through the stages of a pipeline and a network to classes; the gradient of the task loss "
    "reaches every parameter. Drift synthesis swaps the pipeline, drift forensics climbs, and drift adjustment "
    "descends."
)


def draw() -> str:
    """Returns the picture as SVG."""
    stages = isp.parametrized(isp.CAMERAS["drone"]).stages
    right = _FIRST + len(stages) * (_STAGE + _GAP) - _GAP
    network, classes = right + 14, right + 96
    parts = [*_mosaic(12, _MIDDLE - 36, 12), svg.text("small", 48, _MIDDLE + 56, "raw mosaic")]
    for number, stage in enumerate(stages):
        left = _FIRST + number * (_STAGE + _GAP)
        parts += [*_box(left, _STAGE), svg.text("name", left + _STAGE / 2, _MIDDLE - 24, stage.name)]
        for line, name in enumerate(stage.parameters or ("",)):
            parts.append(svg.text("small", left + _STAGE / 2, _MIDDLE - 2 + 16 * line, name))
    ends = [
        (84, _FIRST),
        *((_FIRST + n * (_STAGE + _GAP) - _GAP, _FIRST + n * (_STAGE + _GAP)) for n in range(1, len(stages))),
    ]
    parts += [_arrow(start, stop) for start, stop in [*ends, (right, network), (network + 70, classes)]]
    parts += [*_box(network, 70), svg.text("name", network + 35, _MIDDLE - 6, "network")]
    parts.append(svg.text("small", network + 35, _MIDDLE + 12, "any head"))
    parts += _classes(classes, _MIDDLE)
    lefts = [_FIRST + number * (_STAGE + _GAP) for number in range(len(stages))]
    learned = [left + _STAGE / 2 for left, stage in zip(lefts, stages, strict=True) if stage.parameters]
    parts += _brackets(right, network, classes, learned)
    return svg.document(_WIDTH, _HEIGHT, _TITLE, _STYLE, parts)


def _box(left: float, width: float) -> list[str]:
    return [f'<rect class="box" x="{left:g}" y="{_MIDDLE - _TALL / 2:g}" width="{width:g}" height="{_TALL}" rx="6"/>']


def _arrow(start: float, stop: float) -> str:
    tip = f"M {stop:g} {_MIDDLE} l -7 -4 v 8 z"
    return f'<path class="line" d="M {start:g} {_MIDDLE} H {stop - 6:g}"/><path class="head" d="{tip}"/>'


def _mosaic(left: float, top: float, side: float) -> list[str]:
    """Draws 6 x 6 sites, each with the color of its filter."""
    return [
        f'<rect x="{left + side * col:g}" y="{top + side * row:g}" width="{side - 1:g}" height="{side - 1:g}" '
        f'fill="{svg.COLORS["RGGB"[2 * (row % 2) + col % 2]]}" '
        f'opacity="{0.45 + 0.11 * ((3 * row + 2 * col) % 6):.2f}"/>'
        for row in range(6)
        for col in range(6)
    ]


def _classes(left: float, middle: float) -> list[str]:
    bars = (9, 14, 58, 18, 7)
    drawn = [
        f'<rect class="head" x="{left + 4:g}" y="{middle - 34 + 14 * row:g}" width="{width:g}" height="9" rx="2"/>'
        for row, width in enumerate(bars)
    ]
    return [*drawn, svg.text("small", left + 34, middle + 56, "classes, masks")]


def _brackets(right: float, network: float, classes: float, learned: Sequence[float]) -> list[str]:
    """Draws the three controls, and the way of the gradient from the classes back to the stages that learn."""
    center = (_FIRST + right) / 2
    top, below = _MIDDLE - _TALL / 2 - 14, _MIDDLE + _TALL / 2
    synthesis = f"M {_FIRST} {top + 8:g} v -8 H {right:g} v 8"
    back = f"M {classes + 34:g} {below + 20:g} v 12 H {learned[0]:g}"
    ways = "".join(
        f'<path class="back" d="M {x:g} {below + 32:g} V {below + 10:g}"/>'
        f'<path class="back-head" d="M {x:g} {below + 3:g} l -5 8 h 10 z"/>'
        for x in learned
    )

    def control(x: float, y: float, name: str, *lines: str) -> str:
        first, *rest = [html.escape(line) for line in lines]
        more = "".join(f'<tspan class="plain" x="{x:g}" dy="17">{line}</tspan>' for line in rest)
        return f'<text class="control" x="{x:g}" y="{y:g}"><tspan>{name}</tspan> {first}{more}</text>'

    def bracket(start: float, stop: float) -> str:
        return f'<path class="line" d="M {start:g} {below + 62:g} v 8 H {stop:g} v -8"/>'

    forensics, adjustment = (_FIRST, center - 12), (center + 12, network + 70)
    return [
        f'<path class="line" d="{synthesis}"/>',
        control(center, top - 12, "Drift synthesis", "swaps the pipeline, the sensor or the light: what does it cost?"),
        f'<path class="back" d="{back}"/>{ways}',
        svg.text("gradient", center, below + 50, "the gradient of the task loss reaches every parameter"),
        bracket(*forensics),
        control(
            sum(forensics) / 2,
            below + 90,
            "Drift forensics",
            "climbs:",
            "which parameters break the model, and how soon?",
        ),
        bracket(*adjustment),
        control(
            sum(adjustment) / 2,
            below + 90,
            "Drift adjustment",
            "descends:",
            "the processing is tuned, the network stays",
        ),
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw())
