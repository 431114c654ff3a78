"""Renders phantoms of a stained blood smear: a white cell among red ones, as bright-field light in linear sRGB.

Lengths are in micrometers, so scenes look the same at every size in pixels. The colors follow a May-Gruenwald-Giemsa
stain: purple nuclei, blue or pink cytoplasm, and red cells in the color of hemoglobin.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

# Width and height of a scene.
FIELD = 22.0

# Absorbance of red, green and blue in linear sRGB at concentration 1 (of hemoglobin: per micrometer of red cell),
# measured in photographs of stained smears.
DYES = {
    "azure": (0.80, 1.15, 0.15),  # the purple complex of azure B and eosin on chromatin
    "methylene_blue": (0.66, 0.42, 0.06),
    "eosin": (0.03, 1.0, 0.72),
    "hemoglobin": (0.02, 0.085, 0.10),
}

# The classes, by the names of the Raw-Microscopy data set:
# - basophil: dark coarse granules hide the nucleus;
# - eosinophil: two lobes, coarse orange-red granules;
# - lymphocyte: small, a round dense nucleus, little pale blue cytoplasm;
# - monocyte: large, a kidney-shaped nucleus, gray-blue cytoplasm;
# - segmented neutrophil: three to five lobes, pale pink cytoplasm with fine granules.
CLASSES = ("BAS", "EOS", "LYT", "MON", "NGS")

# The parts of a scene, by the values of `parts`.
PARTS = ("background", "nucleus", "cytoplasm", "red cell")

# The look of each class. A pair is a mean and a standard deviation. A nucleus is a chain of lobes along an arc: one
# lobe for a round nucleus, overlapping lobes for a kidney shape, and lobes with bridges for a segmented nucleus.
_LOOKS = {
    # the radius of the cell
    "radius": ((5.9, 0.6), (6.5, 0.6), (4.9, 0.6), (7.5, 0.7), (6.2, 0.6)),
    # the probabilities of 1, 2, ... 5 lobes
    "lobes": (
        (0.2, 0.5, 0.3, 0.0, 0.0),
        (0.0, 0.7, 0.3, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0, 0.0),
        (0.05, 0.15, 0.4, 0.3, 0.1),
        (0.0, 0.1, 0.4, 0.35, 0.15),
    ),
    # the radius of a lobe, as a fraction of the cell's radius
    "lobe_radius": ((0.44, 0.05), (0.38, 0.05), (0.78, 0.08), (0.46, 0.06), (0.3, 0.04)),
    # the distance of the lobes' centers from the cell's center, as a fraction of the cell's radius
    "arc_radius": ((0.36, 0.06), (0.46, 0.06), (0.1, 0.05), (0.38, 0.06), (0.5, 0.06)),
    # the angle from lobe to lobe, in radians
    "arc_step": ((1.5, 0.3), (1.7, 0.3), (0.0, 0.0), (0.75, 0.12), (1.3, 0.2)),
    # the concentration of azure in the nucleus
    "chromatin": ((0.62, 0.1), (0.8, 0.12), (0.95, 0.12), (0.65, 0.1), (0.85, 0.12)),
    # the concentration of methylene blue in the cytoplasm
    "methylene_blue": ((0.08, 0.03), (0.04, 0.02), (0.38, 0.1), (0.26, 0.07), (0.05, 0.03)),
    # the concentration of eosin in the cytoplasm
    "eosin": ((0.14, 0.04), (0.2, 0.06), (0.03, 0.02), (0.1, 0.03), (0.18, 0.06)),
    # the standard deviation of a granule's bell
    "granule_size": (0.36, 0.3, 0.2, 0.18, 0.18),
    # the number of granules, as a fraction of the largest number
    "granule_share": (0.45, 1.0, 0.05, 0.3, 1.0),
    # the concentration of eosin in the granules
    "granule_eosin": ((0.0, 0.0), (0.55, 0.13), (0.0, 0.0), (0.1, 0.05), (0.15, 0.06)),
    # the concentration of azure in the granules
    "granule_azure": ((0.8, 0.18), (0.0, 0.0), (0.2, 0.1), (0.05, 0.05), (0.03, 0.02)),
    # the visible fraction of the granules on the nucleus
    "granules_on_nucleus": (0.8, 0.25, 0.0, 0.0, 0.1),
}

# The values of one cell, by the names of `_LOOKS`.
Cell = dict[str, Array]

Plane = Float[Array, "size size"]
Mask = Bool[Array, "size size"]

# The maximum numbers in a scene, of which a random part is visible.
_GRANULES = 140
_RED_CELLS = 9
_PLATELETS = 3


@jax.jit
def transmit(
    concentrations: Float[Array, "*batch dyes"], absorbances: Float[Array, "dyes colors"]
) -> Float[Array, "*batch colors"]:
    """Computes the fraction of light that passes the dyes (Beer-Lambert law).

    Concentrations are multiplied by the thickness. The transmittance is 10 ** -(sum over dyes of concentration *
    absorbance).
    """
    return 10 ** -(concentrations @ absorbances)


@functools.partial(jax.jit, static_argnames="size")
def render(
    key: PRNGKeyArray, cell_class: Int[Array, ""] | int, size: int
) -> tuple[Float[Array, "{size} {size} 3"], Bool[Array, "{size} {size}"]]:
    """Renders one scene of FIELD x FIELD micrometers: a white cell of random shape, pose, stain and focus.

    The key determines everything but the class, an index into CLASSES. Returns the light of the lamp after the smear
    and the microscope's blur, in linear sRGB in [0, 1] `(size, size, 3)`; and a mask of the white cell before the blur
    `(size, size)`.
    """
    place_key, cell_key, white_key, red_key, platelet_key, stain_key, lamp_key, focus_key = jax.random.split(key, 8)
    axis, center, cell = _placed(place_key, cell_key, cell_class, size)
    azure, methylene_blue, eosin, inside, _ = _white_cell(white_key, cell, axis, center)
    azure += _platelets(platelet_key, axis)
    hemoglobin = _red_cells(red_key, axis, center, cell["radius"])
    smear = jnp.stack([azure, methylene_blue, eosin, hemoglobin], -1)
    # The strength of a stain and the balance of its dyes vary from slide to slide.
    smear *= jnp.exp(0.12 * jax.random.normal(stain_key, (len(DYES),)))

    light = _lamp(lamp_key, axis)[..., None] * transmit(smear, jnp.array(list(DYES.values())))
    # The blur combines diffraction and the defocus of a cell above or below the focal plane.
    psf_width = jnp.hypot(0.14, 0.2 * jax.random.normal(focus_key))
    blur = _bells(axis, axis, psf_width)
    blur /= blur.sum(1, keepdims=True)
    return jnp.einsum("yi,ijc,xj->yxc", blur, light, blur), inside


@functools.partial(jax.jit, static_argnames="size")
def parts(key: PRNGKeyArray, cell_class: Int[Array, ""] | int, size: int) -> UInt8[Array, "{size} {size}"]:
    """Returns the part of the scene of `render` that each pixel shows, an index into PARTS.

    The white cell, a nucleus in its cytoplasm, hides the red cells below it.
    """
    place_key, cell_key, white_key, red_key, *_ = jax.random.split(key, 8)
    axis, center, cell = _placed(place_key, cell_key, cell_class, size)
    *_, inside, in_nucleus = _white_cell(white_key, cell, axis, center)
    red = _red_cells(red_key, axis, center, cell["radius"]) > 0
    return jnp.where(inside, jnp.where(in_nucleus, 1, 2), jnp.where(red, 3, 0)).astype(jnp.uint8)


def _placed(
    place_key: PRNGKeyArray, cell_key: PRNGKeyArray, cell_class: Int[Array, ""] | int, size: int
) -> tuple[Float[Array, " size"], Float[Array, "2"], Cell]:
    """Returns the places of the pixels along an axis, the center of the white cell, and the cell."""
    axis = FIELD * ((jnp.arange(size) + 0.5) / size - 0.5)
    return axis, jax.random.uniform(place_key, (2,), minval=-1.5, maxval=1.5), _draw_cell(cell_key, cell_class)


def _draw_cell(key: PRNGKeyArray, cell_class: Int[Array, ""] | int) -> Cell:
    """Draws one cell of a class: each mean with its standard deviation becomes a number of at least 0."""
    cell = {name: jnp.array(values)[cell_class] for name, values in _LOOKS.items()}
    pairs = {name: value for name, value in cell.items() if value.shape == (2,)}
    normal = jax.random.normal(key, (len(pairs),))
    drawn = {
        name: jnp.maximum(mean + deviation * number, 0)
        for (name, (mean, deviation)), number in zip(pairs.items(), normal, strict=True)
    }
    return cell | drawn


def _white_cell(
    key: PRNGKeyArray, cell: Cell, axis: Float[Array, " size"], center: Float[Array, "2"]
) -> tuple[Plane, Plane, Plane, Mask, Mask]:
    """Returns azure, methylene blue and eosin in each pixel, and whether it is inside the cell, and in the nucleus."""
    warp_key, stretch_key, turn_key, nucleus_key, granule_key, fine_key, coarse_key, cytoplasm_key = jax.random.split(
        key, 8
    )
    # Warping the coordinates makes every outline irregular.
    warp = [0.3 * _field(warp, axis, 2.0) for warp in jax.random.split(warp_key)]
    x, y = axis - center[0] + warp[0], (axis - center[1])[:, None] + warp[1]
    turn = jax.random.uniform(turn_key, maxval=2 * jnp.pi)
    stretch = jnp.exp(0.07 * jax.random.normal(stretch_key))
    x, y = x * jnp.cos(turn) + y * jnp.sin(turn), y * jnp.cos(turn) - x * jnp.sin(turn)
    to_edge = jnp.hypot(x * stretch, y / stretch) - cell["radius"]
    body = _soft_step(-to_edge, axis)

    to_nucleus = _nucleus(nucleus_key, cell, jnp.stack([x, y], -1))
    nucleus = body * _soft_step(-to_nucleus, axis)
    clumps = jnp.exp(0.18 * _field(fine_key, axis, 0.35) + 0.12 * _field(coarse_key, axis, 0.9))
    granules = body * _granules(granule_key, cell, axis, center)
    granules *= 1 - (1 - cell["granules_on_nucleus"]) * nucleus
    cytoplasm = body * (1 - nucleus) * jnp.exp(0.1 * _field(cytoplasm_key, axis, 0.6))

    azure = cell["chromatin"] * nucleus * clumps + cell["granule_azure"] * granules
    methylene_blue = cell["methylene_blue"] * cytoplasm
    eosin = cell["eosin"] * cytoplasm + cell["granule_eosin"] * granules
    return azure, methylene_blue, eosin, to_edge < 0, to_nucleus < 0


def _nucleus(key: PRNGKeyArray, cell: Cell, place: Float[Array, "size size 2"]) -> Float[Array, "size size"]:
    """Returns the distance to the outline of the nucleus, negative inside: a smooth union of lobes and bridges."""
    count_key, jitter_key, lobe_key = jax.random.split(key, 3)
    most = len(cell["lobes"])
    count = 1 + jax.random.choice(count_key, most, p=cell["lobes"])
    number = jnp.arange(most)
    angle = (number - (count - 1) / 2) * cell["arc_step"]
    angle += 0.15 * jax.random.normal(jitter_key, (most,))
    centers = cell["arc_radius"] * cell["radius"] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    lobe_radius = cell["lobe_radius"] * cell["radius"] * jnp.exp(0.12 * jax.random.normal(lobe_key, (most,)))
    to_lobes = jnp.linalg.norm(place[..., None, :] - centers, axis=-1) - lobe_radius

    start, along = centers[:-1], centers[1:] - centers[:-1]
    offset = place[..., None, :] - start
    share = jnp.clip((offset * along).sum(-1) / jnp.maximum((along**2).sum(-1), 1e-6), 0, 1)
    to_bridges = jnp.linalg.norm(offset - share[..., None] * along, axis=-1) - 0.35

    distances = jnp.concatenate([to_lobes, to_bridges], -1)
    present = jnp.concatenate([number < count, number[1:] < count])
    smoothness = 0.25
    return -smoothness * jax.nn.logsumexp(jnp.where(present, -distances / smoothness, -jnp.inf), axis=-1)


def _granules(
    key: PRNGKeyArray, cell: Cell, axis: Float[Array, " size"], center: Float[Array, "2"]
) -> Float[Array, "size size"]:
    """Returns the density, from 0 to 1, with which granules, which lie anywhere in the cell, cover each pixel."""
    distance_key, angle_key, share_key = jax.random.split(key, 3)
    distance = cell["radius"] * jnp.sqrt(jax.random.uniform(distance_key, (_GRANULES,)))
    angle = jax.random.uniform(angle_key, (_GRANULES,), maxval=2 * jnp.pi)
    present = jax.random.uniform(share_key, (_GRANULES,)) < cell["granule_share"]
    columns = _bells(center[0] + distance * jnp.cos(angle), axis, cell["granule_size"])
    rows = _bells(center[1] + distance * jnp.sin(angle), axis, cell["granule_size"])
    return 1 - jnp.exp(-jnp.einsum("g,gy,gx->yx", present, rows, columns))


def _red_cells(
    key: PRNGKeyArray, axis: Float[Array, " size"], center: Float[Array, "2"], white_radius: Float[Array, ""]
) -> Float[Array, "size size"]:
    """Returns the red cells' thickness in each pixel: biconcave discs around the white cell that hardly overlap it."""
    angle_key, distance_key, radius_key, stretch_key, turn_key, share_key = jax.random.split(key, 6)
    radius = 3.7 + 0.25 * jax.random.normal(radius_key, (_RED_CELLS,))
    # Each red cell has its own sector, so that few overlap.
    angle = 2 * jnp.pi / _RED_CELLS * (jnp.arange(_RED_CELLS) + jax.random.uniform(angle_key, (_RED_CELLS,)))
    distance = white_radius + radius * jax.random.uniform(distance_key, (_RED_CELLS,), minval=0.9, maxval=2.6)
    x = axis[:, None] - center[0] - distance * jnp.cos(angle)
    y = axis[:, None, None] - center[1] - distance * jnp.sin(angle)
    turn = jax.random.uniform(turn_key, (_RED_CELLS,), maxval=jnp.pi)
    stretch = jnp.exp(0.08 * jax.random.normal(stretch_key, (_RED_CELLS,)))
    along = (x * jnp.cos(turn) + y * jnp.sin(turn)) * stretch
    across = (y * jnp.cos(turn) - x * jnp.sin(turn)) / stretch
    squared = (along**2 + across**2) / radius**2
    # The profile of Evans and Fung, "Improved measurements of the erythrocyte geometry" (1972).
    thickness = jnp.sqrt(jnp.maximum(1 - squared, 0)) * (0.81 + 7.83 * squared - 4.39 * squared**2)
    return jnp.where(jax.random.uniform(share_key, (_RED_CELLS,)) < 0.75, thickness, 0).sum(-1)


def _platelets(key: PRNGKeyArray, axis: Float[Array, " size"]) -> Float[Array, "size size"]:
    place_key, strength_key = jax.random.split(key)
    x, y = jax.random.uniform(place_key, (2, _PLATELETS), minval=-FIELD / 2, maxval=FIELD / 2)
    strength = jnp.maximum(jax.random.uniform(strength_key, (_PLATELETS,), minval=-0.6, maxval=0.4), 0)
    return jnp.einsum("p,py,px->yx", strength, _bells(y, axis, 0.6), _bells(x, axis, 0.6))


def _lamp(key: PRNGKeyArray, axis: Float[Array, " size"]) -> Float[Array, "size size"]:
    """Returns the brightness of the empty field, which varies a little between scenes and falls toward the corners."""
    level_key, center_key, fall_key = jax.random.split(key, 3)
    x, y = jax.random.uniform(center_key, (2,), minval=-3, maxval=3)
    squared = ((axis[:, None] - y) ** 2 + (axis - x) ** 2) / (FIELD / 2) ** 2
    level = jax.random.uniform(level_key, minval=0.76, maxval=0.84)
    return level * (1 - jax.random.uniform(fall_key, minval=0.0, maxval=0.08) * squared)


def _bells(
    centers: Float[Array, " centers"], axis: Float[Array, " size"], width: Float[Array, ""] | float
) -> Float[Array, "centers size"]:
    """Returns Gaussian bells of height 1. The outer product of two bells is a round spot."""
    return jnp.exp(-((centers[:, None] - axis) ** 2) / (2 * width**2))


def _field(key: PRNGKeyArray, axis: Float[Array, " size"], scale: float) -> Float[Array, "size size"]:
    """Returns smooth noise of mean 0 and variance 1, with bumps about as wide as `scale`."""
    smooth = _bells(axis, axis, scale)
    smooth /= jnp.linalg.norm(smooth, axis=1, keepdims=True)
    return smooth @ jax.random.normal(key, (len(axis), len(axis))) @ smooth.T


def _soft_step(inside: Float[Array, "size size"], axis: Float[Array, " size"]) -> Float[Array, "size size"]:
    """Returns 1 where `inside` is positive and 0 elsewhere, with a soft edge of a pixel or a membrane's width."""
    return jax.nn.sigmoid(inside / jnp.maximum(0.12, 0.3 * (axis[1] - axis[0])))
