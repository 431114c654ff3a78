"""Describes data sets in folders, for others: Croissant metadata and a data card beside their files."""

import pathlib
import tempfile
import types
from collections.abc import Mapping, Sequence

import isp
from r2l_jax.apps.share import cards, croissant
from r2l_jax.apps.share.croissant import DataFolder
from r2l_jax.data.files.masks import pair_masks, read_classes
from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.data.groups import named_groups
from r2l_jax.data.sets import folder
from r2l_jax.data.settings import SYNTHETIC_SETS, DataSettings
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.files import replacing, write_csv, write_json

# In cards that may be written anew. Who edits a card removes it.
MARK = "<!-- Written by r2l card, which replaces this file as long as this line is in it. -->"


def write(root: pathlib.Path, data: DataFolder, said: Mapping[str, str] = types.MappingProxyType({})) -> bool:
    """Writes croissant.json and README.md to the folder of a data set; tells whether the card is new.

    A card without `MARK` stays, since somebody has edited it. `said` is what a person says, see `croissant.SAID`.
    """
    if data.table == croissant.TABLE:
        write_csv(root / croissant.TABLE, data.samples)
    write_json(root / croissant.FILE, croissant.metadata(root, data, said))
    card = root / cards.FILE
    if card.exists() and MARK not in card.read_text():
        return False
    with replacing(card) as part:
        part.write_text(f"{cards.data_card(data, said)}\n{MARK}\n")
    return True


def of_folder(config: DataSettings) -> DataFolder:
    """Describes the data set "Folder", of raw files that are all read.

    Raises:
        InputError: the folder cannot be loaded, or its annotations are elsewhere.
    """
    root, group = pathlib.Path(config.data_dir or ""), config.group
    source = {name: value for name, value in config.source.items() if not name.startswith("synthetic")}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = folder.load(**source, tiles_dir=pathlib.Path(scratch))
    masked, annotations = dataset.task == "segmentation", None
    if masked:
        pairs = [
            pair
            for images in sorted([*root.glob("images"), *root.glob("*/images")])
            for pair in pair_masks(images, images.parent / "masks", RAW_SUFFIXES)
        ]
        samples = [{"file": _within(root, frame), "mask": _within(root, mask)} for frame, mask in pairs]
    elif config.annotations is not None:
        annotations = _within(root, pathlib.Path(config.annotations))
        samples = [{"file": pathlib.PurePath(name).as_posix()} for name in dataset.names]
    else:
        labeled = zip(dataset.names, dataset.labels.tolist(), strict=True)
        samples = [
            {"file": pathlib.PurePath(name).as_posix(), "class": dataset.classes[label]} for name, label in labeled
        ]
    if group is not None:
        paths = [pathlib.PurePath(row["file"]) for row in samples]
        groups = named_groups(group, [pathlib.PurePath(path.stem) for path in paths] if masked else paths)
        samples = [{**row, "group": name} for row, name in zip(samples, groups, strict=True)]
    cameras = dataset.cameras or ({"camera": dataset.camera} if dataset.camera else {})
    simulated = croissant.simulation(root)
    return DataFolder(
        root.resolve().name,
        dataset.task,
        dataset.classes,
        samples,
        cameras,
        croissant.TABLE,
        simulated,
        "",
        annotations,
    )


def _within(root: pathlib.Path, path: pathlib.Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(f"{path} must be in {root}, to be shared with it") from None


def of_pictures(
    target: pathlib.Path, files: Sequence[Sequence[pathlib.Path]], camera: isp.Camera, exposure: float
) -> DataFolder:
    """Describes raw images that were made of pictures; `files` are those of each sample within `target`."""
    there = [each for each in files if (target / each[0]).is_file()]
    masked = any(len(each) > 1 for each in there)
    if masked:
        classes, task = (read_classes(target) or folder.Classes(("object",))).names, "segmentation"
    else:
        classes, task = sorted({each[0].parent.name for each in there}), "classification"
    samples = [
        {"file": each[0].as_posix(), **({"mask": each[1].as_posix()} if masked else {"class": each[0].parent.name})}
        for each in there
    ]
    simulated = (
        f"r2l_jax unprocess has inverted the processing of pictures, exposed them at {exposure:g} times their light, "
        "and added the noise of the camera's sensor."
    )
    return DataFolder(target.resolve().name, task, classes, samples, {"camera": camera}, simulated=simulated)


def of_set(root: pathlib.Path) -> DataFolder:
    """Describes a set of pictures that `synthesize.py` has written."""
    found = result.read(root)
    assert found is not None
    about, table = found.metadata, found.tables["manifest"]
    names, source = [column.name for column in table.columns], about["dataset"]
    samples = [{name: str(cell) for name, cell in zip(names, row, strict=True)} for row in table.rows]
    drift = [about["acquisition"]] * bool(about["state"]) + [about["corruption"]] * bool(about["corruption"])
    simulated = [
        cards.EMBEDDED if source["name"] in SYNTHETIC_SETS else croissant.simulation(about["flags"]["data_dir"])
    ]
    simulated += [f"The drift {' and '.join(drift)} was added by computation."] * bool(drift)
    return DataFolder(
        about["title"],
        source["task"],
        source["classes"],
        samples,
        {"camera": isp.Camera(**about["camera"])},
        "manifest.csv",
        " ".join(filter(None, simulated)),
        f"Rendered by r2l_jax from the raw images of {source['name']} with the pipeline {about['pipeline']}.",
    )
