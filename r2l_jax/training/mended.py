"""Writes a model that was mended after its training as a run of its own, which every program takes like any other."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import msgspec
from flax import nnx

from r2l_jax.model.build import Architecture
from r2l_jax.model.processors import OwnNormalization, Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.settings import STATIC_FLAGS, ProcessingSettings
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import check_output_folder, write_json
from r2l_jax.runtime.flags import replace
from r2l_jax.training import model_file
from r2l_jax.training.model_file import PipelineFile, camera_of, identity_of, named_arrays
from r2l_jax.training.record import read_metrics
from r2l_jax.training.run import Run, TrainedFold
from tasks.layers import BatchNorm


def write(
    folder: pathlib.Path,
    fold: TrainedFold,
    model: RawToLogit,
    pipeline: NamedPipeline | None,
    origin: Mapping[str, Any],
) -> None:
    """Writes the fold of a mended run: its model.safetensors, and a metrics.json.

    It has the settings, the data, the splits and the scores of the fold that it came from; the scores are those before
    it was mended.

    Args:
        folder: the folder of the new fold.
        fold: the fold that the model came from.
        model: the mended model.
        pipeline: the pipeline that replaces the fold's own, if any.
        origin: says where the model came from, in a form that JSON can hold.
    """
    mended = {"from": fold.identity, **origin}
    config, metrics = fold.config, {**fold.metrics, "mended": mended}
    changed: dict[str, Any] = {"mended": mended}
    if pipeline is not None:
        # A pipeline by name has a batch norm behind it, unless the head has a normalization of its own.
        model = RawToLogit(model.processor, _as_batch_norm(model.normalizer), model.head)
        auto = metering_of(model.processor)
        usual = {name: getattr(ProcessingSettings, name) for name in ("processing_mode", *STATIC_FLAGS)}
        flags = {"pipeline": pipeline.name, "auto": auto, **usual}
        source = pipeline.source and dataclasses.asdict(pipeline.source)
        config = replace(config, **flags)
        changed |= {"flags": fold.about.flags | flags, "pipeline": source and PipelineFile(**source)}
        metrics |= {"flags": changed["flags"], "pipeline": source}
    about = msgspec.structs.replace(fold.about, **changed)
    additive_layer = config.attack.adv_noise_layer
    architecture = Architecture.of(config.processing, fold.task, camera_of(about), about.shape, additive_layer)
    arrays = named_arrays(nnx.state(model))
    folder.mkdir(parents=True, exist_ok=True)
    model_file.write(folder / model_file.NAME, arrays, about, identity_of(about, architecture, arrays))
    # Last, since a fold is there once its metrics.json is.
    write_json(folder / "metrics.json", metrics)


def check_folder(folder: pathlib.Path, run: Run) -> None:
    """Checks whether `write_run` could write a run to a folder, before the run is adapted.

    Raises:
        InputError: the run was opened from a model's file, or the folder cannot be made, or holds a run that did not
            come from this one.
    """
    check_output_folder(folder)
    targets = _targets(folder, run)
    for target in _finished(folder):
        origin = read_metrics(target / "metrics.json", "choose another folder").get("mended") or {}
        if target not in targets or origin.get("from") != targets[target].identity:
            raise _other(folder)


def write_run(folder: pathlib.Path, run: Run) -> None:
    """Writes a run that was mended after it was opened (`Run.mended`), or a group of several trainings.

    Args:
        folder: the folder of the new run. It may hold the same one, or a part of it, from an earlier call.
        run: the mended run.

    Raises:
        InputError: the run was opened from a model's file, or the folder holds another run.
    """
    targets, finished = _targets(folder, run), _finished(folder)
    for target in finished:
        fold = targets.get(target)
        if fold is None or model_file.read(target / model_file.NAME)[-1] != fold.identity:
            raise _other(folder)
    for target, fold in targets.items():
        if target not in finished:
            write(target, fold, fold.model, None, fold.about.mended or {})


def _targets(folder: pathlib.Path, run: Run) -> dict[pathlib.Path, TrainedFold]:
    """Returns the folds of a run by their folders in the folder of a new run."""
    of_group = len({fold.folder.resolve().parent for fold in run}) > 1
    targets = dict[pathlib.Path, TrainedFold]()
    for fold in run:
        if not fold.metrics:
            raise InputError(f"{fold.folder} is a model's file: only a run's folder can be mended and kept as a run")
        of_run = folder / fold.folder.resolve().parent.name if of_group else folder
        targets[of_run / f"fold_{fold.number}"] = fold
    return targets


def _finished(folder: pathlib.Path) -> set[pathlib.Path]:
    return {file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/metrics.json")}


def _other(folder: pathlib.Path) -> InputError:
    return InputError(f"{folder} holds another run: choose another folder")


def _as_batch_norm(normalizer: BatchNorm | Standardize) -> BatchNorm | OwnNormalization:
    if isinstance(normalizer, BatchNorm | OwnNormalization):
        return normalizer
    found = BatchNorm(normalizer.mean[...].size, affine=False, rngs=nnx.Rngs(0))
    found.mean[...], found.var[...] = normalizer.mean[...], jnp.square(normalizer.std[...]) - found.epsilon
    found.eval()
    return found
