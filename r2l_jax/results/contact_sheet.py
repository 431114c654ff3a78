"""Pictures for viewing: integer images, and contact sheets of several images."""

import textwrap
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float, UInt
from PIL import Image, ImageDraw, ImageFont, ImageOps

# The number of values quantized at once.
_PART = 2**16

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def contact_sheet(
    images: Mapping[str, Float[Array | np.ndarray, "..."]], columns: int = 3, panel: int = 480
) -> Image.Image:
    """Draws images side by side under their names, such as the images after each stage of a pipeline.

    All images have the same size: `(H, W, 3)`, or `(H, W)` for raw images, which are drawn in gray. Values are clipped
    to [0, 1] and otherwise unchanged, so images before the tone curve are linear and look dark. Each row has `columns`
    images, whose longer side has `panel` pixels. A name wider than an image takes several lines.
    Letters grow with the sheet, because pages shrink a wide sheet to their width.
    """
    panels = [
        ImageOps.contain(Image.fromarray(quantized(np.asarray(image), np.uint8)), (panel, panel), Image.Resampling.BOX)
        for image in images.values()
    ]
    width, height = panels[0].size
    gap, rows = 8, -(-len(panels) // columns)
    letters = max(18, columns * (width + gap) // 56)
    # A letter is about half as wide as it is high.
    titles = ["\n".join(textwrap.wrap(name, max(2 * width // letters, 1))) for name in images]
    title = 6 + (letters + 4) * (1 + max(text.count("\n") for text in titles))
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (title + height) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(letters)
    for place, (text, picture) in enumerate(zip(titles, panels, strict=True)):
        row, column = divmod(place, columns)
        left, top = gap + column * (width + gap), row * (title + height)
        draw.multiline_text((left, top + 4), text, "black", font)
        sheet.paste(picture, (left, top + title))
    return sheet


def quantized(image: Float[AnyArray, "..."], dtype: type[np.unsignedinteger]) -> UInt[AnyArray, "..."]:
    """Clips an image to [0, 1] and rounds it to the whole range of an unsigned integer type."""
    if not isinstance(image, np.ndarray):
        return _quantized(image, dtype)
    result = np.empty(image.shape, dtype)
    # Done in parts that stay in the cache, since floats for the whole image would take several times the result's
    # memory.
    rows = max(_PART // max(image[:1].size, 1), 1)
    for start in range(0, len(image), rows):
        result[start : start + rows] = _quantized(image[start : start + rows], dtype)
    return result


def _quantized(image: AnyArray, dtype: type[np.unsignedinteger]) -> AnyArray:
    return (image.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)
