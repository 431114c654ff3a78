"""How fast this library is, beside what is in use today: see `r2l_jax.bench.baselines`. Searches are beside their like.

Each row of the table is a piece of work, and a bar to pass. Ours and the baseline take turns, since a machine's speed
drifts by more from minute to minute than many a change is worth: trust the ratios within a row, not times of different
runs. Each has a process of its own and runs as its programs do: ours as `r2l_jax.runtime.startup` prepares it, the baseline as
it comes. What is compiled is compiled before the clock starts; to compile is measured in rows of its own, in fresh
processes.

The floor is the time that a machine needs to read and write once all that has to be read and written, with an exp and
a log of each value where there is a tone curve. It writes to memory that is there already.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

import isp
from r2l_jax.bench import baselines, ours, timing
from r2l_jax.bench.baselines import CAMERA
from r2l_jax.bench.timing import Call
from r2l_jax.runtime import tables
from r2l_jax.runtime.errors import InputError

# What is compiled, each as the arguments of `isp.static`; none is the parametrized pipeline. Of the denoisers that no
# published pipeline has, each comes after the slowest of the others to compile.
PIPELINES = (
    (),
    *isp.PUBLISHED_STATIC,
    *(
        ("menon2007", "unsharp_masking", denoise)
        for denoise in ("fft_denoising", "tv_chambolle", "tv_bregman", "bilateral")
    ),
)

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy"),
    *("torch", "torchvision", "scipy", "scikit-image", "colour-demosaicing"),
)


class Sizes(NamedTuple):
    """Shapes of mosaics: the batch of most rows, the one to demosaic, the frame for memory, what searches draw from."""

    batch: tuple[int, int, int] = (32, 256, 256)
    mosaic: tuple[int, int] = (2048, 2048)
    frame: tuple[int, int] = (4000, 6000)
    search: tuple[int, int, int] = (32, 64, 64)


class Measured(NamedTuple):
    """What a row came to.

    Attributes:
        value: what is held against the bar; None if it could not be measured.
        samples_ms: all times, by whose they are: "ours", "baseline" and "floor" make columns of the table.
        note: what else there is to say.
    """

    value: float | None
    samples_ms: Mapping[str, Sequence[float]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours against a baseline. The value is how many times as fast ours is.

    Attributes:
        inputs: makes the NumPy arrays that all sides get.
        ours: prepares for them what is timed.
        baseline: the same on the other side.
        floor: what no function of the first input can beat, likewise; None if that makes no sense.
    """

    inputs: Callable[[], tuple[np.ndarray, ...]]
    ours: Callable[..., Call]
    baseline: Callable[..., Call]
    floor: Callable[[np.ndarray], Call] | None = None

    def __call__(self, repeats: int | None) -> Measured:
        """Measures; a baseline that is not installed or fails is left out."""
        inputs, note = self.inputs(), ""
        with timing.Elsewhere(self.baseline, inputs) as baseline:
            stopwatches = {
                "ours": partial(timing.milliseconds, self.ours(*inputs), timing.TURN_SECONDS),
                "baseline": baseline.milliseconds,
            }
            if self.floor is not None:
                stopwatches["floor"] = partial(timing.milliseconds, self.floor(inputs[0]), timing.TURN_SECONDS)
            try:
                samples = timing.alternate(stopwatches, repeats)
            except timing.BaselineError as failure:
                note = str(failure)
                del stopwatches["baseline"]
                samples = timing.alternate(stopwatches, repeats)
        medians = {name: statistics.median(times) for name, times in samples.items()}
        return Measured(medians["baseline"] / medians["ours"] if "baseline" in medians else None, samples, note)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what it is called.
        bar: what the value must reach: at least, or at most.
        stretch: what it would better reach.
        measure: takes the number of repeats, None for as many as fit.
        unit: of value, bar and stretch.
        at_most: whether less is better.
    """

    name: str
    bar: float
    stretch: float
    measure: Callable[[int | None], Measured]
    unit: str = "x"
    at_most: bool = False

    def reached(self, value: float | None) -> str:
        """Which of the two a value comes to."""
        if value is None:
            return "not compared"
        for word, limit in (("stretch", self.stretch), ("pass", self.bar)):
            if value <= limit if self.at_most else value >= limit:
                return word
        return "fail"


def rows(sizes: Sizes) -> list[Row]:
    """All there is to measure."""
    raws, weighted, labelled, images = (
        partial(draw, sizes.batch) for draw in (ours.raws, ours.raws_and_weights, ours.raws_and_labels, ours.images)
    )
    table = [
        Row(
            "parametrized_forward",
            15.0,
            25.0,
            Comparison(raws, ours.parametrized_forward, baselines.parametrized_forward, ours.tone_floor),
        ),
        Row(
            "parametrized_gradient",
            10.0,
            20.0,
            Comparison(weighted, ours.parametrized_gradient, baselines.parametrized_gradient),
        ),
        Row("train_step", 1.0, 1.25, Comparison(labelled, ours.train_step, baselines.train_step)),
    ]
    for method, bar, stretch in (("bilinear", 10.0, 20.0), ("malvar2004", 15.0, 40.0), ("menon2007", 10.0, 20.0)):
        sides = (partial(side, method) for side in (ours.demosaic, baselines.demosaic))
        compare = Comparison(partial(ours.raws, sizes.mosaic), *sides, ours.copy_floor)
        table.append(Row(f"demosaic_{method}", bar, stretch, compare))
    for algorithms in isp.PUBLISHED_STATIC:
        sides = (partial(side, algorithms) for side in (ours.static, baselines.static))
        table.append(Row(_pipeline_name(algorithms), 10.0, 30.0, Comparison(raws, *sides, ours.tone_floor)))
    for method in ("tv_chambolle", "tv_bregman", "bilateral"):
        sides = (partial(side, method) for side in (ours.denoise, baselines.denoise))
        table.append(Row(f"denoise_{method}", 3.0, 10.0, Comparison(images, *sides)))
    for samples, bar, stretch in ((1, 2.0, 4.0), (16, 1.0, 2.0)):
        sides = (partial(side, samples) for side in (ours.search_together, ours.search_apart))
        compare = Comparison(partial(ours.raws_and_labels, sizes.search), *sides)
        table.append(Row(f"search_{samples}_at_a_step", bar, stretch, compare))
    return [
        *table,
        Row("compile_forward", 3.0, 1.5, partial(_compile_times, sizes.batch, False), "s", at_most=True),
        Row("compile_gradient", 6.0, 3.0, partial(_compile_times, sizes.batch, True), "s", at_most=True),
        Row("memory", 4.0, 2.0, partial(_memory, sizes.frame), at_most=True),
    ]


def run(names: Sequence[str] = (), repeats: int | None = None, sizes: Sizes | None = None) -> dict:
    """Measures rows.

    Args:
        names: rows, or how their names begin; all rows if there are none.
        repeats: how often; None for as often as fits.
        sizes: other sizes than those that the bars are for.

    Returns:
        What `table` prints, all samples, and the machine and the versions that they hold for.

    Raises:
        InputError: a name that no row's begins with.
    """
    chosen = [row for row in rows(sizes or Sizes()) if not names or row.name.startswith(tuple(names))]
    for name in names:
        if not any(row.name.startswith(name) for row in chosen):
            known = ", ".join(row.name for row in rows(Sizes()))
            raise InputError(f"--rows: no row's name begins with {name!r}; there are {known}")
    results = []
    # No bar where nobody watches.
    for row in (progress := tqdm(chosen, unit="row", disable=None)):
        progress.set_description(row.name)
        results.append(_result(row, row.measure(repeats)))
    return {"rows": results, "machine": _machine(), "versions": _versions()}


def _result(row: Row, measured: Measured) -> dict:
    medians = {name: statistics.median(times) for name, times in measured.samples_ms.items()}
    ours, baseline, floor = (medians.get(name) for name in ("ours", "baseline", "floor"))
    return {
        **{field: getattr(row, field) for field in ("name", "bar", "stretch", "unit", "at_most")},
        "value": measured.value,
        "reached": row.reached(measured.value),
        "ours_ms": ours,
        "baseline_ms": baseline,
        "floor_ms": floor,
        "times_floor": ours / floor if floor else None,
        "note": measured.note,
        "samples_ms": dict(measured.samples_ms),
    }


def table(result: Mapping) -> str:
    """What `run` returns as text for people."""

    def cell(number, unit=""):
        return "-" if number is None else f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}{unit}"

    def limit(row, name):
        return f"{'<' if row['at_most'] else '>'} {row[name]:g}{row['unit']}"

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
        "note": lambda row: row["note"],
    }
    lines = [list(columns), *([text(row) for text in columns.values()] for row in result["rows"])]
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return f"{tables.table(lines)}\n\n{machine}\n{versions}"


# In fresh processes: what compiling takes, and memory.


def _pipeline(algorithms: tuple[str, ...]) -> isp.Pipeline:
    return isp.static(CAMERA, *algorithms) if algorithms else isp.parametrized(CAMERA)


def _pipeline_name(algorithms: tuple[str, ...]) -> str:
    return "_".join(("static", *algorithms)) if algorithms else "parametrized"


def _compile_times(shape: tuple[int, int, int], gradient: bool, repeats: int | None) -> Measured:
    """The seconds of the pipeline that takes longest; only this one is repeated."""

    def compile_ms(algorithms):
        return 1e3 * timing.in_fresh_process(_compile_seconds, algorithms, gradient, shape)

    samples = {algorithms: [compile_ms(algorithms)] for algorithms in PIPELINES}
    slowest = max(samples, key=samples.get)
    samples[slowest] += [compile_ms(slowest) for _ in range((repeats or timing.FEWEST_SLOW) - 1)]
    by_name = {_pipeline_name(algorithms): times for algorithms, times in samples.items()}
    value = statistics.median(samples[slowest]) / 1e3
    return Measured(value, {"ours": samples[slowest]} | by_name, _pipeline_name(slowest))


def _compile_seconds(algorithms: tuple[str, ...], gradient: bool, shape: tuple[int, int, int]) -> float:
    """Of lowering and compiling a pipeline, or its gradient for all its parameters and the mosaics."""
    jax.config.update("jax_enable_compilation_cache", False)
    graph, parameters = nnx.split(_pipeline(algorithms))

    def forward(parameters, raw):
        return nnx.merge(graph, parameters)(raw)

    def weighted_mean(parameters, raw, weight):
        return (forward(parameters, raw) * weight).mean()

    function = jax.value_and_grad(weighted_mean, argnums=(0, 1)) if gradient else forward
    shapes = [shape, (*shape, 3)] if gradient else [shape]
    arguments = [parameters, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)]
    started = time.perf_counter()
    jax.jit(function).lower(*arguments).compile()
    return time.perf_counter() - started


def _memory(shape: tuple[int, int], repeats: int | None) -> Measured:
    """The larger of plan and fact. Nothing here varies, so that it is measured once."""
    planned, resident = timing.in_fresh_process(_memory_multiples, shape)
    multiples = {"planned": planned} | ({} if resident is None else {"resident": resident})
    note = ", ".join(f"{name} {multiple:.2f}x" for name, multiple in multiples.items())
    return Measured(max(multiples.values()), {}, note)


def _memory_multiples(shape: tuple[int, int]) -> tuple[float, float | None]:
    """The peak memory of one frame over the bytes of mosaic and image: as the compiler plans it, and as it becomes."""
    graph, parameters = nnx.split(isp.parametrized(CAMERA))
    raw = jnp.full(shape, 0.5)
    compiled = jax.jit(lambda parameters, raw: nnx.merge(graph, parameters)(raw)).lower(parameters, raw).compile()
    plan = compiled.memory_analysis()
    before = _process_bytes("VmRSS")
    rgb = jax.block_until_ready(compiled(parameters, raw))
    peak = _process_bytes("VmHWM")
    moved = raw.nbytes + rgb.nbytes
    planned = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
    return planned / moved, peak and (peak - before + raw.nbytes) / moved


def _process_bytes(field: str) -> int | None:
    """A figure of this process's memory, VmRSS now or VmHWM at most; None where Linux does not tell."""
    # Not the resource module, whose peak a process starts with is that of the one that started it.
    status = pathlib.Path("/proc/self/status")
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", status.read_text())[1]) if status.exists() else None


def _machine() -> dict:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }


def _versions() -> dict:
    """By package; None for what is not installed."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
