"""Measures the monitor's diagnosis: of random camera states, how often it names their causes and their sizes.

python docs/ext/diagnoses.py <folder> [<part> <parts>] draws states of one to three quantities, takes embedded scenes
with such cameras, and diagnoses them from 64 and from 256 images of 48x48 to 96x96 sites. In four more, only the shares
of the classes differ. It writes each diagnosis to the folder, resumes there, and writes docs/results/diagnoses.csv.
Parts of the states can be computed at the same time.
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
# All images are taken this many stops darker than the scenes, so that no state makes an image brighter than its scene.
# A simulation cannot remove noise: a brightened image would be noisier than one from a real camera.
_DARKER = 1.6


def drawn(number: int) -> dict[str, float]:
    """Draws the amounts of a random state: one to three; none of those after the last."""
    random = np.random.default_rng([number, 70])
    chosen = random.choice([*AMOUNTS], 1 + number % 3, replace=False) if number < STATES else ()
    return {str(name): float(random.uniform(*AMOUNTS[name])) for name in chosen}


def taken(
    raws: np.ndarray, key: jax.Array, amounts: Mapping[str, float], camera: isp.Camera, sensor: int
) -> np.ndarray:
    """Takes raw images, with 12 bits, by the sensor of this number in the state of these amounts."""
    darker = isp.CameraState(**{**amounts, "exposure": amounts.get("exposure", 0.0) - _DARKER})
    sensor_key = jax.random.key(sensor + 1000)
    take = jax.vmap(lambda raw, key: sensor_drift.apply(raw, key, darker, camera=camera, sensor_key=sensor_key))
    mosaics = take(raws, jax.random.split(key, len(raws)))
    return np.round(np.asarray(mosaics) * _STEPS) / np.float32(_STEPS)


def diagnosed(raws: np.ndarray, labels: np.ndarray, camera: isp.Camera, number: int) -> dict[str, Any]:
    """Diagnoses a random state with a random reference; after the last state, other shares of classes."""
    random, amounts = np.random.default_rng([number, 1]), drawn(number)
    order = random.permutation(len(raws))
    known, others = order[:_REFERENCE], order[_REFERENCE:]
    if number >= STATES:
        weights = np.where(labels[others] % 3 == number % 3, 4.0, 1.0)
        others = others[np.argsort(random.random(len(others)) ** (1 / weights))[::-1]]
    others = others[: max(IMAGES)]
    new = taken(raws[others], jax.random.key(number), amounts, camera, number)
    old = taken(raws[known], jax.random.key(number + 2000), {}, camera, number)
    found = {str(count): diagnose(old, labels[known], new[:count], camera) for count in IMAGES}
    return {"state": amounts, "side": raws.shape[1], **found}


def counted(rows: Sequence[Mapping[str, Any]], images: int, of_states: bool) -> dict[str, object]:
    """Counts the named causes, the false ones, and the intervals that hold the true amount."""
    chosen = [
        (row["state"], {each[0]: each for each in row[str(images)]}) for row in rows if bool(row["state"]) == of_states
    ]
    possible = [{*state, *([] if of_states else ["scene"])} for state, _ in chosen]
    causes = [(amount, found.get(name)) for state, found in chosen for name, amount in state.items()]
    stated = [(amount, estimate) for amount, estimate in causes if estimate]
    inside = sum(low <= amount <= high for amount, (_, _, low, high, *_) in stated)
    ends = stats.binomtest(inside, len(stated)).proportion_ci(method="exact") if stated else (0.0, 1.0)
    return {
        "images": images,
        "changed": "camera" if of_states else "shares of classes",
        "cameras": len(chosen),
        "without_false_cause": sum(found.keys() <= names for (_, found), names in zip(chosen, possible, strict=True)),
        "scene": sum("scene" in found for _, found in chosen),
        "unexplained": sum("unexplained" in found for _, found in chosen),
        "causes": len(causes),
        "named": len(stated),
        "inside": inside,
        **{name: f"{100 * each:.0f}" for name, each in zip(("low", "high"), ends, strict=True)},
    }


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
    rows = [json.loads(file.read_text()) for file in folder.glob("state_*.json")]
    measurements.write("diagnoses", [counted(rows, images, kind) for images in IMAGES for kind in (True, False)])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
