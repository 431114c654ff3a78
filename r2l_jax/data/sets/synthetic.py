"""The synthetic data set: phantoms of a stained blood smear, rendered and written in the published layout.

<root>/images/raw_scale{001,005,010,025,050,075,100}/<name>.tiff   16-bit raw images, value / 65535
<root>/labels/labels.dat                                           one line per scene: its name, a space and its class
<root>/masks/<name>.png                                            8-bit, 255 where the white cell is
<root>/parts/<name>.png                                            once asked for: 8-bit, an index into phantom.PARTS
<root>/camera.json  dataset.json                                   the camera; the settings that made the folder
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from jaxtyping import Array, Float32, Int, Key, PRNGKeyArray, UInt8, UInt16
from PIL import Image
from tqdm import tqdm

from isp.camera import Camera
from isp.sensor import expose
from isp.unprocessing import to_camera
from r2l_jax.data.files.decoding import advising
from r2l_jax.data.files.known_camera import read_camera_file
from r2l_jax.data.files.tiles import stored_set
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets.phantom import CLASSES, PARTS, parts, render
from r2l_jax.errors import InputError
from r2l_jax.jobs import mapped
from r2l_jax.names import INTENSITIES
from r2l_jax.results.files import atomic_folder

# An invented camera with ordinary calibration values: 12 bits with black at 128, a sensor that is most sensitive to
# green, and broad color filters. Its pixels are small and its read-out is noisy: at an intensity of 0.01 the background
# has 16 electrons, and the noise hides the differences between the classes.
CAMERA = Camera(
    black_level=(128 / 4095,) * 4,
    white_balance=(1.9, 1.0, 1.6),
    color_matrix=((1.62, -0.44, -0.18), (-0.25, 1.50, -0.25), (-0.02, -0.40, 1.42)),
    full_well=2000,
    read_noise=8,
    bits=12,
)

# Increase this whenever the same settings give different files.
_VERSION = 3
_BATCH = 20
# The maximum number of scenes and side: JAX ends the process if there is too little memory for a batch.
_IMAGES, _SIZE = 10**6, 1024


def intensity_folder(intensity: float) -> str:
    """Returns the name of the folder under `images/` for an intensity, such as "raw_scale005" for 0.05."""
    return f"raw_scale{round(100 * intensity):03d}"


def load(
    name: str, parent: str | Path, intensity: float, images: int, size: int, chosen: tuple[str, ...] | None = None
) -> RawDataset:
    """Loads a synthetic data set, and renders it if it does not exist.

    `name` is one of `settings.SYNTHETIC_SETS`, `intensity` one of `INTENSITIES`, and the rest as for `generate`. For
    segmentation, one `chosen` part of the scenes is the object, and several are classes after the background. By
    default, the white cell is the object.
    """
    background, *others = PARTS
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(others)):
        raise InputError(f"`classes` must be one or more of {', '.join(others)}, got {', '.join(chosen) or 'none'}")
    segmentation = name == "SyntheticSegmentation"
    try:
        root = generate(parent, images=images, size=size)
        if chosen:
            _write_parts(root / "parts", images, size)
    except (ValueError, OSError) as error:
        raise InputError(f"synthetic data set: {error}") from None
    advice, pairs = f"delete {root} to render the data set again", _names_and_classes(images)
    with advising(advice):
        camera = read_camera_file(root / "camera.json")
    names, classes = tuple(stem for stem, _ in pairs), tuple(sorted(CLASSES))
    masks = root / ("parts" if chosen else "masks")
    dataset = stored_set(
        [root / "images" / intensity_folder(intensity) / f"{stem}.tiff" for stem in names],
        [masks / f"{stem}.png" for stem in names] if segmentation else [],
        [],
        (size, size),
        bool(chosen),
        lambda _: advice,
        name=name,
        classes=("white cell",) if segmentation else classes,
        camera=camera,
        names=names,
        labels=np.array([classes.index(label) for _, label in pairs], np.int32),
    )
    if not chosen:
        return dataset
    # The places of the parts among the chosen ones; the others are background.
    places = np.array([1 + chosen.index(part) if part in chosen else 0 for part in PARTS], np.uint8)

    def read(index: int) -> Sample:
        raw, mask = dataset.read(index)
        return raw, places[mask]

    names_of_masks = chosen if len(chosen) == 1 else (background, *chosen)
    return dataclasses.replace(dataset, classes=names_of_masks, read=read, provenance=",".join(names_of_masks))


def _write_parts(folder: Path, images: int, size: int) -> None:
    """Writes the parts of the scenes that `generate` renders, unless the folder exists."""
    if folder.exists():
        return
    with atomic_folder(folder) as unfinished:
        for names, keys, classes in _batches(images, 0, "parts of scenes"):
            for name, mask in zip(names, np.asarray(_parts(keys, classes, size)), strict=True):
                Image.fromarray(mask).save(unfinished / f"{name}.png")


def _batches(images: int, seed: int, title: str) -> Iterator[tuple[list[str], Key[Array, " _"], Int[Array, " _"]]]:
    """Yields the names, keys and classes of scenes, and shows a progress bar.

    The last batch starts early enough to be full, so that all batches have one shape to compile.
    """
    keys, names = jax.random.split(jax.random.key(seed), images), [name for name, _ in _names_and_classes(images)]
    for start in tqdm(range(0, images, _BATCH), desc=title, unit="batch", disable=None):
        batch = np.arange(max(min(start, images - _BATCH), 0), min(start + _BATCH, images))
        yield [names[index] for index in batch], keys[batch], jnp.array(batch % len(CLASSES))


@functools.partial(jax.jit, static_argnames="size")
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _parts(key: PRNGKeyArray, cell_class: Int[Array, ""], size: int) -> UInt8[Array, "{size} {size}"]:
    render_key, _ = jax.random.split(key)
    return parts(render_key, cell_class, size)


def _names_and_classes(images: int) -> list[tuple[str, str]]:
    return [(f"cell_{index:05d}", CLASSES[index % len(CLASSES)]) for index in range(images)]


def generate(parent: str | Path, *, images: int = 600, size: int = 128, seed: int = 0) -> Path:
    """Renders the data set into a folder under `parent`, unless a folder for these settings exists; returns the folder.

    It appears complete or not at all. If two processes write it at the same time, the slower one drops its copy. The
    scenes' classes alternate. `size` is the height and width in pixels, even and 32 to 1024. The same machine writes
    the same files for the same seed.
    """
    if not len(CLASSES) <= images <= _IMAGES:
        raise InputError(f"`synthetic_images` must be from {len(CLASSES)} (one per class) to {_IMAGES}, got {images}")
    if not 32 <= size <= _SIZE or size % 2:
        raise InputError(f"`synthetic_size` must be even and from 32 to {_SIZE}, got {size}")
    settings = {"version": _VERSION, "images": images, "size": size, "seed": seed}
    root = Path(parent) / f"synthetic_{images}x{size}_seed{seed}_v{_VERSION}"
    if not root.exists():
        with atomic_folder(root) as unfinished:
            _write(unfinished, settings)
    return root


def _write(root: Path, settings: dict[str, int]) -> None:
    """Renders all scenes and writes all files; scenes are written while others are rendered."""
    folders = [root / "images" / intensity_folder(intensity) for intensity in INTENSITIES]
    for folder in (*folders, root / "labels", root / "masks"):
        folder.mkdir(parents=True)

    def scenes() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for names, keys, classes in _batches(settings["images"], settings["seed"], "synthetic data set"):
            yield from zip(names, *map(np.asarray, _photograph(keys, classes, settings["size"])), strict=True)

    def write_scene(scene: tuple[str, np.ndarray, np.ndarray]) -> None:
        name, raws, mask = scene
        for folder, raw in zip(folders, raws, strict=True):
            tifffile.imwrite(folder / f"{name}.tiff", raw, metadata=None)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")

    collections.deque(mapped(write_scene, scenes(), most=2 * _BATCH), maxlen=0)
    lines = [f"{name} {label}\n" for name, label in _names_and_classes(settings["images"])]
    (root / "labels" / "labels.dat").write_text("".join(lines))
    (root / "camera.json").write_text(CAMERA.to_json())
    (root / "dataset.json").write_text(json.dumps(settings))


def photograph(cell_class: str, size: int, seed: int = 0) -> Float32[np.ndarray, "{size} {size}"]:
    """Renders the raw image of one scene of a class, a name in `CLASSES`, under full light, with white at 1."""
    raws, _ = _photograph(jax.random.key(seed)[None], jnp.array([CLASSES.index(cell_class)]), size)
    return np.asarray(raws[0, INTENSITIES.index(1.0)]) / np.float32(65535)


@functools.partial(jax.jit, static_argnames="size")
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _photograph(
    key: PRNGKeyArray, cell_class: Int[Array, ""], size: int
) -> tuple[UInt16[Array, "intensities {size} {size}"], UInt8[Array, "{size} {size}"]]:
    """Renders one scene, and returns its raw image at each intensity and its mask, 255 where the white cell is."""
    render_key, noise_key = jax.random.split(key)
    rgb, mask = render(render_key, cell_class, size)
    light = to_camera(rgb, CAMERA)
    noise_keys = jax.random.split(noise_key, len(INTENSITIES))
    raws = jax.vmap(lambda key, exposure: expose(light, key, camera=CAMERA, exposure=exposure))(
        noise_keys, jnp.array(INTENSITIES)
    )
    return jnp.round(raws * 65535).astype(jnp.uint16), mask.astype(jnp.uint8) * 255
