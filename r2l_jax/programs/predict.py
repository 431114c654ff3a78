"""Runs a trained model on raw files: a table of classes, masks, or a table of boxes.

python scripts/predict.py --run=runs/quickstart/small --input=more_raw_files --output=predictions.csv
python scripts/predict.py --run=runs/cars/small --input=more_raw_files --output=cars.csv --masks=masks
python scripts/predict.py --run=runs/quickstart/small --input=my_cells --output=p.csv --labels=folder
python scripts/predict.py --run=runs/quickstart/small --input=s3://bucket/raw --output=p.csv --scheduler=local:8

The table has a row for each file: the most probable class, and the probability of each class. Files larger than the
raw images that the model was trained on are cropped to their center; frames to segment, and those in which a detector
finds boxes, are used whole. Boxes are also written as a COCO JSON file beside the table, predictions.json. Repeat the
command to resume. The exit status is 1 if any file could not be read.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from r2l_jax import jobs
from r2l_jax.cli.flags import Settings, setting
from r2l_jax.config import CHECKPOINTS, CODE, WHICH_CHECKPOINT
from r2l_jax.data.files import remote
from r2l_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionConfig(Settings):
    """Prediction."""

    run: str = setting(
        "folder of a finished run, one of its folds, or a group of seeds, which predict together; a file "
        "model.safetensors; or hf://<owner>/<name>, a model on the hub"
    )
    input: tuple[str, ...] = setting(
        f"raw files, folders, and folders of folders, separated by commas, each {remote.BY_URL}",
        kind="repeated",
    )
    output: str = setting("CSV file for the table")
    folds: tuple[str, ...] = setting(
        "numbers of the folds whose probabilities are averaged, or all; for a group, the folds of each member", ("0",)
    )
    checkpoint: str = setting(WHICH_CHECKPOINT, "best", choices=CHECKPOINTS)
    masks: str | None = setting(
        "for segmentation: folder for the masks, 8-bit PNG of the object's probabilities or of the classes' indices",
        None,
    )
    pictures: str | None = setting(
        "for segmentation and detection: folder for pictures of the frames with their masks or boxes", None, rare=True
    )
    camera: str | None = setting(
        "drone, microscopy, a JSON file, or auto: each file's own calibration; default: auto for camera "
        "formats, and the training camera for TIFF, PNG, PGM, NPY, CZI and ND2",
        None,
    )
    code: tuple[str, ...] = setting(CODE, ())
    labels: str | None = setting(
        "folder: each file's folder is its class; print the accuracy, and the counts of each class",
        None,
        choices=("folder",),
    )
    adapt: str | None = setting(
        "statistics: test-time adaptation without labels (AdaBN); if drift is detected in up to 64 of the files, mix "
        "their batch-norm statistics with the training statistics before predicting",
        None,
        choices=("statistics",),
    )
    force: bool = setting(
        "with --adapt, adapt even without detected drift, or to unsuitable files, such as files of a single class",
        False,
        needs="adapt",
    )
    save_adapted: str | None = setting(
        "with --adapt, folder for the adapted model, which all programs take as a run", None, needs="adapt"
    )
    scheduler: str = setting(jobs.SETTING, "serial")

    def __post_init__(self):
        super().__post_init__()
        differ = len(set(self.folds)) == len(self.folds) > 0
        if self.folds != ("all",) and not (differ and all(fold.isdecimal() for fold in self.folds)):
            raise InputError(f"`folds` must be all, or different fold numbers, got {','.join(self.folds)}")
        for name in ("output", "masks", "pictures", "save_adapted"):
            remote.on_disk(name, getattr(self, name) or "")


def _folds(config: PredictionConfig) -> list[int] | None:
    return None if config.folds == ("all",) else [*map(int, config.folds)]


@functools.lru_cache(maxsize=2)
def _load(config: PredictionConfig, adapts: bool = True) -> Any:
    """Loads the model that predicts the files, a `Predictor`, and adapts it to them if the flags ask for that.

    Each process loads it once.
    """
    from r2l_jax.apps.files import find_raw_files
    from r2l_jax.apps.predict import Predictor, adapted_run
    from r2l_jax.data.files.known_camera import find_known_camera
    from r2l_jax.drift.monitoring import reference
    from r2l_jax.training.run import load

    if not adapts:
        opened = load(config.run, _folds(config), config.checkpoint, config.code)
        opened.reading()  # Raises an InputError if the models take no raw files.
        return Predictor(opened, None if config.camera is None else find_known_camera(config.camera))
    run, camera, _ = opened = _load(config, False)
    if config.adapt is None:
        return opened
    adapted = adapted_run(run, find_raw_files(config.input), camera, reference.file_of(config.run), config.force)
    return Predictor(adapted[0], camera, adapted[1])


def main(config: PredictionConfig) -> int:
    """Predicts the files that the flags name, and returns the exit status."""
    from r2l_jax.apps.files import closing, find_raw_files
    from r2l_jax.apps.labeled import labels_of, scored
    from r2l_jax.apps.predict import check, check_masks, predict_files
    from r2l_jax.training.run import predicts_masks

    jobs.prepare(config.scheduler)
    masks, pictures = (None if each is None else pathlib.Path(each) for each in (config.masks, config.pictures))
    check_masks(predicts_masks(config.run, _folds(config)), masks)
    files, output = find_raw_files(config.input, warns=True), pathlib.Path(config.output)
    # Adaptation takes a minute or two, so invalid arguments are refused before it.
    run, camera, _ = _load(config, False)
    labels = None if config.labels is None else labels_of(files, run)
    check(files, output, run, camera, masks, pictures)
    run, camera, unadapted = _load(config)
    models = "fold" if len({fold.folder.parent for fold in run}) == 1 else "run"
    print(f"{config.run}: the {config.checkpoint} checkpoint of {len(run.folds)} {models}{'s' * (len(run.folds) > 1)}")
    if unadapted is not None:
        print(f"the model is not adapted: {unadapted}")
    for fold in run:
        if fold.adaptation is not None:
            found = fold.adaptation
            print(f"{fold.folder}: adapted to {found.description}; mutual information {found.mutual_information:.2f}")
    if config.save_adapted is not None:
        run.write(pathlib.Path(config.save_adapted))
        # The flags without which programs look for another fold or state.
        needed = [f"--checkpoint={config.checkpoint}"] * (config.checkpoint != "best")
        needed += [f"--folds={','.join(config.folds)}"] * (config.folds not in (("0",), ("all",)))
        print(f"the {'adapted ' * (unadapted is None)}model is the run {' '.join([config.save_adapted, *needed])}")
    load = functools.partial(_load, config)
    counts = predict_files(files, output, run, camera, masks, pictures, config.scheduler, load)
    print(closing(counts, files, "predicted"))
    if labels is not None and counts[1] < len(files):
        print("\n".join(scored(output, labels)))
    return 1 if counts[1] else 0
