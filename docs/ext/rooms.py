"""Draws the rooms of the code from the import contracts in pyproject.toml.

python docs/ext/rooms.py writes docs/images/rooms.svg.
"""

import pathlib
import re
import tomllib

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = pathlib.Path(__file__).parents[2]
PICTURE = ROOT / "docs/images/rooms.svg"

_WIDTH, _ROOM, _TITLE, _GAP = 10.0, 0.46, 0.42, 0.12
_COLORS = ("#ffffff", "#e8eef6", "#c9d9ec", "#a9c3e0")

# The rows of rooms in each package, from the highest to the lowest; the packages themselves are under "".
Layers = dict[str, list[list[str]]]


def read_layers(file: pathlib.Path = ROOT / "pyproject.toml") -> Layers:
    """Reads the rooms from the contracts of the type "layers"."""
    contracts = tomllib.loads(file.read_text())["tool"]["importlinter"]["contracts"]
    return {
        container: [[room.strip() for room in re.split("[|:]", layer)] for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
        for container in contract.get("containers", [""])
    }


def draw(layers: Layers) -> Figure:
    """Draws each room as a box above those that it may import, inside the box of its package."""
    height = _height(layers, "")
    figure = Figure(figsize=(_WIDTH * 0.8, height * 0.8))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.axis("off")
    _draw_rows(axes, layers, "", 0.0, 0.0, _WIDTH)
    return figure


def save(figure: Figure, file: pathlib.Path = PICTURE) -> None:
    """Writes the picture; the same rooms give the same file."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rooms", "font.family": "sans-serif"}):
        figure.savefig(file, metadata={"Date": None})


def _height(layers: Layers, package: str) -> float:
    """Computes the height of a room with those inside it."""
    if package not in layers:
        return _ROOM
    rows = sum(max(_height(layers, _inside(package, room)) for room in row) + _GAP for row in layers[package])
    return rows + _GAP + _TITLE * bool(package)


def _inside(package: str, room: str) -> str:
    return f"{package}.{room}" if package else room


def _draw_rows(axes: Axes, layers: Layers, package: str, left: float, top: float, width: float) -> None:
    top += _GAP + _TITLE * bool(package)
    for row in layers[package]:
        height = max(_height(layers, _inside(package, room)) for room in row)
        each = (width - _GAP) / len(row)
        for place, room in enumerate(row):
            _draw_room(axes, layers, _inside(package, room), left + _GAP + place * each, top, each - _GAP, height)
        top += height + _GAP


def _draw_room(axes: Axes, layers: Layers, room: str, left: float, top: float, width: float, height: float) -> None:
    depth, name = room.count(".") + 1, room.rpartition(".")[2]
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": _COLORS[depth], "edgecolor": "#44617f"}
    axes.add_patch(FancyBboxPatch((left, top), width, height, linewidth=0.8, **style))
    middle = top + (_TITLE / 2 + _GAP / 2 if room in layers else height / 2)
    axes.text(left + width / 2, middle, name, ha="center", va="center", fontsize=11, color="#1b2a3a")
    if room in layers:
        _draw_rows(axes, layers, room, left, top, width)


if __name__ == "__main__":
    save(draw(read_layers()))
