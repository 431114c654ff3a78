"""Measures the monitor's diagnosis: of random camera states, how often it names their causes and their sizes.

python docs/ext/diagnoses.py <folder> [<part> <parts>] draws states of one to three quantities, takes embedded scenes with
such cameras, and diagnoses them from 64 and from 256 images of 48x48 to 96x96 sites. In four more, only the shares of
the classes differ. It writes each diagnosis to the folder, resumes there, and writes docs/results/diagnoses.csv. Parts of
the states can be computed at the same time.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import measurements
import numpy as np
from scipy import stats

import isp
from isp import sensor_drift
from r2l_jax.data.sets import datasets
from r2l_jax.drift.monitoring.diagnosis import diagnose

# The ranges of the amounts of random states.
AMOUNTS = {
    "exposure": (-1.0, 1.0),
    **dict.fromkeys(("red_gain", "blue_gain"), (-0.6, 0.6)),
    "vignetting": (0.3, 1.5),
    "defocus": (0.4, 2.0),
    "read_noise": (1.5, 5.0),
    "photon_noise": (1.5, 4.0),
    "row_noise": (5.0, 40.0),
    "dead_sites": (500.0, 5000.0),
    "hot_sites": (500.0, 5000.0),
    "black_level": (-60.0, 60.0),
    "gamma": (0.7, 1.4),
}
STATES, IMAGES, SIDES = 40, (64, 256), (48, 64, 96)
_REFERENCE, _POOL, _STEPS = 256, 1000, 2**12 - 1


def drawn(number: int) -> dict[str, float]:
    """Draws the amounts of a random state: one to three; none of those after the last."""
    random = np.random.default_rng(number)
    chosen = random.choice([*AMOUNTS], 1 + number % 3, replace=False) if number < STATES else ()
    return {str(name): float(random.uniform(*AMOUNTS[name])) for name in chosen}


def diagnosed(raws: np.ndarray, labels: np.ndarray, camera: isp.Camera, number: int) -> dict[str, Any]:
    """Diagnoses a random state with a random reference; after the last state, other shares of classes."""
    random, amounts = np.random.default_rng([number, 1]), drawn(number)
    order = random.permutation(len(raws))
    known, others = order[:_REFERENCE], order[_REFERENCE:]
    if number >= STATES:
        weights = np.where(labels[others] % 3 == number % 3, 4.0, 1.0)
        others = others[np.argsort(random.random(len(others)) ** (1 / weights))[::-1]]
    others = others[: max(IMAGES)]
    keys, sensor_key = jax.random.split(jax.random.key(number), len(others)), jax.random.key(number + 1000)
    take = jax.vmap(
        lambda raw, key, state: sensor_drift.apply(raw, key, state, camera=camera, sensor_key=sensor_key),
        (0, 0, None),
    )
    new = np.round(np.asarray(take(raws[others], keys, isp.CameraState(**amounts))) * _STEPS) / np.float32(_STEPS)
    found = {str(count): diagnose(raws[known], labels[known], new[:count], camera) for count in IMAGES}
    return {"state": amounts, "side": raws.shape[1], **found}


def measured(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Counts the named causes, the false ones, and the intervals that hold the true amount."""
    table = []
    for images in map(str, IMAGES):
        for kind, chosen in (
            ("states", [row for row in rows if row["state"]]),
            ("shares", [row for row in rows if not row["state"]]),
        ):
            named = [{each[0]: each for each in row[images]} for row in chosen]
            true = [
                (row["state"][name], found.get(name))
                for row, found in zip(chosen, named, strict=True)
                for name in row["state"]
            ]
            inside = sum(each[2] <= amount <= each[3] for amount, each in true if each)
            stated = sum(each is not None for _, each in true)
            clean = sum(
                found.keys() <= row["state"].keys() | ({"scene"} if kind == "shares" else set())
                for row, found in zip(chosen, named, strict=True)
            )
            ends = stats.binomtest(inside, stated).proportion_ci(method="exact") if stated else (0.0, 1.0)
            table.append({
                "images": images, "changed": kind, "cameras": len(chosen), "without_false_cause": clean,
                "with_scene": sum("scene" in found for found in named), "unexplained": sum("unexplained" in found for found in named),
                "causes": len(true), "named": stated, "inside": inside,
                "percent": f"{100 * inside / max(stated, 1):.0f}", "low": f"{100 * ends[0]:.0f}", "high": f"{100 * ends[1]:.0f}",
            })  # fmt: skip
    return table


def main(folder: pathlib.Path, part: int = 0, parts: int = 1) -> None:
    """Measures the states that the folder lacks, and writes the table of all that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    # States of one size follow each other, so that each size is compiled once.
    for side in SIDES:
        fresh = datasets.load("Synthetic", synthetic_images=_POOL, synthetic_size=side)
        raws, labels = fresh.samples(np.arange(_POOL))
        assert fresh.camera is not None
        for number in range(STATES + 4):
            file = folder / f"state_{number}.json"
            if SIDES[number // 3 % 3] == side and number // 9 % parts == part and not file.exists():
                file.write_text(json.dumps(diagnosed(np.asarray(raws), np.asarray(labels), fresh.camera, number)))
                print(number, file.read_text(), flush=True)
    measurements.write("diagnoses", measured([json.loads(file.read_text()) for file in folder.glob("state_*.json")]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
