"""Pictures for people: images as integers, and contact sheets of them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, UInt
from PIL import Image, ImageDraw, ImageFont, ImageOps

PANEL = 480  # The longer side of a contact sheet's pictures, in pixels.


def contact_sheet(images: Mapping[str, Float[Array | np.ndarray, "..."]], columns: int = 3) -> Image.Image:
    """One picture of images of one size, such as those after each stage, titled, in rows of `columns`.

    The values are shown as they are, clipped to [0, 1]: what comes before the tone curve is linear and looks dark. A
    mosaic is shown in grey.
    """
    panels = [
        ImageOps.contain(Image.fromarray(quantized(np.asarray(image), np.uint8)), (PANEL, PANEL), Image.Resampling.BOX)
        for image in images.values()
    ]
    width, height = panels[0].size
    title, gap = 28, 8
    rows = -(-len(panels) // columns)
    size = (columns * (width + gap) + gap, rows * (height + title) + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for place, (name, panel) in enumerate(zip(images, panels, strict=True)):
        left, top = gap + place % columns * (width + gap), place // columns * (height + title)
        draw.text((left, top + 4), name, "black", font)
        sheet.paste(panel, (left, top + title))
    return sheet


def quantized(
    image: Float[Array | np.ndarray, "..."], dtype: type[np.unsignedinteger]
) -> UInt[Array | np.ndarray, "..."]:
    """An image of NumPy or of JAX, clipped to [0, 1] and rounded to the whole range of an unsigned integer."""
    return (image.clip(0, 1) * np.iinfo(dtype).max).round().astype(dtype)
