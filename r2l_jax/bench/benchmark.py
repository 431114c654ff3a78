"""Compares the speed of this library with the programs in use today (see `r2l_jax.bench.baselines`).

Each row of the table is a piece of work with a bar to reach; searches are compared with searches of this library. Ours
and the baseline take turns, because the speed of a machine drifts from minute to minute by more than many changes gain:
trust the ratio within a row, but do not compare times of different runs. Each side has its own process and runs as it
does in use: ours as `r2l_jax.runtime.startup` prepares it, the baseline without preparation. Functions are compiled
before the clock starts. Compile times have rows of their own, measured in fresh processes.

The floor is the time that the device needs to read the input once and to write the result once, into memory that is
mapped already. On CPUs, it includes an exp and a log of each value where there is a tone curve; GPUs compute them while
they wait for memory. Some rows have a second bar: how many times as long as the floor ours may take.

On a GPU, PyTorch computes on the same GPU. Most rows have no bar there, and baselines that compute only on CPUs are
left out.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import isp
from r2l_jax.bench import baselines, fresh, inputs, machine, ours
from r2l_jax.bench.rows import Bars, Comparison, Measured, Row
from r2l_jax.bench.timing import Call
from r2l_jax.runtime import tables
from r2l_jax.runtime.environment import versions
from r2l_jax.runtime.errors import InputError

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision", "segmentation-models-pytorch", "halide"),
    *("kornia", "scipy", "scikit-image", "colour-demosaicing", "opencv-python-headless"),
)


class Sizes(NamedTuple):
    """The shapes of mosaics.

    Attributes:
        batch: the batch to render or denoise.
        step: the batch of training steps and of evaluations.
        large: the batch of networks that are larger than a ResNet-18.
        mosaic: the mosaic to demosaic.
        frames: a large frame to measure memory with, and a larger one whose pixels should take no longer.
        search: the samples that searches draw from.
    """

    batch: tuple[int, int, int] = (32, 256, 256)
    step: tuple[int, int, int] = (32, 256, 256)
    large: tuple[int, int, int] = (8, 256, 256)
    mosaic: tuple[int, int] = (2048, 2048)
    frames: tuple[tuple[int, int], tuple[int, int]] = ((4000, 6000), (10_000, 10_000))
    search: tuple[int, int, int] = (32, 64, 64)


# A GPU would render the CPU's sizes in less time than its kernels take to start.
SIZES = {"cpu": Sizes(), "gpu": Sizes(batch=(512, 256, 256), mosaic=(8192, 8192))}

# The bars on GPUs: three fifths of the bandwidth of a copy, and 1.3 times the speed of compiled PyTorch.
_GPU_BARS = {"parametrized_forward": Bars(most_floors=1 / 0.6), "torch_compile_step": Bars(1.3)}


def rows(sizes: Sizes, device: str = "cpu") -> list[Row]:
    """Returns all rows of the table for a kind of device, "cpu" or "gpu"."""
    if device == "cpu":
        return _rows(sizes, "cpu", inputs.tone_floor)
    return [_on_gpu(row) for row in _rows(sizes, "cuda", inputs.copy_floor) if row.on_gpu]


def _on_gpu(row: Row) -> Row:
    """Removes a row's bars for CPUs, and a baseline that computes on the CPU."""
    measure = row.measure
    if isinstance(measure, Comparison) and measure.baseline_on_cpu:
        measure = dataclasses.replace(measure, baseline=None)
    return dataclasses.replace(row, measure=measure, bars=_GPU_BARS.get(row.name, Bars()))


def _rows(sizes: Sizes, torch_device: str, tone_floor: Callable) -> list[Row]:
    """Returns all rows, with PyTorch's name of a device, and with the floor of work that ends with a tone curve."""
    return [
        *_pipeline_rows(sizes.batch, torch_device, tone_floor),
        *_network_rows(sizes.step, sizes.large, torch_device),
        *_demosaicing_rows(sizes.mosaic, torch_device),
        *_numpy_rows(sizes.batch, tone_floor),
        *_search_rows(sizes.search),
        Row("compile_forward", partial(fresh.compile_times, sizes.batch, False), Bars(3.0, 1.5), "s", at_most=True),
        Row("compile_gradient", partial(fresh.compile_times, sizes.batch, True), Bars(6.0, 3.0), "s", at_most=True),
        Row("memory", partial(fresh.memory, sizes.frames[0]), Bars(3.0, 1.5), at_most=True, on_gpu=False),
        Row("frame_time_per_pixel", partial(fresh.time_per_pixel, sizes.frames), Bars(1.2, 1.0), at_most=True),
    ]


def _row(
    name: str,
    make_inputs: Callable,
    shape: tuple[int, ...],
    our_side: Callable[..., Call],
    their_side: Callable[..., Call],
    bars: Bars,
    floor: Callable[[np.ndarray], Call] | None = None,
    baseline_on_cpu: bool = False,
    on_gpu: bool = True,
) -> Row:
    """Returns a row that compares ours with a baseline, given inputs of a shape."""
    comparison = Comparison(partial(make_inputs, shape), our_side, their_side, floor, baseline_on_cpu)
    return Row(name, comparison, bars, pixels=math.prod(shape), on_gpu=on_gpu)


def _pipeline_rows(shape: tuple[int, int, int], device: str, floor: Callable) -> Iterator[Row]:
    """Yields the rows of the parametrized pipeline with batch norm beside PyTorch, also compiled, and Halide."""
    torch_forward = partial(baselines.parametrized_forward, device=device)
    torch_gradient = partial(baselines.parametrized_gradient, device=device)
    forward = inputs.raws, shape, ours.parametrized_forward
    gradient = inputs.raws_and_weights, shape, ours.parametrized_gradient
    for name, our_side, their_side, bars in (
        ("parametrized_forward", forward, torch_forward, Bars(15.0, 25.0, most_floors=2.5)),
        ("parametrized_gradient", gradient, torch_gradient, Bars(10.0, 20.0, most_floors=14.0)),
        ("torch_compile_forward", forward, partial(torch_forward, compiled=True), Bars(5.0, 8.0)),
        ("torch_compile_gradient", gradient, partial(torch_gradient, compiled=True), Bars(3.0, 5.0)),
    ):
        yield _row(name, *our_side, their_side, bars, floor)
    # Halide scheduled by hand shows what the machine can do, so that bar is below 1.
    for name, by_hand, bars in (("autoscheduled", False, Bars(1.0, 2.0)), ("by_hand", True, Bars(0.4, 0.8))):
        halide = partial(baselines.parametrized_halide, by_hand=by_hand)
        yield _row(f"halide_{name}", *forward, halide, bars, floor, on_gpu=False)


def _network_rows(step: tuple[int, int, int], large: tuple[int, int, int], device: str) -> list[Row]:
    """Returns rows of training steps and evaluations beside PyTorch in three ways, or in the fastest if large."""
    torch_step = partial(baselines.train_step, device=device)
    torch_evaluation = partial(baselines.evaluation, device=device)
    fast = {"channels_last": True, "compiled": True}
    fast_step, fast_evaluation = partial(torch_step, **fast), partial(torch_evaluation, **fast)
    segmentation = partial(baselines.segmentation_step, device=device, **fast)
    resnet50 = partial(ours.train_step, classifier_network="Resnet50")
    # The bars beside channels last and `torch.compile`: at most 0.95 of their time, and 0.85 to aim for.
    ahead = Bars(1 / 0.95, 1 / 0.85)
    rows = [
        ("train_step", step, ours.train_step, torch_step, Bars(1.0, 1.25)),
        ("torch_channels_last_step", step, ours.train_step, partial(torch_step, channels_last=True), Bars(1.0, 1.2)),
        ("torch_compile_step", step, ours.train_step, fast_step, ahead),
        ("evaluation", step, ours.evaluation, torch_evaluation, Bars(1.0, 1.25)),
        ("torch_compile_evaluation", step, ours.evaluation, fast_evaluation, ahead),
        ("torch_compile_resnet50_step", large, resnet50, partial(fast_step, network="resnet50"), ahead),
        ("torch_compile_unetplusplus_step", large, ours.train_step, segmentation, ahead),
    ]
    return [
        _row(
            name, inputs.raws_and_masks if "unet" in name else inputs.raws_and_labels, shape, our_side, their_side, bars
        )
        for name, shape, our_side, their_side, bars in rows
    ]


def _search_rows(shape: tuple[int, int, int]) -> list[Row]:
    """Returns the rows of searches, whose baseline is this library."""
    samples, together, apart = partial(inputs.raws_and_labels, shape), ours.search_together, ours.search_apart
    return [
        Row(f"search_{size}_at_a_step", Comparison(samples, partial(together, size), partial(apart, size)), bars)
        for size, bars in ((1, Bars(2.0, 4.0)), (16, Bars(1.0, 2.0)))
    ]


def _demosaicing_rows(shape: tuple[int, int], device: str) -> list[Row]:
    """Returns the rows of demosaicing one mosaic."""

    def row(name: str, method: str, their_side: Callable, bars: Bars, **settings: bool) -> Row:
        our_side = partial(ours.demosaic, method)
        return _row(f"demosaic_{name}", inputs.raws, shape, our_side, their_side, bars, inputs.copy_floor, **settings)

    bars_of = {
        "bilinear": Bars(10.0, 20.0, most_floors=3.0),
        "malvar2004": Bars(15.0, 40.0, most_floors=4.0),
        "menon2007": Bars(10.0, 20.0, most_floors=4.0),
    }
    kornia = partial(baselines.demosaic_kornia, device=device)
    return [
        *(
            row(method, method, partial(baselines.demosaic, method), bars, baseline_on_cpu=True)
            for method, bars in bars_of.items()
        ),
        row("opencv", "bilinear", baselines.demosaic_opencv, Bars(1.0, 2.0), on_gpu=False),
        row("kornia", "bilinear", kornia, Bars(1.0, 2.0)),
    ]


def _numpy_rows(shape: tuple[int, int, int], floor: Callable) -> Iterator[Row]:
    """Yields the rows of the static pipelines and of denoising beside NumPy, SciPy and scikit-image."""
    for algorithms in isp.PUBLISHED_STATIC:
        our_side, their_side = partial(ours.static, algorithms), partial(baselines.static, algorithms)
        name, bars = fresh.pipeline_name(algorithms), Bars(10.0, 30.0)
        yield _row(name, inputs.raws, shape, our_side, their_side, bars, floor, baseline_on_cpu=True)
    for method in ("tv_chambolle", "tv_bregman", "bilateral"):
        our_side, their_side = partial(ours.denoise, method), partial(baselines.denoise, method)
        yield _row(
            f"denoise_{method}", inputs.images, shape, our_side, their_side, Bars(3.0, 10.0), baseline_on_cpu=True
        )


def missed(result: Mapping[str, Any]) -> list[str]:
    """Returns the names of the rows that miss one of their bars by more than noise."""
    return [row["name"] for row in result["rows"] if row["missed"]]


def run(
    names: Sequence[str] = (), repeats: int | None = None, sizes: Sizes | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Measures rows; returns them with all samples, the machine and the versions.

    Args:
        names: the rows to measure, or the beginnings of their names; all rows if empty.
        repeats: how many times to measure each row; None measures as often as time allows.
        sizes: the sizes; None takes the sizes that the bars are made for.
        device: the kind of device that JAX computes on, see `machine.compute_on`.

    Raises:
        InputError: no row's name begins with one of the names.
    """
    known = rows(sizes or SIZES[device], device)
    for name in names:
        if not any(row.name.startswith(name) for row in known):
            raise InputError(
                f"--rows: no row's name begins with {name!r}; the rows are {', '.join(row.name for row in known)}"
            )
    chosen = [row for row in known if not names or row.name.startswith(tuple(names))]
    results = []
    # `disable=None` shows the progress bar only on a terminal.
    for row in (progress := tqdm(chosen, unit="row", disable=None)):
        progress.set_description(row.name)
        try:
            measured = row.measure(repeats)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            measured = Measured(None, {}, "the device has too little memory")
        results.append(_result(row, measured))
    return {"rows": results, "machine": machine.description(), "versions": versions(PACKAGES)}


def _result(row: Row, measured: Measured) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in measured.samples_ms.items()}
    ours_ms, baseline_ms, floor_ms = (medians.get(name) for name in ("ours", "baseline", "floor"))
    return {
        "name": row.name,
        **row.bars._asdict(),
        "unit": row.unit,
        "at_most": row.at_most,
        "value": measured.value,
        "reached": row.reached(measured.value),
        "missed": row.reached(_at_best(row, measured)) == "fail" or _is_far_above_floor(row, measured),
        "ours_ms": ours_ms,
        "baseline_ms": baseline_ms,
        "floor_ms": floor_ms,
        "times_floor": ours_ms / floor_ms if ours_ms and floor_ms else None,
        "megapixels_per_second": row.pixels / ours_ms / 1e3 if row.pixels and ours_ms else None,
        "note": measured.note,
        "samples_ms": dict(measured.samples_ms),
    }


def _at_best(row: Row, measured: Measured) -> float | None:
    """Returns the most favorable value that a row's samples allow, from the quartiles of ours and the baseline."""
    times = measured.samples_ms
    if measured.value is None or not {"ours", "baseline"} <= times.keys():
        return measured.value
    return float(np.quantile(times["baseline"], 0.75) / np.quantile(times["ours"], 0.25))


def _is_far_above_floor(row: Row, measured: Measured) -> bool:
    """Tells whether ours takes more floors than the row allows, by more than noise."""
    times = measured.samples_ms
    if row.bars.most_floors is None or not {"ours", "floor"} <= times.keys():
        return False
    return bool(np.quantile(times["ours"], 0.25) > row.bars.most_floors * np.quantile(times["floor"], 0.75))


def table(result: Mapping[str, Any]) -> str:
    """Formats the result of `run` as a text table."""

    def cell(number: float | None, unit: str = "") -> str:
        return "-" if number is None else f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}{unit}"

    def limit(row: Mapping[str, Any], name: str) -> str:
        return "-" if row[name] is None else f"{'<' if row['at_most'] else '>'} {row[name]:.3g}{row['unit']}"

    columns = {
        "row": lambda row: row["name"],
        "ours ms": lambda row: cell(row["ours_ms"]),
        "Mpx/s": lambda row: cell(row["megapixels_per_second"]),
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
    measured_on = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    installed = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return f"{tables.table(lines)}\n\n{measured_on}\n{installed}"
