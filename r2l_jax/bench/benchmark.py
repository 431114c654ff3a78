"""Compares the speed of this library with that of the programs in use today (see `r2l_jax.bench.baselines`).

Each row of the table is a piece of work with a bar to reach; searches are compared with searches of this library. Ours
and the baseline take turns, because the speed of a machine drifts by more from minute to minute than many a change is
worth: trust the ratio within a row, but do not compare times of different runs. Each side has its own process and runs
as it does in use: ours as `r2l_jax.runtime.startup` prepares it, the baseline without preparation. Functions are
compiled before the clock starts. Compile times have rows of their own, measured in fresh processes.

The floor is the time that the machine needs to read the input once and to write the result once, into memory that is
mapped already, with an exp and a log of each value where there is a tone curve. Some rows have a second bar: how many
times as long as the floor ours may take.
"""

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
from r2l_jax.bench import baselines, floors, frames, inputs, ours
from r2l_jax.bench.compiling import compile_times, pipeline_name
from r2l_jax.bench.rows import Comparison, Measured, Row
from r2l_jax.runtime import tables
from r2l_jax.runtime.environment import versions
from r2l_jax.runtime.errors import InputError

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy"),
    *("torch", "torchvision", "segmentation-models-pytorch", "halide", "kornia"),
    *("scipy", "scikit-image", "colour-demosaicing", "opencv-python-headless"),
)


class Sizes(NamedTuple):
    """The shapes of mosaics.

    Attributes:
        batch: the batch of most rows.
        large: the batch of networks that are larger than a ResNet-18.
        mosaic: the mosaic to demosaic.
        frames: a large frame to measure memory with, and a larger one whose pixels should take no longer.
        search: the samples that searches draw from.
    """

    batch: tuple[int, int, int] = (32, 256, 256)
    large: tuple[int, int, int] = (8, 256, 256)
    mosaic: tuple[int, int] = (2048, 2048)
    frames: tuple[tuple[int, int], tuple[int, int]] = ((4000, 6000), (10_000, 10_000))
    search: tuple[int, int, int] = (32, 64, 64)


def rows(sizes: Sizes) -> list[Row]:
    """Returns all rows of the table."""
    raws, weighted, labeled, images = (
        partial(make, sizes.batch)
        for make in (inputs.raws, inputs.raws_and_weights, inputs.raws_and_labels, inputs.images)
    )
    table = [
        Row(
            "parametrized_forward",
            15.0,
            25.0,
            Comparison(raws, ours.parametrized_forward, baselines.parametrized_forward, floors.tone_floor),
            most_floors=2.5,
        ),
        Row(
            "parametrized_gradient",
            10.0,
            20.0,
            Comparison(weighted, ours.parametrized_gradient, baselines.parametrized_gradient, floors.tone_floor),
            most_floors=14.0,
        ),
        Row("train_step", 1.0, 1.25, Comparison(labeled, ours.train_step, baselines.train_step)),
        *_compiled_rows(raws, weighted, labeled),
        *_large_network_rows(sizes.large),
    ]
    for method, bar, stretch, most_floors in (
        ("bilinear", 10.0, 20.0, 3.0),
        ("malvar2004", 15.0, 40.0, 4.0),
        ("menon2007", 10.0, 20.0, 4.0),
    ):
        our_side, their_side = partial(ours.demosaic, method), partial(baselines.demosaic, method)
        compare = Comparison(partial(inputs.raws, sizes.mosaic), our_side, their_side, floors.copy_floor)
        table.append(Row(f"demosaic_{method}", bar, stretch, compare, most_floors=most_floors))
    for library, their_side in (("opencv", baselines.demosaic_opencv), ("kornia", baselines.demosaic_kornia)):
        our_side = partial(ours.demosaic, "bilinear")
        compare = Comparison(partial(inputs.raws, sizes.mosaic), our_side, their_side, floors.copy_floor)
        table.append(Row(f"demosaic_{library}", 1.0, 2.0, compare))
    for algorithms in isp.PUBLISHED_STATIC:
        our_side, their_side = partial(ours.static, algorithms), partial(baselines.static, algorithms)
        compare = Comparison(raws, our_side, their_side, floors.tone_floor)
        table.append(Row(pipeline_name(algorithms), 10.0, 30.0, compare))
    for method in ("tv_chambolle", "tv_bregman", "bilateral"):
        compare = Comparison(images, partial(ours.denoise, method), partial(baselines.denoise, method))
        table.append(Row(f"denoise_{method}", 3.0, 10.0, compare))
    for samples, bar, stretch in ((1, 2.0, 4.0), (16, 1.0, 2.0)):
        together, apart = partial(ours.search_together, samples), partial(ours.search_apart, samples)
        compare = Comparison(partial(inputs.raws_and_labels, sizes.search), together, apart)
        table.append(Row(f"search_{samples}_at_a_step", bar, stretch, compare))
    return [
        *table,
        Row("compile_forward", 3.0, 1.5, partial(compile_times, sizes.batch, False), "s", at_most=True),
        Row("compile_gradient", 6.0, 3.0, partial(compile_times, sizes.batch, True), "s", at_most=True),
        Row("memory", 3.0, 1.5, partial(frames.memory, sizes.frames[0]), at_most=True),
        Row("frame_time_per_pixel", 1.2, 1.0, partial(frames.time_per_pixel, sizes.frames), at_most=True),
    ]


def _compiled_rows(raws: Callable, weighted: Callable, labeled: Callable) -> list[Row]:
    """Returns the rows of what an informed user would pick: PyTorch compiled and with channels last, and Halide."""
    forward = partial(baselines.parametrized_forward, compiled=True)
    gradient = partial(baselines.parametrized_gradient, compiled=True)
    autoscheduled, scheduled = (partial(baselines.parametrized_halide, by_hand=by_hand) for by_hand in (False, True))
    channels_last = partial(baselines.train_step, channels_last=True)
    return [
        Row("halide_autoscheduled", 1.0, 2.0, Comparison(raws, ours.parametrized_forward, autoscheduled)),
        # Halide scheduled by hand shows what the machine can do, so this bar is below 1.
        Row("halide_by_hand", 0.4, 0.8, Comparison(raws, ours.parametrized_forward, scheduled)),
        Row("torch_compile_forward", 5.0, 8.0, Comparison(raws, ours.parametrized_forward, forward)),
        Row("torch_compile_gradient", 3.0, 5.0, Comparison(weighted, ours.parametrized_gradient, gradient)),
        Row("torch_channels_last_step", 1.0, 1.2, Comparison(labeled, ours.train_step, channels_last)),
        Row(
            "torch_compile_step",
            1 / 0.95,
            1 / 0.85,
            Comparison(labeled, ours.train_step, partial(channels_last, compiled=True)),
        ),
    ]


def _large_network_rows(shape: tuple[int, int, int]) -> list[Row]:
    """Returns the rows of training steps of larger networks, compared with channels last and `torch.compile`."""
    fast = {"channels_last": True, "compiled": True}
    networks = {
        "resnet50": Comparison(
            partial(inputs.raws_and_labels, shape),
            partial(ours.train_step, classifier_network="Resnet50"),
            partial(baselines.train_step, network="resnet50", **fast),
        ),
        "unetplusplus": Comparison(
            partial(inputs.raws_and_masks, shape), ours.train_step, partial(baselines.segmentation_step, **fast)
        ),
    }
    return [Row(f"torch_compile_{name}_step", 1 / 0.95, 1 / 0.85, compare) for name, compare in networks.items()]


def missed(result: Mapping[str, Any]) -> list[str]:
    """Returns the names of the rows that miss one of their bars by more than noise."""
    return [row["name"] for row in result["rows"] if row["missed"]]


def run(names: Sequence[str] = (), repeats: int | None = None, sizes: Sizes | None = None) -> dict[str, Any]:
    """Measures rows.

    Args:
        names: the rows to measure, or the beginnings of their names; all rows if empty.
        repeats: how many times to measure each row; None takes as many as fit.
        sizes: sizes other than those that the bars are made for.

    Returns:
        The rows as `table` prints them, all samples, and the machine and the versions that were measured.

    Raises:
        InputError: no row's name begins with one of the names.
    """
    chosen = [row for row in rows(sizes or Sizes()) if not names or row.name.startswith(tuple(names))]
    for name in names:
        if not any(row.name.startswith(name) for row in chosen):
            known = ", ".join(row.name for row in rows(Sizes()))
            raise InputError(f"--rows: no row's name begins with {name!r}; there are {known}")
    results = []
    # `disable=None` shows the progress bar only on a terminal.
    for row in (progress := tqdm(chosen, unit="row", disable=None)):
        progress.set_description(row.name)
        results.append(_result(row, row.measure(repeats)))
    return {"rows": results, "machine": _machine(), "versions": versions(PACKAGES)}


def _result(row: Row, measured: Measured) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in measured.samples_ms.items()}
    ours_ms, baseline_ms, floor_ms = (medians.get(name) for name in ("ours", "baseline", "floor"))
    return {
        **{field: getattr(row, field) for field in ("name", "bar", "stretch", "unit", "at_most", "most_floors")},
        "value": measured.value,
        "reached": row.reached(measured.value),
        "missed": row.reached(_at_best(row, measured)) == "fail" or _is_far_above_floor(row, measured),
        "ours_ms": ours_ms,
        "baseline_ms": baseline_ms,
        "floor_ms": floor_ms,
        "times_floor": ours_ms / floor_ms if ours_ms and floor_ms else None,
        "note": measured.note,
        "samples_ms": dict(measured.samples_ms),
    }


def _at_best(row: Row, measured: Measured) -> float | None:
    """Returns a row's value with what its samples leave open: the better quartiles of both sides of a comparison."""
    times = measured.samples_ms
    if measured.value is None or not {"ours", "baseline"} <= times.keys():
        return measured.value
    return float(np.quantile(times["baseline"], 0.75) / np.quantile(times["ours"], 0.25))


def _is_far_above_floor(row: Row, measured: Measured) -> bool:
    """Tells whether ours takes more floors than the row allows, by more than noise."""
    times = measured.samples_ms
    if row.most_floors is None or not {"ours", "floor"} <= times.keys():
        return False
    return bool(np.quantile(times["ours"], 0.25) > row.most_floors * np.quantile(times["floor"], 0.75))


def table(result: Mapping[str, Any]) -> str:
    """Formats the result of `run` as a text table."""

    def cell(number: float | None, unit: str = "") -> str:
        return "-" if number is None else f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}{unit}"

    def limit(row: Mapping[str, Any], name: str) -> str:
        return f"{'<' if row['at_most'] else '>'} {row[name]:.3g}{row['unit']}"

    columns = {
        "row": lambda row: row["name"],
        "ours ms": lambda row: cell(row["ours_ms"]),
        "baseline ms": lambda row: cell(row["baseline_ms"]),
        "measured": lambda row: cell(row["value"], row["unit"]),
        "bar": lambda row: limit(row, "bar"),
        "stretch": lambda row: limit(row, "stretch"),
        "reached": lambda row: row["reached"],
        "floor ms": lambda row: cell(row["floor_ms"]),
        "ours/floor": lambda row: cell(row["times_floor"], "x"),
        "floor bar": lambda row: f"< {row['most_floors']:.3g}x" if row["most_floors"] else "-",
        "note": lambda row: row["note"],
    }
    lines = [list(columns), *([text(row) for text in columns.values()] for row in result["rows"])]
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    installed = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return f"{tables.table(lines)}\n\n{machine}\n{installed}"


def _machine() -> dict[str, Any]:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }
