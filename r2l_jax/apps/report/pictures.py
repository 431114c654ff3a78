"""Pictures of a report: files of a run, made as small as the report needs them, within the page."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from r2l_jax.runtime.errors import InputError

_QUALITY = 85

# Pixels of paper are at least this bright, lines of text on it are lower than this, in pixels, and get this luminance,
# the sum of the linear red, green and blue with these weights.
_WHITE, _LINE, _INK = 250, 40, 0.18
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

# Narrower pictures are enlarged on the page, where their pixels stay visible.
_SMALL = 420


class Detail(NamedTuple):
    """The size and the number of the pictures in a report.

    Attributes:
        width: their greatest width in pixels.
        epochs: the greatest number of epochs of a slider.
    """

    width: int
    epochs: int


# From the most detail to the least: a report takes the first with which it is small enough.
DETAILS = (Detail(1000, 24), Detail(800, 12), Detail(640, 8), Detail(480, 5), Detail(320, 3), Detail(160, 1))


class Picture(NamedTuple):
    """A picture within the page.

    Attributes:
        uri: its content as a data URI.
        width: the width in pixels.
        height: the height in pixels.
        alternative: the text in its place.
        caption: the text below it; empty for none.
        is_plot: whether it is a plot on white, whose colors a dark page turns round.
    """

    uri: str
    width: int
    height: int
    alternative: str
    caption: str
    is_plot: bool = False

    @property
    def is_small(self) -> bool:
        """Whether its pixels are enlarged."""
        return self.width < _SMALL


def embedded(
    file: pathlib.Path, width: int, alternative: str, caption: str = "", on_paper: bool = False, is_plot: bool = False
) -> Picture:
    """Puts a picture into the page as lossy WebP of at most this width in pixels.

    Args:
        file: the picture.
        width: the greatest width.
        alternative: the text in its place.
        caption: the text below it.
        on_paper: whether the picture is a sheet of images on white paper, which the page then shows through, light or
            dark.
        is_plot: see `Picture`.

    Raises:
        InputError: the file cannot be read as a picture.
    """
    stream = io.BytesIO()
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        if on_paper:
            picture = without_paper(picture)
            picture = picture.crop(picture.getbbox())
        picture.thumbnail((width, 20 * width), Image.Resampling.LANCZOS)
        picture.save(stream, "webp", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{file} is not a picture that can be shown ({error}): move it away") from None
    content = base64.b64encode(stream.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{content}", *picture.size, alternative, caption, is_plot)


def without_paper(sheet: Image.Image) -> Image.Image:
    """Makes the white paper between the images of a sheet transparent.

    Rows of pixels between white ones belong to a line of text if they are few, and to images otherwise. Text gets a
    medium luminance, which can be read on a light and on a dark page: black becomes gray, and colors keep their hue.
    """
    pixels = np.asarray(sheet).astype(np.float32)
    white = np.all(pixels >= _WHITE, axis=-1)
    blank = np.all(white, axis=-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], blank, [True]]))).reshape(-1, 2)
    lengths = edges[:, 1] - edges[:, 0]
    is_text = np.zeros(len(pixels), bool)
    for (start, end), length in zip(edges, lengths, strict=True):
        is_text[start:end] = length < min(_LINE, lengths.max(initial=0) / 3)
    is_image = ~blank & ~is_text
    in_gap = np.all(white[is_image], axis=0)
    alpha = np.where(np.logical_and.outer(is_image, ~in_gap), 1, 1 - pixels.min(-1) / 255)
    alpha[blank] = 0
    # The color that gives the pixel when it is laid on white.
    ink = (pixels - 255 * (1 - alpha[..., None])) / np.maximum(alpha[..., None], 1 / 255)
    light = (ink[is_text].clip(0, 255) / 255) ** 2.2 + 1e-4
    ink[is_text] = 255 * (_INK / (light @ _LUMINANCE)[..., None] * light).clip(0, 1) ** (1 / 2.2)
    return Image.fromarray(np.dstack([ink, 255 * alpha]).clip(0, 255).round().astype(np.uint8), "RGBA")


def thinned(epochs: Sequence[int], most: int) -> list[int]:
    """Returns at most this many of some epochs, evenly spread; the last is always among them."""
    if len(epochs) <= most:
        return list(epochs)
    places = np.linspace(len(epochs) - 1, 0, most).round().astype(int) if most > 1 else [len(epochs) - 1]
    return [epochs[place] for place in sorted(places)]


def existing(folder: pathlib.Path, *names: str) -> pathlib.Path | None:
    """Returns the file below a folder that names lead to, or None without such a file.

    The names may come from the files of a run; names that could lead out of the folder are refused.
    """
    if not all(name and pathlib.PurePath(name).name == name for name in names):
        return None
    file = folder.joinpath(*names)
    return file if file.is_file() else None
