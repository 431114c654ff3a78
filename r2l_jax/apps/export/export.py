"""Exports the parts of a finished model in several formats, and checks each file against the model."""

import functools
import importlib.resources
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from r2l_jax.apps.export import onnx_files, stablehlo
from r2l_jax.apps.export.description import described, learned_camera
from r2l_jax.apps.export.parts import PROBABILITIES, Part, ensemble_of, parts_of
from r2l_jax.devices import compiler
from r2l_jax.errors import InputError, root_cause, warn
from r2l_jax.model.heads import weights_of
from r2l_jax.results.environment import environment
from r2l_jax.results.files import clear_parts, replacing, write_json
from r2l_jax.results.locks import writing_to
from r2l_jax.training import model_io
from r2l_jax.training.run import Run

# The greatest difference from the model that is accepted, in display values and in logits.
LIMIT = 1e-4

NAME, CAMERA = stablehlo.NAME, "camera.json"
SAMPLES, PARAMETERS, EXAMPLE = "samples.npz", "parameters.npz", "example.py"


class Outcome(NamedTuple):
    """The outcome of exporting a file.

    Attributes:
        file: the file's name.
        difference: the greatest difference from the model; None if nothing is compared.
        error: why the file is missing; None if it is there.
    """

    file: str
    difference: float | None = None
    error: str | None = None


def export_model(
    model: Run,
    output: Path,
    samples: np.ndarray,
    parts: Sequence[str] | None = None,
    formats: Sequence[str] | None = None,
    gradient: bool = False,
) -> list[Outcome]:
    """Exports a model to a new folder.

    Each file is compared with the model on the samples, and is refused if it differs by more than `LIMIT`.

    - `<part>.stablehlo`: a function of the pipeline's parameters and a batch, for CPUs, GPUs and TPUs. The learned
      parameters are in `parameters.npz`.
    - `<part>.onnx`: a function of a batch, and `example.py`, which needs only numpy and onnxruntime.
    - `model.safetensors`: the model for `r2l_jax.load`.
    - `camera.json`: the camera with the learned values.
    - `model.json` describes all of them, and `samples.npz` holds the samples with the model's results.

    Args:
        model: the finished model; several folds become one function that computes the mean of their probabilities.
        output: the folder.
        samples: raw images `(N, H, W)`, or processed ones if the model takes these. Exported functions take this size.
        parts: which of `names.EXPORT_PARTS`; None takes all that the model has.
        formats: which of `names.EXPORT_FORMATS`; None takes all that the model has and installed packages can write.
        gradient: whether StableHLO files include the reverse-mode derivative.

    Raises:
        InputError: the model lacks a part or a format; or the folder holds an export, or cannot be written to.
    """
    alone = len(model.folds) == 1
    found = parts_of(model.model, samples.shape[1:]) if alone else ensemble_of(model, samples.shape[1:])
    values = _reference(model, found, samples)
    if any(weights_of(fold.model.head) for fold in model):
        # Only the framework that computes the head can export it.
        found = {name: part for name, part in found.items() if name == "isp"}
        if not found:
            raise InputError("nothing to export: JAX does not compute the head, and the model takes processed images")
    writers = {"stablehlo": functools.partial(stablehlo.write, gradient=gradient), "onnx": onnx_files.write}
    readers = {"stablehlo": stablehlo.run, "onnx": onnx_files.run}
    camera = learned_camera(model) if alone else None
    chosen = {name: found[name] for name in _chosen("parts", parts, found)}
    others = ["safetensors"] * alone + ["camera"] * (camera is not None)
    wanted = _chosen("formats", formats, [*writers, *others])
    if "onnx" in wanted and (package := onnx_files.missing()):
        install = f"the package {package}: pip install 'r2l_jax[onnx]'"
        if formats is not None:
            raise InputError(f"`formats=onnx` needs {install}, or choose other formats")
        warn(f"no ONNX files are written, which need {install}")
        wanted = [each for each in wanted if each != "onnx"]
    with writing_to(output):
        if (output / NAME).exists():
            raise InputError(f"`output={output}` already holds an export: choose another folder")
        clear_parts(output, 0.0)
        about, outcomes = described(model, chosen), []
        for part in chosen.values():
            for kind in (kind for kind in writers if kind in wanted):
                file = output / f"{part.name}.{kind}"
                outcomes.append(outcome := _checked(file, part, values, writers[kind], readers[kind]))
                if outcome.error is None:
                    of_kind = {"file": outcome.file, "difference": outcome.difference}
                    about["parts"][part.name]["files"][kind] = of_kind
        if "safetensors" in wanted:
            model.folds[0].without_paths().write(output / model_io.NAME)
            outcomes.append(Outcome(model_io.NAME))
        if "camera" in wanted and camera is not None:
            _write_text(output / CAMERA, f"{camera.to_json()}\n")
            outcomes.append(Outcome(CAMERA))
        if "onnx" in wanted:
            example = importlib.resources.files("r2l_jax.apps.export") / "_example.py"
            _write_text(output / EXAMPLE, example.read_text())
        if "stablehlo" in wanted:
            parameters = {name: value for part in chosen.values() for name, value in part.parameters.items()}
            about["stablehlo"] = stablehlo.guarantee()
            _save(output / PARAMETERS, {name: np.asarray(value) for name, value in parameters.items()})
        _save(output / SAMPLES, values)
        about["files"] = [outcome.file for outcome in outcomes if outcome.error is None]
        write_json(output / NAME, {**about, **environment()})
    return outcomes


def report(outcomes: Sequence[Outcome]) -> int:
    """Prints the outcomes, errors on stderr, and returns the program's exit status."""
    for file, difference, error in outcomes:
        if error is not None:
            print(f"error: {file}: {error}", file=sys.stderr)
        else:
            print(file if difference is None else f"{file}: differs from the model by {difference:.1e}")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _chosen(flag: str, names: Sequence[str] | None, known: Collection[str]) -> Collection[str]:
    """Returns the chosen parts or formats; raises an InputError for one that the model does not have."""
    for name in names or ():
        if name not in known:
            raise InputError(f"`{flag}={name}`: this model can be exported only as {', '.join(known)}")
    return known if names is None else names


def _reference(model: Run, parts: dict[str, Part], samples: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the inputs and outputs of the model itself, by name, to compare exports with."""
    whole = parts["whole"]
    values = {whole.input: np.asarray(samples, np.float32)}
    for part in (parts[name] for name in ("isp", "head") if name in parts):
        compute = jax.jit(part, compiler_options=compiler.options())
        values[part.output] = np.asarray(compute(values[part.input]))
    return values if whole.output in values else {**values, PROBABILITIES: model.predict(samples)}


def _checked(
    target: Path, part: Part, values: dict[str, np.ndarray], write: Callable[[Part, Path], None], run: Callable
) -> Outcome:
    """Writes a part in a format, and keeps the file only if it agrees with the model."""
    try:
        with replacing(target) as file:
            write(part, file)
            difference = float(np.abs(run(part, file, values[part.input]) - values[part.output]).max())
            if not difference <= LIMIT:  # Holds for NaN as well.
                raise InputError(f"differs from the model by {difference:.1e} on the samples, more than {LIMIT:.0e}")
    except OSError:
        raise
    except Exception as error:  # Tracers and converters may raise anything for a function that they do not support.
        reason = str(error) if isinstance(error, InputError) else f"{root_cause(error):.300}"
        return Outcome(target.name, error=reason)
    return Outcome(target.name, difference)


def _write_text(target: Path, text: str) -> None:
    with replacing(target) as part:
        part.write_text(text)


def _save(target: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(target) as part, part.open("wb") as file:
        # NumPy 2.0 would save `allow_pickle` as one of the arrays.
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # one name for `allow_pickle`
