"""Simulates sensor drifts, and plots the causes that a monitor names, and expected against true scores.

python docs/ext/expected_scores.py <run> <folder> needs a run of the embedded data set with 1080 scenes of 64x64. It
writes the numbers of each drift to the folder, resumes there, and draws expected_scores.png and diagnosis.png in it.

python docs/ext/expected_scores.py <run> <folder> 40 measures random cameras of two and three drifts instead, each with
another reference. The coverage of the expected scores goes to docs/results/expected_scores.csv.
"""

import collections
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import measurements
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

import isp
from isp import sensor_drift
from r2l_jax.data.sets import datasets
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.monitoring import alarm, expected, reference
from r2l_jax.drift.monitoring.diagnosis import SCENE, UNEXPLAINED, DriftEstimate, diagnose
from r2l_jax.drift.monitoring.simulation import FITTED
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import Run, load

# Kinds that the diagnosis can name, and others.
NAMED = (
    *("underexposure", "overexposure", "color_balance", "vignetting"),
    *("defocus", "read_noise", "photon_noise", "black_level"),
)
OTHERS = ("motion", "hot_sites", "flicker", "pattern_shift")
DRIFTS = (*cases.sensor(NAMED, (2, 3, 4, 5)), *cases.sensor(OTHERS, (3, 5)))

# Each drift is detected in some new images; the true score is measured on others.
_WINDOW, _MEASURED, _OWN, _FRESH = 64, 480, 1080, 1080

# The drift is diagnosed in this many windows; the score is estimated in the first.
_WINDOWS = 5

_STEPS = 2**12 - 1

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
_REFERENCE, _POOL = 480, 2000


def measure(run: Run, known: reference.Reference, drift: cases.Case) -> dict[str, Any]:
    """Measures the true score under a drift, and the expected one."""
    fold = run.folds[0]
    fresh = datasets.load("Synthetic", synthetic_images=_OWN + _FRESH, synthetic_size=64)
    drifted = acquisition.drifted(fold.config.data, fresh, drift, 0)
    order = _OWN + np.random.default_rng(list(drift.name.encode())).permutation(_FRESH)
    raws, _ = drifted.samples(order[: _WINDOWS * _WINDOW])
    # Sensor drifts do not round to the steps of the converter.
    windows = np.split(np.round(raws * _STEPS) / np.float32(_STEPS), _WINDOWS)
    others, targets = drifted.samples(order[-_MEASURED:])
    seen = see(run, windows[0])
    assert fresh.camera is not None
    diagnosis, *further = (diagnose(known.raws, known.labels, window, fresh.camera) for window in windows)
    found = None
    if expected.explained_by_camera(diagnosis):
        drifted = expected.by_camera(run, known, diagnosis, expected.without_drift(run, known).outcomes)
        found = None if expected.still_differs(run, drifted, windows[0]) else drifted.score
    return {
        "p_value": alarm.compare(known.seen, seen, 0.05).p_value,
        "true": float((run.predict(others).argmax(1) == targets).mean()),
        "diagnosis": diagnosis,
        "named": [each[0].name if each else "no cause" for each in (diagnosis, *further)],
        "expected": found,
    }


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
    mosaics = quantized(raws[known], np.uint16)
    held = reference.Reference(
        mosaics, targets[known], targets[known], np.arange(len(known)), "test", see(run, raws[known])
    )
    amounts = drawn(number)
    state = isp.CameraState(**amounts)
    new = sensor_drift.apply(raws[others], jax.random.key(number), state, camera=run.camera)
    new = np.round(np.asarray(new) * _STEPS) / np.float32(_STEPS)
    row: dict[str, Any] = {"drifts": amounts}
    row["true"] = float((run.predict(new).argmax(1) == targets[others]).mean())
    clean = expected.without_drift(run, held).outcomes
    for images in IMAGES:
        window, found, refused = new[:images], None, ""
        p_value = alarm.compare(held.seen, see(run, window), 0.05).p_value
        diagnosis = diagnose(held.raws, held.labels, window, run.camera) if p_value <= 0.05 else ()
        if expected.explained_by_camera(diagnosis):
            drifted = expected.by_camera(run, held, diagnosis, clean)
            found, refused = drifted.score, expected.still_differs(run, drifted, window)
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


def measure_cameras(run: Run, folder: pathlib.Path, count: int) -> None:
    """Measures the random cameras that the folder lacks, and writes the coverage of all."""
    fresh, rows = datasets.load("Synthetic", synthetic_images=_OWN + _POOL, synthetic_size=64), []
    raws, targets = fresh.samples(np.arange(_OWN, len(fresh)))
    for number in range(count):
        file = folder / f"camera_{number}.json"
        if not file.exists():
            file.write_text(json.dumps(monitored(run, raws, targets, number)))
        rows.append(json.loads(file.read_text()))
        print(number, json.dumps(rows[-1]), flush=True)
    measurements.write("expected_scores", coverage(rows))


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """States the mean error in points, and how many intervals contain the truth."""
    stated = [(row["true"], *row["expected"]) for row in rows.values() if row["expected"] is not None]
    errors = [abs(mean - true) for true, mean, *_ in stated]
    inside = np.mean([low <= true <= high for true, _, low, high in stated])
    return (
        f"{len(stated)} scores, mean error {100 * np.mean(errors):.1f} points, {inside:.0%} of intervals have the truth"
    )


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots expected against true scores, with their intervals."""
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    points = [(row["true"], *row["expected"]) for row in rows if row["expected"] is not None]
    true, mean, low, high = np.transpose(points)
    axes.errorbar(true, mean, np.maximum([mean - low, high - mean], 0), fmt="o", markersize=5, elinewidth=0.8)
    axes.set(xlabel="true accuracy", ylabel="expected accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    return figure


def confusion(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Plots how often each cause is named first under each kind of drift, over its severities and windows."""
    counts: dict[str, collections.Counter[str]] = {}
    for name, row in rows.items():
        counts.setdefault(name.rpartition(".")[0], collections.Counter()).update(row["named"])
    every = dict.fromkeys((*FITTED, "dead_sites", "hot_sites", SCENE, UNEXPLAINED, "no cause"))
    names = [name for name in every if any(name in row for row in counts.values())]
    table = np.array([[row[name] for name in names] for row in counts.values()])
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table / table.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        if count:
            axes.text(column, row, str(count), ha="center", va="center")
    axes.set_xticks(range(len(names)), [each.replace("_", " ") for each in names], rotation=40, ha="right")
    axes.set_yticks(range(len(counts)), [f"{each.replace('_', ' ')}, {row.total()}" for each, row in counts.items()])
    axes.set(xlabel="cause that is named first", ylabel="simulated drift, windows")
    return figure


def main(uri: str, folder: pathlib.Path, cameras: str | None = None) -> None:
    """Measures all drifts that the folder lacks, prints the mean errors, and draws the picture; or random cameras."""
    run = load(uri)
    folder.mkdir(parents=True, exist_ok=True)
    if cameras is not None:
        measure_cameras(run, folder, int(cameras))
        return
    known, _ = reference.of_run(run, reference.file_of(uri))
    rows = {}
    for drift in DRIFTS:
        file = folder / f"{drift.name}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(run, known, drift)))
        rows[drift.name] = row = json.loads(file.read_text())
        estimates = [DriftEstimate(*each) for each in row["diagnosis"][:3]]
        named = ", ".join(f"{each.name} {each.value:.3g}" for each in estimates)
        score = "not stated" if row["expected"] is None else f"{row['expected'][0]:.3f}"
        print(f"{drift.name}: p {row['p_value']:.4f}, true {row['true']:.3f}, expected {score}; {named}", flush=True)
    print(table(rows))
    draw([*rows.values()]).savefig(folder / "expected_scores.png", dpi=110)
    confusion(rows).savefig(folder / "diagnosis.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
