"""Predicts the classes, the masks or the boxes of many raw files with a finished model."""

import csv
import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from r2l_jax.apps import boxes
from r2l_jax.apps.files import for_each_file, frame_by_frame, is_stored, read_file
from r2l_jax.apps.tiling import SIDE, Mosaic, predict_frame
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.remote import Place
from r2l_jax.drift.monitoring import reference
from r2l_jax.errors import InputError
from r2l_jax.jobs import AT_ONCE, Ended, in_threads
from r2l_jax.model.adaptation import MOST
from r2l_jax.model.tasks.segmentation import enlarged
from r2l_jax.results import result
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import (
    check_output_folder,
    make_output_folder,
    read_csv,
    refuse_shared_targets,
    replacing,
    write_csv,
)
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Result
from r2l_jax.training.run import BATCH, Run

_FILE, _CLASS = "file", "class"


def adapted_run(
    run: Run, files: Sequence[Place], camera: KnownCamera | None, stored: Path, force: bool = False
) -> tuple[Run, str | None]:
    """Adapts the models of a run to the files that they predict, at most `adaptation.MOST` of them, evenly spaced.

    Args:
        run: the run, which takes raw files.
        files: the raw files; those that cannot be read are left out.
        camera: as for `predict_files`.
        stored: the file of the run's reference, which is made from its data if `monitor.py` has not stored it.
        force: whether to adapt even if no drift is detected, or if `Run.adapted` would refuse.

    Returns:
        The adapted run and None, or the run as it is and the reason.

    Raises:
        InputError: no file can be read, or a model cannot be adapted to the files, see `Run.adapted`.
    """
    chosen = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, MOST).round().astype(int))]
    decoded = in_threads(lambda file: read_file(file, run, camera, run.shape), chosen, AT_ONCE)
    read = [each.result for each in decoded if each.result is not None]
    if not read:
        raise InputError("`adapt=statistics`: no file can be read")
    raws = jax.tree.map(lambda *each: np.stack(each), *read)
    if not force:
        reason = reference.unnoticed(run, np.asarray(raws), lambda: reference.read(run, stored) or reference.make(run))
        if reason is not None:
            return run, reason
    return run.adapted(raws, force=force), None


class Predictor(NamedTuple):
    """The run and the calibration with which raw files are predicted.

    Attributes:
        run: the folds of a run, whose probabilities are averaged.
        camera: the known calibration of the files' camera. None takes each file's own calibration for camera formats,
            and the training's for other files.
        unadapted: why the run was not adapted, if adaptation was requested.
    """

    run: Run
    camera: KnownCamera | None = None
    unadapted: str | None = None


def predict_files(
    files: Sequence[Place],
    output: Path,
    run: Run,
    camera: KnownCamera | None = None,
    masks: Path | None = None,
    pictures: Path | None = None,
    scheduler: str = "serial",
    load: Callable[[], Predictor] | None = None,
) -> tuple[int, int]:
    """Predicts raw files, with a progress bar on stderr, and writes a row for each to a CSV file.

    For classification, the columns are `file`, `class` (the most probable one) and a probability for each class. Files
    larger than the training's raw images are cropped to their center. For segmentation, the columns are `file` and the
    fraction of the frame that the object, or each class, covers; `<masks>/<name>.png` is the object's probability at
    each site, times 255, or the index of each site's class, with the colors of the classes as palette. For detection,
    each box has a row with its file, class, score and corners in pixels, and `<output>.json` holds all boxes in COCO's
    format.

    A file that cannot be predicted is reported on stderr at the end, and has no row. If no file can be predicted, there
    is no table. The hidden folder `.<output>.parts` names the models, and holds the rows for a call that resumes.

    Args:
        files: the raw files.
        output: the CSV file.
        run: the folds of a run, whose probabilities are averaged.
        camera: the known calibration of the files' camera, see `Predictor`.
        masks: for segmentation, the folder for the masks.
        pictures: for segmentation and detection, a folder for pictures of the rendered frames with masks or boxes.
        scheduler: where files are predicted, see `jobs.SETTING`.
        load: returns the `Predictor` of a worker.

    Returns:
        The number of files that were predicted, and the number that failed.

    Raises:
        InputError: see `check`; or another program is writing to the output.
    """
    folders = [each for each in (masks, pictures) if each is not None]
    columns = check(files, output, run, camera, masks, pictures)
    for each in folders:
        make_output_folder(each)
    chunks, models = output.with_name(f".{output.name}.parts"), [fold.identity for fold in run]
    settings = {
        "camera": "by default" if camera is None else camera.described,
        "masks": [str(each.resolve()) for each in folders],
    }
    with writing_to(output.parent, output.name):
        about = {"run": run.config.tracking.run_name, "checkpoint": run.about.checkpoint, "models": models}
        result.write(chunks, Result({**about, **settings}))
        done = for_each_file(
            files,
            functools.partial(_predict, models, folders, len(files) > BATCH),
            Predictor(run, camera),
            chunks=chunks,
            settings=settings,
            models=models,
            targets=functools.partial(_mask_files, folders=folders),
            scheduler=scheduler,
            load=load,
        )
        if done.results and run.task.has_boxes:
            write_csv(output, boxes.rows_of(done.results, run.classes), columns)
            boxes.write_coco(output.with_suffix(".json"), done.results, run.classes)
        elif done.results:
            write_csv(output, [{_FILE: str(file), **row} for file, row in done.results.items()], columns)
        else:
            output.unlink(missing_ok=True)
    return done.counts


def check(
    files: Sequence[Place],
    output: Path,
    run: Run,
    camera: KnownCamera | None,
    masks: Path | None,
    pictures: Path | None = None,
) -> list[str]:
    """Checks the arguments of `predict_files`, and returns the columns of the table.

    Raises:
        InputError: the models do not take raw files, or need a camera for them; two files would have one mask; the
            output cannot be written, or holds something other than predictions of these files.
    """
    run.reading()
    check_masks(run.task.has_masks, masks)
    if pictures is not None and not (run.task.has_masks or run.task.has_boxes):
        raise InputError("`pictures` is only for models that predict masks or boxes")
    folders = [each for each in (masks, pictures) if each is not None]
    refuse_shared_targets((file, target) for file in files for target in _mask_files(file, folders))
    unknown = [file for file in files if run.calibration is None and camera is None and is_stored(file)]
    if unknown:
        raise InputError(
            f"{unknown[0]} names no camera, and the model was trained on several ({', '.join(run.cameras)}): name one "
            "with `camera`"
        )
    columns = [_FILE, _CLASS, *run.classes] if run.task.has_labels else [_FILE, *run.classes]
    columns = [_FILE, *boxes.COLUMNS] if run.task.has_boxes else columns
    if len(set(columns)) < len(columns):
        raise InputError(f"two columns of {output} would have the same name: {', '.join(columns)}")
    check_output_folder(output.parent)
    if output.exists():
        names = {str(file) for file in files}
        try:
            is_ours = all(list(row) == columns and row[_FILE] in names for row in read_csv(output))
        except (OSError, ValueError, csv.Error):
            is_ours = False
        if not is_ours:
            raise InputError(f"{output} holds rows that are not predictions of these files: choose another file")
    return columns


def check_masks(has_masks: bool, masks: Path | None) -> None:
    """Raises an InputError unless a folder for masks is given just if the model predicts masks."""
    if has_masks != (masks is not None):
        raise InputError(f"`masks` is {'needed for' if has_masks else 'only for'} models that predict masks")


def _predict(
    models: Sequence[str], folders: Sequence[Path], fills: bool, predictor: Predictor, files: Sequence[Place]
) -> Iterator[Ended]:
    """Predicts files; raises an InputError if a worker has loaded other models than the program.

    Masks or pictures are written to a folder, if there is one.
    """
    run, camera, _ = predictor
    if [fold.identity for fold in run] != list(models):
        raise InputError("the run has changed since the program started")
    if not folders and not run.task.has_boxes:
        return _classes(files, predictor, fills)
    work = functools.partial(boxes.detect if run.task.has_boxes else _segment, run, folders)
    return frame_by_frame(files, lambda file: read_file(file, run, camera, None), work)


def _classes(files: Sequence[Place], predictor: Predictor, fills: bool) -> Iterator[Ended]:
    """Predicts numbers for files in batches, such as probabilities; yields the row or the error of each."""
    run, camera, _ = predictor
    decoded = in_threads(lambda file: read_file(file, run, camera, run.shape), files, AT_ONCE + BATCH)
    while batch := list(islice(decoded, BATCH)):
        raws = {each.item: each.result for each in batch if each.result is not None}
        rows = dict[Place, dict[str, str]]()
        for shape in dict.fromkeys(raw.shape for raw in raws.values()):
            alike = [file for file, raw in raws.items() if raw.shape == shape]
            # Padded, because each batch size would be compiled separately.
            filled = alike + [alike[-1]] * (BATCH - len(alike)) * fills
            stacked = jax.tree.map(lambda *each: np.stack(each), *(raws[file] for file in filled))
            probabilities = run.predict(stacked)[: len(alike)]
            for file, values in zip(alike, probabilities, strict=True):
                found = {name: f"{value:.7g}" for name, value in zip(run.classes, values, strict=True)}
                rows[file] = {_CLASS: run.classes[values.argmax()], **found} if run.task.has_labels else found
        yield from (Ended(each.item, rows.get(each.item), each.error, each.warnings) for each in batch)


def _segment(run: Run, folders: Sequence[Path], file: Place, raw: Mosaic) -> dict[str, str]:
    """Segments a frame: writes its pictures, and returns its row."""
    task, camera = run.task, run.camera
    assert camera is not None
    metered = run.metered_frame(raw) if run.about.in_parts or max(raw.shape) > SIDE else None
    by_tiles = functools.partial(predict_frame, raw=raw, pattern=camera.pattern, multiple=run.multiple, frame=metered)
    stated = by_tiles(lambda tile: task.stated(run.predict(tile)))
    pictures, found = [task.mask_file(stated)], task.found(stated)
    if len(folders) > 1:
        image = by_tiles(lambda tile: enlarged(run.render(tile)[None], tile.shape[0])[0])
        pictures.append(Image.fromarray(quantized(task.overlaid(image, found), np.uint8)))
    for target, picture in zip(_mask_files(file, folders), pictures, strict=True):
        with replacing(target) as part:
            picture.save(part, format="png")
    covered = np.bincount(found.ravel(), minlength=len(task.classes)) / found.size
    return {name: f"{covered[task.classes.index(name)]:.7g}" for name in run.classes}


def _mask_files(file: Place, folders: Sequence[Path]) -> list[Path]:
    return [folder / f"{file.stem}.png" for folder in folders]
