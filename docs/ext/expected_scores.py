"""Simulates sensor drifts, and plots the drift types that a monitor names, and expected against true scores.

python docs/ext/expected_scores.py <run> <folder> needs a run of the embedded data set with 1080 scenes of 64x64. It
writes the numbers of each drift to the folder, resumes there, and draws expected_scores.png and diagnosis.png in it.
"""

import collections
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.data.sets import datasets
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.monitoring import alarm, expected, reference
from r2l_jax.drift.monitoring.diagnosis import diagnose
from r2l_jax.drift.monitoring.drift_types import UNITS, DriftEstimate
from r2l_jax.drift.monitoring.statistics import see
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

_METHODS = {expected.CAMERA: ("tab:blue", "o"), expected.COT: ("tab:orange", "s")}


def measure(run: Run, known: reference.Reference, drift: cases.Case) -> dict[str, Any]:
    """Measures the true score under a drift, and the expected ones by all methods."""
    fold = run.folds[0]
    fresh = datasets.load("Synthetic", synthetic_images=_OWN + _FRESH, synthetic_size=64)
    drifted = acquisition.drifted(fold.config.data, fresh, drift, None, 0)
    order = _OWN + np.random.default_rng(list(drift.name.encode())).permutation(_FRESH)
    raws, _ = drifted.samples(order[: _WINDOWS * _WINDOW])
    # Sensor drifts do not round to the steps of the converter.
    windows = np.split(np.round(raws * _STEPS) / np.float32(_STEPS), _WINDOWS)
    others, targets = drifted.samples(order[-_MEASURED:])
    seen = see(run, windows[0])
    assert fresh.camera is not None
    diagnosis, *further = (diagnose(known.raws, known.labels, window, fresh.camera) for window in windows)
    found = {expected.COT: expected.by_confidence(known.targets, seen.probabilities.mean(0))}
    if expected.explained_by_camera(diagnosis):
        found[expected.CAMERA] = expected.by_camera(run, known, diagnosis).score
    return {
        "p_value": alarm.compare(known.seen, seen, 0.05).p_value,
        "true": float((run.predict(others).argmax(1) == targets).mean()),
        "diagnosis": diagnosis,
        "named": [each[0].name if each else "no drift type" for each in (diagnosis, *further)],
        "expected": {name: [each.mean, each.low, each.high] for name, each in found.items()},
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the mean errors of all methods in points, for drifts that the camera explains and others."""
    lines = []
    for title, explained in (("explained by the camera", True), ("not explained", False)):
        chosen = [row for row in rows.values() if (expected.CAMERA in row["expected"]) == explained]
        for method in _METHODS:
            errors = [abs(row["expected"][method][0] - row["true"]) for row in chosen if method in row["expected"]]
            inside = [
                row["expected"][method][1] <= row["true"] <= row["expected"][method][2]
                for row in chosen
                if method in row["expected"]
            ]
            if errors:
                words = (
                    f"mean error {100 * np.mean(errors):.1f} points, {np.mean(inside):.0%} of intervals with the truth"
                )
                lines.append(f"{title}, {len(errors)} drifts, {method}: {words}")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots expected against true scores, with the intervals of the method `CAMERA`."""
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for method, (color, marker) in reversed(_METHODS.items()):
        points = [(row["true"], *row["expected"][method]) for row in rows if method in row["expected"]]
        true, mean, low, high = np.transpose(points)
        errors = np.maximum([mean - low, high - mean], 0) if method == expected.CAMERA else None
        label = "reference under the diagnosed drift" if method == expected.CAMERA else f"confidence, {method}"
        axes.errorbar(true, mean, errors, fmt=marker, color=color, markersize=5, elinewidth=0.8, alpha=0.8, label=label)
    axes.set(xlabel="true accuracy", ylabel="expected accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.legend(loc="lower right", fontsize="small")
    return figure


def confusion(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Plots how often each drift type is named first under each kind of drift, over its severities and windows."""
    counts: dict[str, collections.Counter[str]] = {}
    for name, row in rows.items():
        counts.setdefault(name.rpartition(".")[0], collections.Counter()).update(row["named"])
    every = dict.fromkeys((*UNITS, "scene", "unexplained", "no drift type"))
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
    axes.set(xlabel="drift type that is named first", ylabel="simulated drift, windows")
    return figure


def main(uri: str, folder: pathlib.Path) -> None:
    """Measures all drifts that the folder lacks, prints the mean errors, and draws the picture."""
    run = load(uri)
    known, _ = reference.of_run(run, reference.file_of(uri))
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for drift in DRIFTS:
        file = folder / f"{drift.name}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(run, known, drift)))
        rows[drift.name] = row = json.loads(file.read_text())
        estimates = [DriftEstimate(*each) for each in row["diagnosis"][:3]]
        named = ", ".join(f"{each.name} {each.value:.3g}" for each in estimates)
        scores = ", ".join(f"{name} {each[0]:.3f}" for name, each in row["expected"].items())
        print(f"{drift.name}: p {row['p_value']:.4f}, true {row['true']:.3f}, {scores}; {named}", flush=True)
    print(table(rows))
    draw([*rows.values()]).savefig(folder / "expected_scores.png", dpi=110)
    confusion(rows).savefig(folder / "diagnosis.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
