"""The embedded data set: phantoms of a stained blood smear, photographed and written in the layout of the real sets.

<root>/images/raw_scale{001,005,010,025,050,075,100}/<name>.tiff   16-bit mosaics, value / 65535
<root>/labels/labels.dat                                           lines "<name> <class>"
<root>/masks/<name>.png                                            8-bit, 255 where the white cell is
<root>/camera.json  dataset.json                                   the camera; the settings that made the folder
"""

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile
from PIL import Image
from tqdm import tqdm

from isp.camera import Camera
from isp.sensor import expose
from isp.unprocessing import to_camera
from r2l_jax.config import INTENSITIES
from r2l_jax.data.sets.phantom import CLASSES, render
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import drafting

# The exposures of every scene, as the real data sets have them: fractions of the full light.

# An invented camera of ordinary figures: 12 bits with black at 128, a green-sensitive sensor, broad colour filters.
CAMERA = Camera(
    black_level=(128 / 4095,) * 4,
    white_balance=(1.9, 1.0, 1.6),
    color_matrix=((1.62, -0.44, -0.18), (-0.25, 1.50, -0.25), (-0.02, -0.40, 1.42)),
)

# In electrons: a small pixel and an inexpensive read-out. At an intensity of 0.01 the background is 16 electrons, and
# what tells the classes apart drowns in the noise.
FULL_WELL = 2000.0
READ_NOISE = 8.0

_VERSION = 2  # of the pictures and their layout: raise it whenever the same settings give other files
_BATCH = 20


def intensity_folder(intensity: float) -> str:
    """The folder under `images/` that holds this intensity: 0.05 is in "raw_scale005"."""
    return f"raw_scale{round(100 * intensity):03d}"


def generate(parent: str | Path, *, images: int = 600, size: int = 128, seed: int = 0) -> Path:
    """Writes the data set, or finds it written: one folder under `parent` for these settings.

    The folder appears complete or not at all: it is filled under another name and renamed at the end. Of two processes
    that write it at once, the slower one drops its copy.

    Args:
        parent: where the folder lies or shall lie; made if missing.
        images: how many scenes; the classes take turns.
        size: height and width in pixels, even and at least 32.
        seed: the same seed gives the same files on the same machine.

    Returns:
        The data set's folder.

    Raises:
        InputError: images or size out of range, or something else lies where the folder should.
    """
    if images < len(CLASSES):
        raise InputError(f"images must be at least {len(CLASSES)}, one of each class, got {images}")
    if size < 32 or size % 2:
        raise InputError(f"size must be even and at least 32, got {size}")
    settings = {"version": _VERSION, "images": images, "size": size, "seed": seed}
    root = Path(parent) / f"synthetic_{images}x{size}_seed{seed}_v{_VERSION}"
    if not root.exists():
        with drafting(root) as draft:
            _write(draft, settings)
    _check(root, settings)
    return root


def _check(root: Path, settings: dict[str, int]) -> None:
    """Raises an InputError unless `root` was made with these settings."""
    description = root / "dataset.json"
    if not description.is_file() or json.loads(description.read_text()) != settings:
        raise InputError(f"{root} is not the synthetic data set of {settings}: move it, or use another folder")


def _write(root: Path, settings: dict[str, int]) -> None:
    """Renders all scenes and writes all files; the disk works on one batch while the next is rendered."""
    folders = [root / "images" / intensity_folder(intensity) for intensity in INTENSITIES]
    for folder in (*folders, root / "labels", root / "masks"):
        folder.mkdir(parents=True)

    def write_scene(name: str, raws: np.ndarray, mask: np.ndarray) -> None:
        for folder, raw in zip(folders, raws, strict=True):
            tifffile.imwrite(folder / f"{name}.tiff", raw, metadata=None)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")

    images = settings["images"]
    names = [f"cell_{index:05d}" for index in range(images)]
    classes = np.arange(images) % len(CLASSES)
    keys = jax.random.split(jax.random.key(settings["seed"]), images)
    with ThreadPoolExecutor() as pool:
        written = iter(())
        for start in tqdm(range(0, images, _BATCH), desc="synthetic data set", unit="batch"):
            # The last batch ends at the last image: every batch has one shape, and is compiled once.
            batch = slice(max(min(start, images - _BATCH), 0), start + _BATCH)
            raws, masks = _photograph(keys[batch], jnp.array(classes[batch]), settings["size"])
            list(written)  # waits for the batch before, and raises its errors
            written = pool.map(write_scene, names[batch], np.asarray(raws), np.asarray(masks))
        list(written)

    lines = [f"{name} {CLASSES[index]}\n" for name, index in zip(names, classes, strict=True)]
    (root / "labels" / "labels.dat").write_text("".join(lines))
    (root / "camera.json").write_text(CAMERA.to_json())
    (root / "dataset.json").write_text(json.dumps(settings))


@functools.partial(jax.jit, static_argnames="size")
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _photograph(key, cell_class, size):
    """One scene at every intensity, `(intensities, size, size)` uint16, and its mask `(size, size)` uint8."""
    render_key, noise_key = jax.random.split(key)
    rgb, mask = render(render_key, cell_class, size)
    light = to_camera(rgb, CAMERA)
    noise_keys = jax.random.split(noise_key, len(INTENSITIES))
    raws = jax.vmap(
        lambda key, exposure: expose(
            light, key, camera=CAMERA, exposure=exposure, full_well=FULL_WELL, read_noise=READ_NOISE
        )
    )(noise_keys, jnp.array(INTENSITIES))
    return jnp.round(raws * 65535).astype(jnp.uint16), mask.astype(jnp.uint8) * 255
