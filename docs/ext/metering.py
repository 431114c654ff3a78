"""Compares training recipes under the same drifts, as evaluate.py has measured them.

python docs/ext/metering.py <folder>... writes docs/results/metering.csv from the results of evaluate.py in the folders.
Rows of other trainings in the table stay.
"""

import pathlib
import re
import sys

import measurements

from r2l_jax.results.result import read

CASES = {
    "half the light": "light=0.5",
    "a twentieth of the light": "light=0.05",
    "one stop more light": "exposure=1",
    "red 0.7 stops brighter, blue 0.7 darker": "red_gain=0.7,blue_gain=-0.7",
    "lamp 60 mired warmer": "lamp_color=60",
    "black level 80 of 4095 higher": "black_level=80",
    "black level 160 of 4095 higher": "black_level=160",
    "corners one stop darker": "vignetting=1",
    "defocus of 1.5 pixels": "defocus=1.5",
    "defocus of 2.5 pixels": "defocus=2.5",
    "30 times the read noise": "read_noise=30",
    "row noise of 150 electrons": "row_noise=150",
}
GROUPS = {
    "twelve other pipelines": "pipelines",
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
        for table in (result.tables[name] for name in ("cases", "drops") if name in result.tables):
            cells |= {row[0].split(" (mean of")[0]: table.columns[1].text(row[1]) for row in table.rows}
        cells["clean"] = result.tables["drops"].columns[2].text(result.tables["drops"].rows[0][2])
    rows = [
        {"training": training, "seeds": seeds, "drift": title, **_numbers(cells[name])}
        for (training, seeds), cells in found.items()
        for title, name in {"clean": "clean", **CASES, **GROUPS}.items()
        if cells.get(name)
    ]
    new = {row["training"] for row in rows}
    measurements.write(
        "metering", [*(row for row in measurements.read("metering") if row["training"] not in new), *rows]
    )


def _numbers(cell: str) -> dict[str, str]:
    """Reads "64.8 (55.8 to 73.7)"."""
    return dict(zip(("points", "low", "high"), re.findall(r"-?[\d.]+", cell), strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
