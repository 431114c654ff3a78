"""Compares training recipes under the same drifts, as evaluate.py has measured them.

python docs/ext/metering.py <folder>... writes docs/results/metering.csv from the results of evaluate.py in the folders.
"""

import pathlib
import re
import sys

import measurements

from r2l_jax.results.result import read

CASES = {
    "half the light": "light=0.5",
    "a tenth of the light": "light=0.1",
    "a twentieth of the light": "light=0.05",
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


def main(*folders: str) -> None:
    """Writes the table from results of evaluate.py."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for folder in folders:
        if (result := read(pathlib.Path(folder))) is None:
            raise SystemExit(f"{folder} holds no result of evaluate.py")
        members = result.metadata["members"]
        cells = found.setdefault((members[0].split("/")[0], len(members)), {})
        for table in (result.tables["cases"], result.tables["drops"]):
            cells |= {row[0].split(" (mean of")[0]: table.columns[1].text(row[1]) for row in table.rows}
        cells["clean"] = result.tables["drops"].columns[2].text(result.tables["drops"].rows[0][2])
    rows = [
        {"training": training, "seeds": seeds, "drift": title, **_numbers(cells[name])}
        for (training, seeds), cells in found.items()
        for title, name in {"clean": "clean", **CASES, **GROUPS}.items()
        if cells.get(name)
    ]
    measurements.write("metering", rows)


def _numbers(cell: str) -> dict[str, str]:
    """Reads "64.8 (55.8 to 73.7)"."""
    return dict(zip(("points", "low", "high"), re.findall(r"-?[\d.]+", cell), strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
