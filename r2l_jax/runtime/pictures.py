"""Pictures to look at: images as integers, and contact sheets of several images."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float, UInt
from PIL import Image, ImageDraw, ImageFont, ImageOps

# The longer side of each image on a contact sheet, in pixels.
PANEL = 480

# The number of values that are quantized at once.
_PART = 2**16

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def contact_sheet(
    images: Mapping[str, Float[Array | np.ndarray, "..."]], columns: int = 3, panel: int = PANEL
) -> Image.Image:
    """Draws images side by side under their names, such as the images after each stage of a pipeline.

    Values are clipped to [0, 1] and not changed otherwise, so images before the tone curve are linear and look dark.
    Mosaics are drawn in gray.

    Args:
        images: by name, all of one size: images `(H, W, 3)` or mosaics `(H, W)`.
        columns: how many images a row has.
        panel: the longer side of each image on the sheet, in pixels.
    """
    panels = [
        ImageOps.contain(Image.fromarray(quantized(np.asarray(image), np.uint8)), (panel, panel), Image.Resampling.BOX)
        for image in images.values()
    ]
    width, height = panels[0].size
    title, gap = 28, 8
    rows = -(-len(panels) // columns)
    size = (columns * (width + gap) + gap, rows * (height + title) + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for place, (name, picture) in enumerate(zip(images, panels, strict=True)):
        left, top = gap + place % columns * (width + gap), place // columns * (height + title)
        draw.text((left, top + 4), name, "black", font)
        sheet.paste(picture, (left, top + title))
    return sheet


def quantized(image: Float[AnyArray, "..."], dtype: type[np.unsignedinteger]) -> UInt[AnyArray, "..."]:
    """Clips an image to [0, 1] and rounds it to the whole range of an unsigned integer type."""
    if not isinstance(image, np.ndarray):
        return _quantized(image, dtype)
    result = np.empty(image.shape, dtype)
    # In parts that stay in the cache: floats of the whole image would take several times the memory of the result.
    for part, integers in zip(_parts(image), _parts(result), strict=True):
        integers[...] = _quantized(part, dtype)
    return result


def _quantized(image: AnyArray, dtype: type[np.unsignedinteger]) -> AnyArray:
    return (image.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)


def _parts(array: np.ndarray) -> list[np.ndarray]:
    rows = max(_PART // max(array[:1].size, 1), 1)
    return [array[start : start + rows] for start in range(0, len(array), rows)]
