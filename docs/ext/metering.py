"""Compares training recipes under the same drifts, as evaluate.py has measured them.

python docs/ext/metering.py <folder>... writes docs/results/metering.md from the results of evaluate.py in the folders.
"""

import pathlib
import sys

from r2l_jax.runtime.result import read

RESULTS = pathlib.Path(__file__).parents[1] / "results/metering.md"

CASES = {
    "half the light": "exposure=0.5",
    "a tenth of the light": "exposure=0.1",
    "a twentieth of the light": "exposure=0.05",
    "red 0.7 stops brighter, blue 0.7 darker": "color_balance.4",
    "lamp 60 mired warmer": "lamp_color.3",
    "lamp 110 mired warmer": "lamp_color.4",
    "black level 80 of 4095 higher": "black_level.3",
    "black level 160 of 4095 higher": "black_level.4",
    "defocus of 1.5 pixels": "defocus.3",
    "defocus of 2.5 pixels": "defocus.4",
}
GROUPS = {
    "twelve other pipelines": "pipelines",
    "overexposure, one stop": "overexposure.3",
    "all drifts of the light": "light",
    "all drifts of the lens": "lens",
    "all drifts of the read-out": "read-out",
    "corruptions: noise": "noise",
    "corruptions: blur": "blur",
    "corruptions: tone and color": "tone and color",
    "corruptions: digital": "digital",
}

_TEXT = """---
orphan: true
---

# Metering and augmentation, side by side

This page is written by `python docs/ext/metering.py <folder>...` from the results of `evaluate.py`. Accuracies
of clean images, and what drifts cost, in points, with 95% confidence intervals about the training recipe. Single drifts
are measured with `--against=exposures,sensor --exposures=0.5,0.05 --severities=3,4`, and groups, the means over their
cases, with `--against=pipelines,sensor,corruptions --severities=3`. [Prevent
drift](../drift_controls.md#prevent-drift) trains `six`, which does not meter, and `metered`, which meters and saw less
light in training. `metered_alone` saw no other light (`--epochs=12`, without `--camera_augmentation`), and
`three_purposes` also saw other optics and read-outs (`--camera_augmentation=light,optics,readout`).

{table}
"""


def main(*folders: str) -> None:
    """Writes the page from results of evaluate.py."""
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        if (result := read(pathlib.Path(folder))) is None:
            raise SystemExit(f"{folder} holds no result of evaluate.py")
        members = result.facts["members"]
        cells = found.setdefault(f"{members[0].split('/')[0]}, {len(members)} seeds", {})
        for table in (result.tables["cases"], result.tables["drops"]):
            cells |= {row[0].split(" (mean of")[0]: table.columns[1].text(row[1]) for row in table.rows}
        cells["clean"] = result.tables["drops"].columns[2].text(result.tables["drops"].rows[0][2])
    rows = [["", *found]]
    for title, name in {"**clean**": "clean", **CASES, **GROUPS}.items():
        rows.append([title, *(cells.get(name, "") for cells in found.values())])
    rows = [row for row in rows if any(row[1:])]
    heading, *others = (f"| {' | '.join(row)} |" for row in rows)
    table = "\n".join([heading, "| --- " * len(rows[0]) + "|", *others])
    RESULTS.write_text(_TEXT.format(table=table))


if __name__ == "__main__":
    main(*sys.argv[1:])
