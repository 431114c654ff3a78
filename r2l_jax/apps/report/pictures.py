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
    """

    uri: str
    width: int
    height: int
    alternative: str
    caption: str

    @property
    def is_small(self) -> bool:
        """Whether its pixels are enlarged."""
        return self.width < _SMALL


def embedded(file: pathlib.Path | io.BytesIO, width: int, alternative: str, caption: str = "") -> Picture:
    """Puts a picture, from its file or its content, into the page as lossy WebP of at most this width in pixels.

    Raises:
        InputError: the file cannot be read as a picture.
    """
    stream = io.BytesIO()
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((width, 20 * width), Image.Resampling.LANCZOS)
        picture.save(stream, "webp", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{file} is not a picture that can be shown ({error}): move it away") from None
    content = base64.b64encode(stream.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{content}", *picture.size, alternative, caption)


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
