"""Exports a finished model: its parts in several formats, each compared with the model before it counts as written."""

import importlib.resources
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from r2l_jax.apps.export import description, onnx_files, stablehlo
from r2l_jax.apps.export.parts import IMAGES, LOGITS, PROBABILITIES, RAW, Part, ensemble_of, parts_of
from r2l_jax.model.normalized_heads import weights_of
from r2l_jax.names import EXPORT_FORMATS, EXPORT_PARTS
from r2l_jax.runtime import compiler
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError, root_cause
from r2l_jax.runtime.files import replacing, write_json
from r2l_jax.runtime.locks import writing_to
from r2l_jax.training import artifact
from r2l_jax.training.run import Run

# The greatest difference from the model, in display values and in logits.
LIMIT = 1e-4

# The modules of the formats of parts; files have the format as their suffix.
_KINDS: dict[str, Any] = {"stablehlo": stablehlo, "onnx": onnx_files}

NAME, CAMERA = "model.json", "camera.json"
SAMPLES, PARAMETERS, EXAMPLE = "samples.npz", "parameters.npz", "example.py"


class Outcome(NamedTuple):
    """The outcome of exporting a part in a format.

    Attributes:
        file: the file's name.
        facts: the greatest difference from the model, the number of nodes, the time; empty if nothing is measured.
        error: why the file is missing; None if it is there.
    """

    file: str
    facts: dict[str, Any]
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
        model: the finished model; of several folds, one function computes the mean of their probabilities.
        output: the folder.
        samples: mosaics `(N, H, W)`, or images of a model that takes these. Files are for inputs of their size.
        parts: which of `names.EXPORT_PARTS`; None takes all that the model has.
        formats: which of `names.EXPORT_FORMATS`; None takes all that the model has.
        gradient: whether StableHLO has its reverse-mode derivative.

    Returns:
        How each export went.

    Raises:
        InputError: the model lacks a part or a format; or the folder holds an export, or cannot be written to.
    """
    if len(model.folds) > 1:
        formats = _formats_of_ensembles(parts, formats)
        found, camera = ensemble_of(model, samples.shape[1:]), None
    else:
        found, camera = parts_of(model.model, samples.shape[1:]), description.learned_camera(model)
    if any(weights_of(fold.model.head) for fold in model):
        parts = _parts_beside_frozen(found, parts)
    chosen = _chosen_parts(found, parts)
    wanted = _chosen_formats(formats, camera is not None)
    with writing_to(output):
        if (output / NAME).exists():
            raise InputError(f"--output={output} holds an export: choose another folder")
        about = description.described(model, chosen)
        values = _reference(found, samples)
        if PROBABILITIES in {part.output for part in found.values()}:
            values[PROBABILITIES] = model.predict(samples)
        outcomes = []
        options = {"stablehlo": {"gradient": gradient}, "onnx": {}}
        for part in chosen.values():
            for kind in (kind for kind in _KINDS if kind in wanted):
                outcome = _checked(kind, part, output, values, options[kind])
                outcomes.append(outcome)
                if outcome.error is None:
                    about["parts"][part.name]["files"][kind] = {"file": outcome.file, **outcome.facts}
        outcomes += _other_files(model, output, wanted, camera)
        about["files"] = [outcome.file for outcome in outcomes if outcome.error is None]
        _write_beside(output, chosen, values, wanted)
        write_json(output / NAME, {**about, **environment()})
    return outcomes


def _formats_of_ensembles(parts: Sequence[str] | None, formats: Sequence[str] | None) -> Sequence[str]:
    """Returns the formats of an ensemble; raises an InputError for a part or a format that holds one model."""
    for flag, names, known in (("parts", parts, ("whole",)), ("formats", formats, tuple(_KINDS))):
        if lacking := [name for name in names or () if name not in known]:
            raise InputError(f"--{flag}={lacking[0]} is for one model: name a member of the group in --run")
    return tuple(_KINDS) if formats is None else formats


def _parts_beside_frozen(found: dict[str, Part], parts: Sequence[str] | None) -> list[str]:
    """Returns the chosen parts; raises an InputError for one with a head that is not computed by JAX."""
    if unable := [name for name in (found if parts is None else parts) if name != "isp" and (parts or len(found) < 3)]:
        raise InputError(
            f"--parts={unable[0]} has a head from outside of JAX: only isp can be exported, to run before the network"
        )
    return ["isp"]


def _chosen_parts(found: dict[str, Part], names: Sequence[str] | None) -> dict[str, Part]:
    names = list(found) if names is None else names
    if lacking := [name for name in names if name not in found]:
        known = [name for name in EXPORT_PARTS if name in found]
        raise InputError(f"--parts={lacking[0]}: the run takes processed images, so it has only {' and '.join(known)}")
    return {name: found[name] for name in names}


def _chosen_formats(names: Sequence[str] | None, has_camera: bool) -> Sequence[str]:
    if names is not None and "camera" in names and not has_camera:
        raise InputError("--formats=camera: no parameter of the processing starts from a camera's value")
    wanted = [name for name in EXPORT_FORMATS if name != "camera" or has_camera] if names is None else names
    if "onnx" in wanted:
        onnx_files.check_installed()
    return wanted


def _reference(parts: dict[str, Part], samples: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the results of the model without an export, by the names of inputs and outputs."""
    whole = parts["whole"]
    values = {whole.input: np.asarray(samples, np.float32)}
    for part in ("isp", "head"):
        if part in parts:
            compute = jax.jit(parts[part], compiler_options=compiler.options())
            values[parts[part].output] = np.asarray(compute(values[parts[part].input]))
    return values


def _checked(kind: str, part: Part, output: Path, values: dict[str, np.ndarray], options: dict[str, bool]) -> Outcome:
    """Writes a part in a format, and keeps the file only if it agrees with the model."""
    target, inputs = output / f"{part.name}.{kind}", values[part.input]
    try:
        with replacing(target) as file:
            _KINDS[kind].write(part, file, **options)
            difference = float(np.abs(_KINDS[kind].run(part, file, inputs) - values[part.output]).max())
            if not difference <= LIMIT:  # Holds for NaN as well.
                raise InputError(f"differs from the model by {difference:.1e} on the samples, more than {LIMIT:.0e}")
            facts = _KINDS[kind].measured(file, inputs)
    except OSError:
        raise
    except Exception as error:  # Tracers and converters may raise anything for a function that they do not support.
        return Outcome(target.name, {}, str(error) if isinstance(error, InputError) else f"{root_cause(error):.300}")
    return Outcome(target.name, {"difference": difference, **facts})


def _other_files(model: Run, output: Path, formats: Sequence[str], camera: Any) -> list[Outcome]:
    outcomes = []
    if "safetensors" in formats:
        model.folds[0].write(output / artifact.NAME)
        outcomes.append(Outcome(artifact.NAME, {}))
    if "camera" in formats:
        with replacing(output / CAMERA) as part:
            part.write_text(f"{camera.to_json()}\n")
        outcomes.append(Outcome(CAMERA, {}))
    return outcomes


def _write_beside(output: Path, parts: dict[str, Part], values: dict[str, np.ndarray], formats: Sequence[str]) -> None:
    """Writes the samples with the model's results, the learned parameters, and the example."""
    if not {"stablehlo", "onnx"} & {*formats}:
        return
    _save(output / SAMPLES, {name: values[name] for name in (RAW, IMAGES, LOGITS, PROBABILITIES) if name in values})
    parameters = {name: np.asarray(value) for part in parts.values() for name, value in part.parameters.items()}
    if "stablehlo" in formats and parameters:
        _save(output / PARAMETERS, parameters)
    if "onnx" in formats:
        with replacing(output / EXAMPLE) as target:
            target.write_text((importlib.resources.files("r2l_jax.apps.export") / "_example.py").read_text())


def _save(target: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(target) as part, part.open("wb") as file:
        # NumPy 2.0 would save `allow_pickle` as one of the arrays.
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # one name for `allow_pickle`


def report(outcomes: Sequence[Outcome]) -> int:
    """Prints the outcomes of exports, errors on stderr, and returns the exit status of a program."""
    for outcome in outcomes:
        if outcome.error is not None:
            print(f"error: {outcome.file}: {outcome.error}", file=sys.stderr)
            continue
        facts = outcome.facts
        words = [f"differs by {facts['difference']:.1e}"] if "difference" in facts else []
        if "nodes" in facts:
            words += [f"{facts['nodes']} nodes", f"{facts['milliseconds_per_image']:.3g} ms per image"]
        print(f"{outcome.file}{': ' * bool(words)}{', '.join(words)}")
    return 1 if any(outcome.error for outcome in outcomes) else 0
