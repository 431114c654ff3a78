"""Compares the speed of this library with widely used programs (see `r2l_jax.bench.baselines`).

Each row of the table is a piece of work with a bar to reach. Ours and the baseline take turns, because the speed of a
machine drifts from minute to minute by more than many changes gain: trust the ratio within a row, but do not compare
times of different runs. Each side has its own process and runs as it does in use: ours as `r2l_jax.cli.startup`
prepares it, the baseline without preparation. Functions are compiled before the clock starts. CPU times are those of
all cores together, and the least of all repetitions.

The floor is the time to read the input once and write the result once, into mapped memory. Where there is a tone curve,
it includes an exp and a log of each value.

On a GPU, PyTorch computes on the same GPU, and rows have no bars.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import isp
from r2l_jax.bench import baselines, inputs, ours, timing
from r2l_jax.bench.timing import Call, Times
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.errors import InputError
from r2l_jax.results import tables
from r2l_jax.results.environment import versions

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision", "kornia"),
    *("scipy", "scikit-image", "colour-demosaicing", "opencv-python-headless"),
    *("albumentations", "imagecorruptions-imaug"),
)

# The quantities of a camera state of each row, at values that all cost the same.
DRIFTS: dict[str, dict[str, float]] = {
    "light": {"exposure": -1},
    "gains": {"red_gain": 0.5, "blue_gain": -0.5},
    "noise": {"read_noise": 2},
    "defocus": {"defocus": 1},
    "motion": {"motion": 4},
    "chromatic_aberration": {"chromatic_aberration": 1},
    "all": dict.fromkeys(isp.sensor_drift.QUANTITIES, 1),
}


class Sizes(NamedTuple):
    """The shapes of raw images: to render, denoise, train or evaluate with, and to demosaic."""

    batch: tuple[int, int, int] = (32, 256, 256)
    mosaic: tuple[int, int] = (2048, 2048)


@dataclasses.dataclass(frozen=True)
class Row:
    """A piece of work in the table, and the bar that its value must reach: how many times as fast ours is.

    `inputs` makes the NumPy arrays that all sides are given; each side prepares its work with them, and returns the
    call to time. `floor` does the least work with the first array, which no function can beat.
    """

    name: str
    pixels: int
    inputs: Callable[[], tuple[np.ndarray, ...]]
    ours: Callable[..., Call]
    baseline: Callable[..., Call] | None
    bar: float | None
    floor: Callable[[np.ndarray], Call] | None = None

    def measure(self, repeats: int | None) -> tuple[Mapping[str, Sequence[Times]], str]:
        """Measures all sides, by default as often as time allows; notes why a baseline could not be measured."""
        inputs = self.inputs()
        # The baseline's process prepares its work while this one prepares ours.
        with contextlib.nullcontext() if self.baseline is None else timing.elsewhere(self.baseline, inputs) as baseline:
            stopwatches: dict[str, Callable[[], Times]] = {"ours": partial(timing.milliseconds, self.ours(*inputs))}
            if baseline is not None:
                stopwatches["baseline"] = baseline
            if self.floor is not None:
                stopwatches["floor"] = partial(timing.milliseconds, self.floor(inputs[0]))
            try:
                return timing.alternate(stopwatches, repeats), ""
            except timing.BaselineError as failure:
                del stopwatches["baseline"]
                return timing.alternate(stopwatches, repeats), str(failure)


def rows(sizes: Sizes, on_gpu: bool = False) -> list[Row]:
    """Returns all rows of the table for a CPU or a GPU."""

    def torch(work: Callable, **settings: Any) -> Callable:
        return partial(work, device="cuda" if on_gpu else "cpu", **settings)

    def row(name: str, side: tuple, baseline: Callable | None, bar: float | None) -> Row:
        make_inputs, shape, our_side, *floor = side
        return Row(
            name, math.prod(shape), partial(make_inputs, shape), our_side, baseline, None if on_gpu else bar, *floor
        )

    forward = inputs.raws, sizes.batch, ours.parametrized_forward, inputs.tone_floor
    gradient = inputs.raws_and_weights, sizes.batch, ours.parametrized_gradient, inputs.tone_floor
    step = inputs.raws_and_labels, sizes.batch, ours.train_step
    evaluation = inputs.raws_and_labels, sizes.batch, ours.evaluation
    fast = {"channels_last": True, "compiled": True}
    faster = 1 / 0.95
    demosaic = {
        method: (inputs.raws, sizes.mosaic, partial(ours.demosaic, method), inputs.copy_floor)
        for method in ("bilinear", "malvar2004", "menon2007")
    }
    made = [
        row("parametrized_forward", forward, torch(baselines.parametrized_forward), 15.0),
        row("parametrized_gradient", gradient, torch(baselines.parametrized_gradient), 10.0),
        row("torch_compile_forward", forward, torch(baselines.parametrized_forward, compiled=True), 5.0),
        row("torch_compile_gradient", gradient, torch(baselines.parametrized_gradient, compiled=True), 3.0),
        row("train_step", step, torch(baselines.train_step), 1.0),
        row("torch_channels_last_step", step, torch(baselines.train_step, channels_last=True), 1.0),
        row("torch_compile_step", step, torch(baselines.train_step, **fast), faster),
        row("evaluation", evaluation, torch(baselines.evaluation), 1.0),
        row("torch_compile_evaluation", evaluation, torch(baselines.evaluation, **fast), faster),
        row("demosaic_bilinear", demosaic["bilinear"], partial(baselines.demosaic, "bilinear"), 10.0),
        row("demosaic_malvar2004", demosaic["malvar2004"], partial(baselines.demosaic, "malvar2004"), 15.0),
        row("demosaic_menon2007", demosaic["menon2007"], partial(baselines.demosaic, "menon2007"), 10.0),
        row("demosaic_opencv", demosaic["bilinear"], baselines.demosaic_opencv, 1.0),
        row("demosaic_kornia", demosaic["bilinear"], torch(baselines.demosaic_kornia), 1.0),
    ]
    for algorithms in isp.PUBLISHED_STATIC:
        static = inputs.raws, sizes.batch, partial(ours.static, algorithms), inputs.tone_floor
        made.append(row("_".join(("static", *algorithms)), static, partial(baselines.static, algorithms), 10.0))
    for method in ("tv_chambolle", "tv_bregman", "bilateral"):
        denoise = inputs.images, sizes.batch, partial(ours.denoise, method)
        made.append(row(f"denoise_{method}", denoise, partial(baselines.denoise, method), 3.0))

    def corrupted(name: str, baseline: Callable, bar: float | None, library: str = "") -> Row:
        side = inputs.images, sizes.batch, partial(ours.corruption, name)
        return row(f"corruptions_{name}{library}", side, partial(baseline, name), bar)

    made += [corrupted(name, baselines.corruption, 1.0) for name in CORRUPTIONS if name != "identity"]
    for name in ("gaussian_noise", "gaussian_blur", "defocus_blur", "brightness", "saturate"):
        made.append(corrupted(name, torch(baselines.corruption_kornia), 1.0, "_kornia"))
    for name in ("gaussian_noise", "gaussian_blur", "glass_blur", "jpeg_compression"):
        made.append(corrupted(name, baselines.corruption_albumentations, None, "_albumentations"))
    for name, values in DRIFTS.items():
        drift = inputs.raws, sizes.batch, partial(ours.drift, isp.CameraState(**values))
        made.append(row(f"drifts_{name}", drift, None, None))
    return made


def run(names: Sequence[str] = (), repeats: int | None = None, sizes: Sizes | None = None) -> dict[str, Any]:
    """Measures rows on the device that JAX chooses; returns them with all samples, the machine and the versions.

    Must be called before any computation on a GPU. Measures the rows whose names begin with one of `names`, by
    default all rows, `repeats` times, by default as often as time allows. Bars are made for the default sizes.
    """
    # Several processes share a GPU: by default, the first one that uses JAX takes three quarters of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # PyTorch computes on one GPU, and JAX would train on all.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    known = rows(sizes or Sizes(), jax.default_backend() == "gpu")
    for name in names:
        if not any(row.name.startswith(name) for row in known):
            raise InputError(f"`rows` must be prefixes of {', '.join(row.name for row in known)}, got {name!r}")
    chosen = [row for row in known if not names or row.name.startswith(tuple(names))]
    results = []
    for row in (progress := tqdm(chosen, unit="row", disable=None)):
        progress.set_description(row.name)
        results.append(_result(row, *row.measure(repeats)))
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    machine = {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }
    return {"rows": results, "machine": machine, "versions": versions(PACKAGES)}


def _result(row: Row, samples: Mapping[str, Sequence[Times]], note: str) -> dict[str, Any]:
    """Returns a row of JSON: "ours", "baseline" and "floor" have columns in the table."""
    times, cpu = ({name: [each[part] for each in side] for name, side in samples.items()} for part in (0, 1))
    median = {name: statistics.median(side) for name, side in times.items()}
    least, best, value, cpu_value = {name: min(side) for name, side in cpu.items()}, None, None, None
    if "baseline" in samples:
        value, cpu_value = median["baseline"] / median["ours"], least["baseline"] / least["ours"]
        # A row misses its bar only by more than noise, that is, even when the better quartiles are compared.
        best = float(np.quantile(times["baseline"], 0.75) / np.quantile(times["ours"], 0.25))
    return {
        "name": row.name,
        "bar": row.bar,
        "value": value,
        "cpu_value": cpu_value,
        "missed": best is not None and row.bar is not None and best < row.bar,
        **{f"{name}_ms": median.get(name) for name in ("ours", "baseline", "floor")},
        **{f"{name}_cpu_ms": least.get(name) for name in ("ours", "baseline")},
        "cpu_ns_per_pixel": 1e6 * least["ours"] / row.pixels,
        "pixels": row.pixels,
        "times_floor": median["ours"] / median["floor"] if "floor" in median else None,
        "note": note,
        "samples_ms": times,
        "cpu_ms": cpu,
    }


def missed(result: Mapping[str, Any]) -> list[str]:
    """Returns the names of the rows that miss one of their bars by more than noise."""
    return [row["name"] for row in result["rows"] if row["missed"]]


def table(result: Mapping[str, Any]) -> str:
    """Formats the result of `run` as a text table."""

    def cell(number: float | None, unit: str = "") -> str:
        return "-" if number is None else f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}{unit}"

    columns = {
        "row": lambda row: row["name"],
        "ours ms": lambda row: cell(row["ours_ms"]),
        "baseline ms": lambda row: cell(row["baseline_ms"]),
        "measured": lambda row: cell(row["value"], "x"),
        "in CPU time": lambda row: cell(row["cpu_value"], "x"),
        "CPU ns/pixel": lambda row: cell(row["cpu_ns_per_pixel"]),
        "bar": lambda row: cell(row["bar"], "x"),
        "floor ms": lambda row: cell(row["floor_ms"]),
        "ours/floor": lambda row: cell(row["times_floor"], "x"),
        "missed": lambda row: "missed" if row["missed"] else "",
        "note": lambda row: row["note"],
    }
    lines = [list(columns), *([text(row) for text in columns.values()] for row in result["rows"])]
    measured_on = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    installed = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return f"{tables.table(lines)}\n\n{measured_on}\n{installed}"
