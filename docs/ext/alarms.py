"""Plots how often a monitor raises an alarm, over the size of drifts and the images per window.

python docs/ext/alarms.py <run> <folder> needs a run of the embedded data set with 1080 scenes of 64x64. It writes the
alarms of each drift to the folder, resumes there, and draws docs/images/alarms.png.

python docs/ext/alarms.py <run> <folder> 1000 64 takes windows of 64 images without a drift, and counts the alarms of a
monitor that promises one in 1000 windows; it ends when 25 are expected, and resumes in the folder. The counts of all
such calls go to docs/results/false_alarms.csv.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax
import measurements
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from isp import sensor_drift
from r2l_jax.data.sets import datasets
from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.statistics import Seen, see
from r2l_jax.training.run import Run, load

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/alarms.png"

# The amounts of `isp.sensor_drift`, from none to one that any window detects.
AMOUNTS = {
    "underexposure": (0, 0.025, 0.05, 0.1),
    "color_balance": (0, 0.0125, 0.025, 0.05),
    "black_level": (0, 8, 16, 32),
    "defocus": (0, 0.25, 0.5, 0.75),
    "read_noise": (1, 1.5, 2, 3),
}
TITLES = {
    "underexposure": "stops less light",
    "color_balance": "stops more red, less blue",
    "black_level": "digital numbers of 12 bits",
    "defocus": "blur in pixels",
    "read_noise": "times the read noise",
}
WINDOWS = (16, 64, 256)
DRAWS, LEVEL = 20, 0.05

_OWN, _REFERENCES, _REFERENCE, _NEW = 1080, 1500, 480, 1000
_STEPS = 2**12 - 1
_AT_ONCE, _EXPECTED = 100, 25


def picked(seen: Seen, places: np.ndarray) -> Seen:
    """Returns the statistics of some images."""
    return Seen(seen.mosaic[places], seen.image[places], seen.output[places], seen.features[places],
                seen.probabilities[:, places])  # fmt: skip


def p_value(known: Seen, new: Seen, window: int, seed: int, level: float) -> float:
    """Compares a window with a reference, both drawn at random."""
    random = np.random.default_rng((window, seed))
    reference = random.choice(len(known.mosaic), _REFERENCE, replace=False)
    places = random.choice(len(new.mosaic), window, replace=False)
    return alarm.compare(picked(known, reference), picked(new, places), level, seed).p_value


def powers(run: Run, raws: np.ndarray, folder: pathlib.Path) -> dict[str, dict[float, list[float]]]:
    """Returns the share of windows with an alarm, by kind and amount, for each size of the window."""
    camera, known, found = run.camera, see(run, raws[:_REFERENCES]), {}
    assert camera is not None
    for kind, amounts in AMOUNTS.items():
        drift = jax.vmap(functools.partial(getattr(sensor_drift, kind), camera=camera), (0, 0, None))
        keys = jax.random.split(jax.random.key(1), _NEW)
        for amount in amounts:
            file = folder / f"{kind}_{amount}.json"
            if not file.exists():
                # Sensor drifts do not round to the steps of the converter.
                drifted = np.round(np.asarray(drift(raws[-_NEW:], keys, amount)) * _STEPS) / np.float32(_STEPS)
                new = see(run, drifted)
                rows = [[p_value(known, new, size, seed, LEVEL) for seed in range(DRAWS)] for size in WINDOWS]
                file.write_text(json.dumps(rows))
            shares = (np.array(json.loads(file.read_text())) <= LEVEL).mean(1)
            found.setdefault(kind, {})[amount] = shares.tolist()
            print(kind, amount, *(f"{size} images: {share:.0%}" for size, share in zip(WINDOWS, shares, strict=True)))
            sys.stdout.flush()
    return found


def draw(found: Mapping[str, Mapping[float, Sequence[float]]]) -> Figure:
    """Draws the shares of alarms over the amount of each kind of drift."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (kind, by_amount) in zip(panels, found.items(), strict=True):
        shares: Float[np.ndarray, "amounts windows"] = np.array([*by_amount.values()])
        for place, size in enumerate(WINDOWS):
            axes.plot([*by_amount], shares[:, place], marker=".", label=f"{size} images")
        axes.axhline(LEVEL, color="gray", linestyle=":", linewidth=1)
        axes.set(xlabel=TITLES[kind], title=kind.replace("_", " "), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of windows with an alarm")
    panels[0].legend(fontsize="small", loc="lower right")
    return figure


def count_false_alarms(run: Run, raws: np.ndarray, folder: pathlib.Path, every: int, window: int) -> None:
    """Takes windows without a drift, each with another reference, and counts those with an alarm."""
    seen, file, level = see(run, raws), folder / f"windows_{every}_{window}.json", 1 / every
    found = json.loads(file.read_text()) if file.exists() else []
    known, new = picked(seen, np.arange(_REFERENCES)), picked(seen, np.arange(_REFERENCES, len(raws)))
    while len(found) < _EXPECTED * every:
        found += [p_value(known, new, window, seed, level) for seed in range(len(found), len(found) + _AT_ONCE)]
        file.write_text(json.dumps(found))
        print(f"{sum(value <= level for value in found)} alarms in {len(found)} windows", flush=True)


def counted(folder: pathlib.Path) -> list[dict[str, object]]:
    """Returns the false alarms that are counted in a folder, with the 95% confidence intervals of their rates."""
    rows = []
    for file in folder.glob("windows_*_*.json"):
        every, window = map(int, file.stem.split("_")[1:])
        values = json.loads(file.read_text())
        alarms = sum(value <= 1 / every for value in values)
        low, high = stats.binomtest(alarms, len(values)).proportion_ci(method="exact")
        percent = {"percent": alarms / len(values), "low": low, "high": high}
        counts = {"promised_one_in": every, "images": window, "windows": len(values), "alarms": alarms}
        rows.append({**counts, **{name: f"{100 * value:.2g}" for name, value in percent.items()}})
    return sorted(rows, key=lambda row: (row["promised_one_in"], row["images"]))


def main(uri: str, folder: pathlib.Path, every: str | None = None, window: str = "64") -> None:
    """Counts the alarms under all drifts and draws them, or counts false alarms."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = datasets.load("Synthetic", synthetic_images=_OWN + _REFERENCES + _NEW, synthetic_size=64)
    raws, _ = fresh.samples(np.arange(_OWN, len(fresh)))
    if every is None:
        draw(powers(load(uri), raws, folder)).savefig(PICTURE, dpi=110)
    else:
        count_false_alarms(load(uri), raws, folder, int(every), int(window))
        measurements.write("false_alarms", counted(folder))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
