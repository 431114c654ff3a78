"""Draws the color filter arrays that the guide to sensors names.

python docs/ext/filter_arrays.py writes docs/images/filter_arrays.svg. The colors of the sites come from `isp.cfa`.
"""

import pathlib

import svg

import isp

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/filter_arrays.svg"

# The usual name of each pattern, the pattern, and the number of sites to draw in a row.
ARRAYS = {
    **{pattern: (pattern, 6) for pattern in isp.cfa.BAYER},
    "quad Bayer": ("RRGG/RRGG/GGBB/GGBB", 8),
    "X-Trans": ("GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG", 12),
    "monochrome": (isp.cfa.MONO, 6),
}

_SIDE, _GAP, _TOP = 84, 16, 30  # The side of an array and the gap between two; the top of the arrays.

_STYLE = """
  .name { fill: var(--ink); font-size: 12px; font-weight: 600; text-anchor: middle }
  .tile { fill: none; stroke: var(--ink); stroke-width: 2.5 }
"""

_TITLE = "Color filter arrays, each with the smallest tile that repeats outlined: {}."


def draw() -> str:
    """Returns the picture as SVG."""
    parts = []
    for place, (name, (pattern, sites)) in enumerate(ARRAYS.items()):
        left = _GAP + place * (_SIDE + _GAP)
        rows, cols = isp.cfa.tile(pattern).shape
        side, middle = _SIDE / sites, left + _SIDE / 2
        parts += [svg.text("name", middle, _TOP - 12, name), *_sites(pattern, left, sites)]
        parts.append(f'<rect class="tile" x="{left}" y="{_TOP}" width="{cols * side:g}" height="{rows * side:g}"/>')
        size = "no filters" if pattern == isp.cfa.MONO else f"tile of {rows}x{cols}"
        parts.append(svg.text("small", middle, _TOP + _SIDE + 18, size))
    width = _GAP + len(ARRAYS) * (_SIDE + _GAP)
    return svg.document(width, _TOP + _SIDE + 30, _TITLE.format(", ".join(ARRAYS)), _STYLE, parts)


def _sites(pattern: str, left: float, sites: int) -> list[str]:
    letters = ("",) if pattern == isp.cfa.MONO else ("R", "G", "B")
    tile, side = isp.cfa.tile(pattern), _SIDE / sites
    return [
        f'<rect x="{left + side * col:g}" y="{_TOP + side * row:g}" width="{side - 1:g}" height="{side - 1:g}" '
        f'fill="{svg.COLORS[letters[tile[row % len(tile), col % len(tile)]]]}"/>'
        for row in range(sites)
        for col in range(sites)
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw())
