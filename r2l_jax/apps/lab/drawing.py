"""Pictures as the page sends them: JPEG while a slider moves, PNG afterwards, and drawings in SVG."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from r2l_jax.apps.lab.engine import Picture

# The width and the height of the image of a stage in the strip, in pixels.
_CELL = (184, 132)

# The colors of pixels above white and below black, with their opacity.
_ABOVE, _BELOW = (255, 59, 48, 220), (10, 132, 255, 220)

_BINS = 64

Bytes = UInt8[np.ndarray, "..."]


def jpeg(image: Bytes) -> bytes:
    """Encodes an image as JPEG, in a few milliseconds."""
    return _encoded(Image.fromarray(image), "jpeg", quality=90)


def png(image: Bytes, compressed: bool = False) -> bytes:
    """Encodes an image as PNG, without loss.

    Compression takes longer than everything else between a slider and its picture, and the page is mostly viewed on the
    machine that serves it.
    """
    return _encoded(Image.fromarray(image), "png", compress_level=6 if compressed else 0)


def strip(images: Sequence[Bytes]) -> bytes:
    """Draws images side by side in cells of one size, which they fill, as one JPEG."""
    drawn = Image.new("RGB", (_CELL[0] * len(images), _CELL[1]))
    for number, image in enumerate(images):
        drawn.paste(ImageOps.fit(Image.fromarray(image), _CELL, Image.Resampling.BOX), (_CELL[0] * number, 0))
    return _encoded(drawn, "jpeg", quality=88)


def clipping(picture: Picture) -> bytes:
    """Draws the pixels above white in red and below black in blue, on a transparent background, as PNG."""
    drawn = np.zeros((*picture.above.shape, 4), np.uint8)
    drawn[picture.below] = _BELOW
    drawn[picture.above] = _ABOVE
    return _encoded(Image.fromarray(drawn), "png", compress_level=1)


def mask(probabilities: np.ndarray) -> bytes:
    """Draws the outline of the object where its probability exceeds one half, on a transparent background, as PNG."""
    inside = probabilities > 0.5
    drawn = np.zeros((*inside.shape, 4), np.uint8)
    drawn[outline(inside)] = (255, 214, 10, 255)
    return _encoded(Image.fromarray(drawn), "png", compress_level=1)


def outline(inside: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Returns the sites of an object that have a neighbor outside of it."""
    padded = np.pad(inside, 1, constant_values=False)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~surrounded


def histogram(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Draws the histogram of each channel over the display values as SVG, which scales to the width of the page.

    The least and the greatest value, to which clipped pixels belong, do not affect the scale.
    """
    bins = image.reshape(-1, 3) // (256 // _BINS)
    counts = np.stack([np.bincount(channel, minlength=_BINS) for channel in bins.T])
    heights = np.minimum(counts / max(counts[:, 1:-1].max(), 1), 1)
    paths = []
    for color, channel in zip(("#ff453a", "#30d158", "#0a84ff"), heights, strict=True):
        line = " ".join(f"L{place} {60 * (1 - height):.1f}" for place, height in enumerate(channel))
        paths.append(f'<path d="M0 60 {line} L{_BINS - 1} 60Z" fill="{color}" fill-opacity=".45"/>')
    box = f'viewBox="0 0 {_BINS - 1} 60" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="histogram">{"".join(paths)}</svg>'


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()
