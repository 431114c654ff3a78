"""Predicts the classes or the masks of many raw files by a finished model."""

import csv
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from r2l_jax.apps.frames import predict_frame
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import STORED_SUFFIXES, read_mosaic
from r2l_jax.data.sets.folder import center_crop
from r2l_jax.runtime import manifests, remote
from r2l_jax.runtime.chunks import SERIAL, Workers, spread
from r2l_jax.runtime.contact_sheet import quantized
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError, in_words
from r2l_jax.runtime.files import (
    AT_ONCE,
    append_csv,
    clear_parts,
    cut_torn_row,
    make_output_folder,
    open_csv,
    read_csv,
    refuse_shared_targets,
    sort_csv,
    write_csv,
    write_json,
)
from r2l_jax.runtime.remote import Place
from r2l_jax.training.run import BATCH, Run

_FILE, _CLASS = "file", "class"


class Predictor(NamedTuple):
    """By which raw files are predicted.

    Attributes:
        run: the folds of a run.
        camera: what is known of the files' camera. None is each file's own calibration for the formats of cameras, and
            that of the training for other files.
    """

    run: Run
    camera: KnownCamera | None = None


def predict_files(
    files: Sequence[Place],
    output: Place,
    run: Run,
    camera: KnownCamera | None = None,
    masks: Place | None = None,
    workers: Workers = SERIAL,
) -> tuple[int, int]:
    """Predicts raw files, with a progress bar on stderr, and writes a row for each to a CSV file.

    For classification, the columns are `file`, `class` (the most probable one) and a probability for each class. Files
    larger than the mosaics of the training are cropped to their middle. For segmentation, the columns are `file` and
    the fraction of the frame that the object covers; `<masks>/<name>.png` is the probability at each site, times 255.

    Rows are on the disk as soon as their files are predicted, and at the end in the order of the files. Rows of other
    files, which earlier calls have written, come before. `<output>.manifest.json` says by which models: another call of
    the same settings goes on with the files that have no row yet. A file that cannot be predicted is reported on stderr
    at the end, and has no row. If no file can be predicted, there is no table.

    Args:
        files: the raw files.
        output: the CSV file.
        run: the folds of a run.
        camera: what is known of the files' camera, see `Predictor`.
        masks: for segmentation, the folder for the masks.
        workers: the processes that predict; their `load` returns the `Predictor`.

    Returns:
        The number of files that were predicted, and the number that failed.

    Raises:
        InputError: the models do not take raw files; the output cannot be written, holds predictions of other settings,
            or another program writes to its folder; the workers cannot be started.
    """
    if run.camera is None:
        raise InputError("the model was trained on images that are processed already: it takes no raw files")
    segments = run.task.name == "segmentation"
    if segments != (masks is not None):
        raise InputError(f"--masks is {'needed' if segments else 'not'} for {run.task.name}")
    if masks is not None:
        refuse_shared_targets((file, _mask_file(file, masks)) for file in files)
        if isinstance(masks, Path):
            make_output_folder(masks)
    columns = [_FILE, *run.classes] if segments else [_FILE, _CLASS, *run.classes]
    if len(set(columns)) < len(columns):
        raise InputError(f"two columns of {output} would have one name: {', '.join(columns)}")
    with remote.working(output.parent, [output.name, _manifest(output.name)]) as work:
        table = work.path / output.name
        _describe(table, run, camera, masks)
        done = _begun(table, columns)
        left = [file for file in files if str(file) not in done]
        failed = dict[Place, str]()
        with (
            tqdm(total=len(files), initial=len(files) - len(left), unit="file", disable=None) as bar,
            table.open("a") as log,
        ):
            for rows, errors in _predicted(left, Predictor(run, camera), masks, workers):
                append_csv(table, rows, columns)
                os.fsync(log.fileno())
                failed |= errors
                bar.update(len(rows) + len(errors))
                work.save()
        if isinstance(masks, Path):
            # Of workers that were lost.
            clear_parts(masks)
        if not done and len(failed) == len(left):
            # The next call may have other settings, since there are no predictions of these.
            table.unlink()
            table.with_name(_manifest(table.name)).unlink()
        else:
            sort_csv(table, {str(file): number for number, file in enumerate(files)})
    for file in files:
        if file in failed:
            print(f"error: {failed[file]}", file=sys.stderr)
    return len(left) - len(failed), len(failed)


# The rows of files, and why others failed.
_Found = tuple[list[dict[str, Any]], dict[Place, str]]
_Done = Iterator[_Found]


def _predicted(files: Sequence[Place], predictor: Predictor, masks: Place | None, workers: Workers) -> _Done:
    """Predicts files; yields the rows and the errors of some at a time."""
    fills = len(files) > BATCH
    if not workers.are_others:
        yield from _of_files(files, predictor, masks, fills)
        return
    # Batches of the same files as in one process, so that the numbers are the same to the last digit.
    side = BATCH if masks is None else 1
    units = [list(files[start : start + side]) for start in range(0, len(files), side)]
    identities = [fold.identity for fold in predictor.run]
    work = functools.partial(_predict_chunk, identities, masks, fills)
    for chunk, found, lost in spread(workers, work, units, remote.size if masks is None else _size_to_segment):
        yield found or ([], {file: f"{file}: {lost}" for file in chunk})


def _size_to_segment(file: Place) -> int:
    """Returns the size of a file whose reading takes about as long as the segmentation of this one."""
    return 16 * remote.size(file)


def _of_files(files: Sequence[Place], predictor: Predictor, masks: Place | None, fills: bool) -> _Done:
    """Predicts files in this process."""
    return _classes(files, predictor, fills) if masks is None else _masks(files, predictor, masks)


def _predict_chunk(
    identities: Sequence[str], masks: Place | None, fills: bool, predictor: Predictor, files: list[Place]
) -> _Found:
    """Predicts files in a worker.

    Raises:
        InputError: the worker has loaded other models than the program.
    """
    if [fold.identity for fold in predictor.run] != list(identities):
        raise InputError("the run has changed since the program was started")
    rows, errors = list[dict[str, Any]](), dict[Place, str]()
    for some, bad in _of_files(files, predictor, masks, fills):
        rows += some
        errors |= bad
    return rows, errors


def _classes(files: Sequence[Place], predictor: Predictor, fills: bool) -> _Done:
    """Classifies files in batches; yields the rows and the errors of each."""
    run, camera = predictor
    decoded = _decoded(files, run, camera, crops=True, ahead=BATCH)
    while batch := list(islice(decoded, BATCH)):
        good = [(file, raw) for file, raw in batch if isinstance(raw, np.ndarray)]
        rows = []
        for shape in dict.fromkeys(raw.shape for _, raw in good):
            alike = [(file, raw) for file, raw in good if raw.shape == shape]
            raws = np.stack([raw for _, raw in alike])
            if fills:
                # Filled up, since another number would be compiled anew.
                raws = np.concatenate([raws, np.repeat(raws[-1:], BATCH - len(raws), 0)])
            probabilities = run.predict(raws)[: len(alike)]
            for (file, _), values in zip(alike, probabilities, strict=True):
                found = {name: f"{value:.7g}" for name, value in zip(run.classes, values, strict=True)}
                rows.append({_FILE: str(file), _CLASS: run.classes[values.argmax()], **found})
        yield rows, {file: error for file, error in batch if isinstance(error, str)}


def _masks(files: Sequence[Place], predictor: Predictor, masks: Place) -> _Done:
    """Segments files one by one; yields the row or the error of each, and writes its mask before."""
    run, camera = predictor
    assert run.camera is not None
    pattern, multiple = run.camera.pattern, run.multiple
    for file, raw in _decoded(files, run, camera, crops=False, ahead=1):
        if isinstance(raw, str):
            yield [], {file: raw}
            continue
        try:
            mask = predict_frame(run.predict, raw, pattern, multiple)
        except InputError as error:
            yield [], {file: f"{file}: {in_words(error)}"}
            continue
        with remote.writing(_mask_file(file, masks)) as part:
            Image.fromarray(quantized(mask, np.uint8)).save(part, format="png")
        yield [{_FILE: str(file), run.classes[0]: f"{(mask > 0.5).mean():.7g}"}], {}


def _mask_file(file: Place, masks: Place) -> Place:
    return masks / f"{file.stem}.png"


def _decoded(
    files: Sequence[Place], run: Run, camera: KnownCamera | None, crops: bool, ahead: int
) -> Iterator[tuple[Place, np.ndarray | str]]:
    """Yields files in order with their mosaics, or with the words for what is wrong; decodes a bounded number ahead."""
    waiting, rest = list[tuple[Place, Future]](), iter(files)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            while True:
                for file in islice(rest, AT_ONCE + ahead - len(waiting)):
                    waiting.append((file, pool.submit(read_file, file, run, camera, crops)))
                if not waiting:
                    return
                file, future = waiting.pop(0)
                try:
                    yield file, future.result()
                except InputError as error:
                    yield file, in_words(error)
        finally:
            pool.shutdown(cancel_futures=True)


def read_file(file: Place, run: Run, camera: KnownCamera | None, crops: bool) -> np.ndarray:
    """Reads the mosaic of a file, as a run's model takes it.

    Args:
        file: the raw file.
        run: the run, which has a camera.
        camera: as for `predict_files`.
        crops: whether to cut the size of the training's mosaics out of the middle.

    Raises:
        InputError: the file cannot be read, is smaller than that size, or has another color filter array.
    """
    own = camera or KnownCamera.of(run.calibration if file.suffix.lower() in STORED_SUFFIXES else None)
    with remote.brought(file) as path:
        raw, found = read_mosaic(path, own)
    assert run.camera is not None
    if found.pattern != run.camera.pattern:
        raise InputError(
            f"{file} has the color filter array {found.pattern}, and the model is for {run.camera.pattern}"
        )
    if not crops:
        return raw
    height, width = run.shape
    if raw.shape[0] < height or raw.shape[1] < width:
        raise InputError(
            f"{file} is {raw.shape[0]}x{raw.shape[1]}, smaller than the mosaics of the training, {height}x{width}"
        )
    # Copied, because a view would keep the whole file in memory.
    return center_crop(raw, height, width, found.pattern).copy()


def _manifest(name: str) -> str:
    """Returns the name of the manifest beside a CSV file."""
    return f"{name}.manifest.json"


def _describe(output: Path, run: Run, camera: KnownCamera | None, masks: Place | None) -> None:
    """Writes the manifest.

    Raises:
        InputError: there is one of other settings, or predictions without one.
    """
    file = output.with_name(_manifest(output.name))
    fixed = {
        "models": [fold.identity for fold in run],
        "checkpoint": run.about.checkpoint,
        "camera": "by default" if camera is None else camera.described,
        "masks": None if masks is None else str(masks.resolve()),
    }
    if manifests.read(output, fixed, "predictions", file) is None and output.exists():
        raise InputError(f"{output} is there, and no {file.name} says how it was made: choose another file")
    write_json(file, {**fixed, "run": run.config.tracking.run_name, **environment()})


def _begun(output: Path, columns: Sequence[str]) -> set[str]:
    """Returns the files that have a row already, after removing a last row that is not whole; begins a new output.

    Raises:
        InputError: the output is not what this program writes.
    """
    if not output.exists():
        write_csv(output, [], columns)
        return set()
    cut_torn_row(output)
    try:
        rows = read_csv(output)
        with open_csv(output) as file:
            header = next(csv.reader(file), None)
    except (ValueError, csv.Error):
        header, rows = None, []
    if header is None:
        write_csv(output, [], columns)
        return set()
    if header != list(columns):
        raise InputError(f"{output} has other columns than {', '.join(columns)}: choose another file")
    return {row[_FILE] for row in rows}
