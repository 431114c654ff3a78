"""Describes data sets in folders, for others: Croissant metadata and a data card beside their files."""

import dataclasses
import json
import pathlib
import tempfile
import types
from collections.abc import Mapping, Sequence

import numpy as np

import isp
from r2l_jax.apps.share import cards, croissant
from r2l_jax.apps.share.croissant import DataFolder
from r2l_jax.data.files.masks import pair_masks, read_classes
from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.data.groups import named_groups
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import folder
from r2l_jax.data.settings import DataSettings
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.files import replacing, write_csv, write_json


def write(root: pathlib.Path, data: DataFolder, said: Mapping[str, str] = types.MappingProxyType({})) -> bool:
    """Writes croissant.json and README.md to the folder of a data set; tells whether the card is new.

    A card without `cards.MARK` stays, since somebody has edited it. `said` is what a person says, see `croissant.SAID`.
    """
    if data.table == croissant.TABLE:
        write_csv(root / croissant.TABLE, data.samples)
    write_json(root / croissant.FILE, croissant.metadata(root, data, said))
    card = root / cards.FILE
    if card.exists() and cards.MARK not in card.read_text():
        return False
    with replacing(card) as part:
        part.write_text(f"{cards.data_card(data, said)}\n{cards.MARK}\n")
    return True


def of_folder(config: DataSettings) -> DataFolder:
    """Describes the data set "Folder", whose files are all read, or a set of pictures, see `of_set`.

    Raises:
        InputError: the folder cannot be loaded, its annotations are elsewhere, or a setting has no effect on a set.
    """
    root = pathlib.Path(config.data_dir or "")
    if (found := result.read(root)) is not None and "acquisition" in found.metadata:
        for name in ("camera", "tile_size", "classes", "group", "annotations"):
            if getattr(config, name) != getattr(type(config), name):
                raise InputError(f"`{name}` has no effect on a set that synthesize.py has written, which has its own")
        return of_set(root)
    if found is None and (sets := sorted(root.glob(f"*/*/*/{result.FILE}"))):
        raise InputError(f"`data_dir={root}` holds sets of synthesize.py: give one, such as {sets[0].parent}")
    source = {name: value for name, value in config.source.items() if not name.startswith("synthetic")}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = folder.load(**source, tiles_dir=pathlib.Path(scratch))
        has_masks = config.annotations is None and np.ndim(dataset[0][1]) == 2
    named, targets = [pathlib.PurePath(name) for name in dataset.names], [{}] * len(dataset)
    grouped = named
    annotations = config.annotations and _within(root, pathlib.Path(config.annotations))
    if has_masks:
        of_cameras = sorted([*root.glob("images"), *root.glob("*/images")])
        pairs = [pair for each in of_cameras for pair in pair_masks(each, each.parent / "masks", RAW_SUFFIXES)]
        named = [frame.relative_to(root) for frame, _ in pairs]
        grouped = [pathlib.PurePath(frame.stem) for frame, _ in pairs]
        targets = [{"mask": _within(root, mask)} for _, mask in pairs]
    elif not annotations:
        targets = [{"class": dataset.classes[label]} for label in dataset.labels]
    groups = [{}] * len(named)
    if config.group is not None:
        groups = [{"group": name} for name in named_groups(config.group, grouped)]
    samples = [{"file": file.as_posix(), **a, **b} for file, a, b in zip(named, targets, groups, strict=True)]
    return DataFolder(
        root.resolve().name,
        dataset.task,
        dataset.classes,
        samples,
        _cameras(root, dataset),
        simulated=croissant.simulation("Folder", root),
        annotations=annotations,
    )


def _cameras(root: pathlib.Path, dataset: RawDataset) -> dict[str, isp.Camera]:
    """Returns the cameras of a folder with the white levels that are stated, so that others read the files alike."""
    found = {}
    for name, camera in (dataset.cameras or ({"camera": dataset.camera} if dataset.camera else {})).items():
        own = root / name / "camera.json"
        white = json.loads(own.read_text()).get("white_level") if own.is_file() else dataset.white_level
        found[name] = camera if white is None else dataclasses.replace(camera, white_level=white)
    return found


def _within(root: pathlib.Path, path: pathlib.Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(f"{path} must be in {root}, to be shared with it") from None


def of_pictures(
    root: pathlib.Path, files: Sequence[Sequence[pathlib.Path]], camera: isp.Camera, exposure: float
) -> DataFolder:
    """Describes raw images that were made of pictures: the files of each, its image and any mask, within a folder."""
    there = [(file, mask) for file, *mask in files if (root / file).is_file()]
    samples = [
        {"file": file.as_posix(), **({"mask": mask[0].as_posix()} if mask else {"class": file.parent.name})}
        for file, mask in there
    ]
    classes, task = sorted({file.parent.name for file, _ in there}), "classification"
    if "mask" in samples[0]:
        known, task = read_classes(root), "segmentation"
        classes = known.names if known else ["object"]
    simulated = (
        f"r2l_jax unprocess has inverted the processing of pictures, exposed them at {exposure:g} times their light, "
        "and added the noise of the camera's sensor."
    )
    return DataFolder(root.resolve().name, task, classes, samples, {"camera": camera}, simulated=simulated)


def of_set(root: pathlib.Path) -> DataFolder:
    """Describes a set of pictures that `synthesize.py` has written."""
    found = result.read(root)
    assert found is not None
    about, table = found.metadata, found.tables["manifest"]
    names, source = [column.name for column in table.columns], about["dataset"]
    drift = [about["acquisition"]] * bool(about["state"]) + [about["corruption"]] * bool(about["corruption"])
    simulated = [croissant.simulation(source["name"], about["flags"]["data_dir"])]
    simulated += [f"The drift {' and '.join(drift)} was added by computation."] * bool(drift)
    return DataFolder(
        about["title"],
        source["task"],
        source["classes"],
        [{name: str(cell) for name, cell in zip(names, row, strict=True)} for row in table.rows],
        {"camera": isp.Camera(**about["camera"])},
        "manifest.csv",
        " ".join(filter(None, simulated)),
        f"{'Rendered' if about['pipeline'] else 'Written'} by r2l_jax from the raw images of {source['name']}"
        + (f" with the pipeline {about['pipeline']}." if about["pipeline"] else "."),
    )
