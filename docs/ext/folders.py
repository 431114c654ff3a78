"""Draws the layouts of folders that `--dataset=Folder` takes.

python docs/ext/folders.py writes docs/images/folders.svg. A test loads folders of these layouts.
"""

import pathlib
from typing import NamedTuple

import svg

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/folders.svg"


class Layout(NamedTuple):
    """A layout: what it is for, a line about it, and the files of an example with remarks on some."""

    title: str
    about: str
    files: dict[str, str]


LAYOUTS = (
    Layout(
        "Classification",
        "one sub-folder for each class",
        {
            "my_cells/lymphocyte/1.dng": "class lymphocyte",
            "my_cells/lymphocyte/2.dng": "",
            "my_cells/monocyte/3.dng": "class monocyte",
            "my_cells/monocyte/4.dng": "",
        },
    ),
    Layout(
        "Segmentation",
        "frames, and a mask for each",
        {
            "my_cars/images/1.dng": "a frame",
            "my_cars/images/2.dng": "",
            "my_cars/masks/1.png": "its mask: above 0",
            "my_cars/masks/2.png": "on the object",
        },
    ),
    Layout(
        "Several cameras",
        "such a folder for each camera",
        {
            "cells/scanner/camera.json": "its calibration",
            "cells/scanner/lymphocyte/1.tiff": "",
            "cells/scanner/monocyte/2.tiff": "",
            "cells/phone/camera.json": "its calibration",
            "cells/phone/lymphocyte/3.tiff": "",
            "cells/phone/monocyte/4.tiff": "",
        },
    ),
)

_WIDTH, _INDENT, _LINE = 226, 16, 19

_STYLE = """
  .title { fill: var(--ink); font-size: 14px; font-weight: 600 }
  .about { fill: var(--soft); font-size: 12px }
  .entry { fill: var(--ink); font-family: ui-monospace, monospace; font-size: 12px }
  .remark { fill: var(--soft); font-size: 11px; text-anchor: end }
"""

_TITLE = "Layouts of folders for classification, for segmentation, and for several cameras, as the text describes them."


def draw() -> str:
    """Returns the picture as SVG."""
    trees = [_tree(layout.files) for layout in LAYOUTS]
    height = 78 + _LINE * max(map(len, trees))
    parts = []
    for place, (layout, tree) in enumerate(zip(LAYOUTS, trees, strict=True)):
        left = 12 + place * (_WIDTH + 12)
        parts.append(f'<rect class="box" x="{left}" y="8" width="{_WIDTH}" height="{height - 16}" rx="6"/>')
        parts.append(svg.text("title", left + 12, 30, layout.title))
        parts.append(svg.text("about", left + 12, 47, layout.about))
        for row, (depth, name, remark) in enumerate(tree):
            base = 74 + _LINE * row
            parts.append(svg.text("entry", left + 12 + _INDENT * depth, base, name))
            parts.append(svg.text("remark", left + _WIDTH - 10, base, remark))
    return svg.document(12 + len(LAYOUTS) * (_WIDTH + 12), height, _TITLE, _STYLE, parts)


def _tree(files: dict[str, str]) -> list[tuple[int, str, str]]:
    """Lists the folders and files with their depths and remarks; a folder of one file is in the line of its file."""
    rows, seen = [], set()
    for file, remark in files.items():
        parents = [f"{parent}/" for parent in reversed(pathlib.PurePosixPath(file).parents[:-1])]
        shown = [parent for parent in parents if sum(other.startswith(parent) for other in files) > 1]
        for depth, parent in enumerate(shown):
            if parent not in seen:
                seen.add(parent)
                rows.append((depth, parent.removeprefix(shown[depth - 1] if depth else ""), ""))
        rows.append((len(shown), file.removeprefix(shown[-1]), remark))
    return rows


if __name__ == "__main__":
    PICTURE.write_text(draw())
