"""Pictures as the browser asks for them, and the histogram in SVG."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from r2l_jax.apps.lab.frames import View

# The width and the height of the image of a stage in the strip, in pixels.
_CELL = (184, 132)

_BINS = 64

Bytes = UInt8[np.ndarray, "..."]


def draw(view: View, name: str) -> bytes | None:
    """Draws a picture of a view as PNG or JPEG; may be called in any thread.

    Names are "now" and "before" (the image after the chosen stage), "outline" (of the mask) and "strip" (the images
    after all stages). Returns None for other names.
    """
    if name in ("now", "before"):
        return png((view.images if name == "now" else view.before)[view.stage])
    if name == "outline" and view.judgement is not None and view.judgement.found.ndim:
        return outline(view.judgement.found)
    return strip(list(view.images.values())) if name == "strip" else None


def png(image: Bytes, compressed: bool = False) -> bytes:
    """Encodes an image as PNG; compression takes longer than all other steps between a slider and its picture."""
    return _encoded(Image.fromarray(image), "png", compress_level=6 if compressed else 0)


def strip(images: Sequence[Bytes]) -> bytes:
    """Draws images side by side in cells of one size, which they fill, as one JPEG."""
    drawn = Image.new("RGB", (_CELL[0] * len(images), _CELL[1]))
    for number, image in enumerate(images):
        drawn.paste(ImageOps.fit(Image.fromarray(image), _CELL, Image.Resampling.BOX), (_CELL[0] * number, 0))
    return _encoded(drawn, "jpeg", quality=88)


def outline(mask: np.ndarray) -> bytes:
    """Draws the outlines of the object, or of the classes but the first, on a transparent background, as PNG."""
    padded = np.pad(mask, 1)
    neighbors = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    drawn = np.zeros((*mask.shape, 4), np.uint8)
    drawn[(mask > 0) & (neighbors != mask).any(0)] = (255, 214, 10, 255)
    return _encoded(Image.fromarray(drawn), "png", compress_level=1)


def histogram(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Draws the histogram of each channel over the display values as SVG, which scales to the width of the page.

    The first and the last bin, which hold clipped pixels, do not affect the vertical scale.
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
