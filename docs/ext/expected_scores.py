"""Counts how often a monitor's expected score has the true one in its interval, for random cameras.

python docs/ext/expected_scores.py <run> <folder> 40 needs a run of the embedded data set with 1080 scenes of 64x64. It
simulates 40 cameras of two and three drifts, each with another reference, writes the numbers of each to the folder,
resumes there, and writes docs/results/expected_scores.csv. As in diagnoses.py, all images are taken 1.6 stops darker
than the scenes.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import diagnoses
import jax
import measurements
import numpy as np
from scipy import stats

from r2l_jax.data.sets import datasets
from r2l_jax.drift.monitoring import alarm, expected, reference
from r2l_jax.drift.monitoring.diagnosis import diagnose
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import Run, load

# The states of random cameras, see `isp.CameraState`, and the numbers of new images that show them.
AMOUNTS = {
    "exposure": (-1.0, 1.0),
    **dict.fromkeys(("red_gain", "blue_gain"), (-0.6, 0.6)),
    "black_level": (-60.0, 60.0),
    "defocus": (0.4, 2.0),
    "read_noise": (1.5, 5.0),
    "photon_noise": (1.5, 4.0),
    "vignetting": (0.3, 1.5),
}
IMAGES = (64, 256)
_OWN, _REFERENCE, _POOL = 1080, 480, 2000


def drawn(number: int) -> dict[str, float]:
    """Draws the amounts of a random camera: two drifts if its number is even, and three if it is odd."""
    random = np.random.default_rng(number)
    chosen = random.choice([*AMOUNTS], 2 + number % 2, replace=False)
    return {str(name): float(random.uniform(*AMOUNTS[name])) for name in chosen}


def monitored(run: Run, raws: np.ndarray, targets: np.ndarray, number: int) -> dict[str, Any]:
    """Monitors a random camera with a random reference; the true score is measured on all other scenes."""
    assert run.camera is not None
    order = np.random.default_rng([number, 1]).permutation(len(raws))
    known, others = np.sort(order[:_REFERENCE]), order[_REFERENCE:]
    old = diagnoses.taken(raws[known], jax.random.key(number + 2000), {}, run.camera, number)
    seen = see(run, old)
    held = reference.Reference(
        quantized(old, np.uint16), targets[known], targets[known], np.arange(len(known)), "test", seen
    )
    amounts = drawn(number)
    new = diagnoses.taken(raws[others], jax.random.key(number), amounts, run.camera, number)
    row: dict[str, Any] = {"drifts": amounts}
    row["true"] = float((run.predict(new).argmax(1) == targets[others]).mean())
    clean = expected.without_drift(run, held).outcomes
    for images in IMAGES:
        window, found, refused = new[:images], None, ""
        p_value = alarm.compare(held.seen, see(run, window), 0.05).p_value
        diagnosis = diagnose(held.raws, held.labels, window, run.camera) if p_value <= 0.05 else ()
        if expected.explained_by_camera(diagnosis):
            drifted = expected.by_camera(run, held, diagnosis, clean)
            found, refused = drifted.score, expected.still_differs(run, drifted, held.groups, window)
        row[f"{images}"] = {"p_value": p_value, "diagnosis": diagnosis, "expected": found, "refused": refused}
    return row


def coverage(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Counts the cameras with an alarm, those with an expected score, and the scores whose interval has the truth.

    The true score is itself measured on `_POOL - _REFERENCE` images. `inside` allows for its standard error, which adds
    to that of the interval; `inside_as_measured` does not.
    """
    table, of_truth = [], _POOL - _REFERENCE
    for drifts in (2, 3):
        for images in IMAGES:
            of_size = [(row["true"], row[f"{images}"]) for row in rows if len(row["drifts"]) == drifts]
            stated = [(true, *each["expected"]) for true, each in of_size if each["expected"] and not each["refused"]]
            as_measured = sum(low <= true <= high for true, _, low, high in stated)
            inside = 0
            for true, mean, low, high in stated:
                error = 1.96 * np.sqrt(true * (1 - true) / of_truth)
                inside += bool(mean - np.hypot(mean - low, error) <= true <= mean + np.hypot(high - mean, error))
            errors = [100 * abs(mean - true) for true, mean, *_ in stated]
            alarms = sum(each["p_value"] <= 0.05 for _, each in of_size)
            counts = {"drifts": drifts, "images": images, "cameras": len(of_size), "alarms": alarms}
            ends = stats.binomtest(inside, len(stated)).proportion_ci(method="exact") if stated else (0.0, 1.0)
            shares = {"percent": inside / max(len(stated), 1), "low": ends[0], "high": ends[1]}
            percents = {name: f"{100 * share:.0f}" for name, share in shares.items()}
            mean_error = f"{np.mean(errors):.1f}" if errors else ""
            counts |= {"stated": len(stated), "inside_as_measured": as_measured, "inside": inside}
            table.append({**counts, **percents, "mean_error": mean_error})
    return table


def main(uri: str, folder: pathlib.Path, count: int) -> None:
    """Measures the random cameras that the folder lacks, and writes the coverage of all."""
    run = load(uri)
    folder.mkdir(parents=True, exist_ok=True)
    fresh, rows = datasets.load("Synthetic", synthetic_images=_OWN + _POOL, synthetic_size=64), []
    raws, targets = fresh.samples(np.arange(_OWN, len(fresh)))
    for number in range(count):
        file = folder / f"camera_{number}.json"
        if not file.exists():
            file.write_text(json.dumps(monitored(run, raws, targets, number)))
        rows.append(json.loads(file.read_text()))
        print(number, json.dumps(rows[-1]), flush=True)
    measurements.write("expected_scores", coverage(rows))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
