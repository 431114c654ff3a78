"""Plots and pictures within a page: SVG in the page's colors, and pictures at the size that the page needs."""

import base64
import io
import pathlib
import re
from xml.etree import ElementTree

import markupsafe
import numpy as np
from PIL import Image

from r2l_jax.errors import InputError
from r2l_jax.results.result import INK

_QUALITY = 85

# The least brightness of paper; the greatest height of a line of text on it, in pixels; and the luminance that text
# gets, a sum of linear red, green and blue with the weights below.
_WHITE, _LINE, _INK = 250, 40, 0.18
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

# Plots wider than this, in their own units, get a row to themselves; pictures narrower than this, in pixels, are
# enlarged without smoothing.
_NARROW, _SMALL = 400, 420

# The SVG elements that a page shows: shapes and text.
_SHAPES = {"clipPath", "defs", "g", "image", "path", "rect", "svg", "text", "tspan", "use"}


def plot(file: pathlib.Path, prefix: str, alternative: str) -> markupsafe.Markup:
    """Returns the plot in an SVG file as an element of a page, in the page's font and color.

    The file is not trusted: only its shapes, its text and the pictures embedded in it are taken.

    Args:
        file: the file, as `result.write` writes it.
        prefix: is put before each id, so that ids are unique on the page.
        alternative: the text alternative of the plot.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        root = ElementTree.fromstring(file.read_text())
        _, _, wide, _ = (float(each) for each in root.attrib["viewBox"].split())
        if _local(root.tag) != "svg":
            raise ValueError(f"a {_local(root.tag):.20}")
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise InputError(f"{file} cannot be shown as a plot ({error}): remove it from the folder") from None
    for element in root.iter():
        element.tag = _local(element.tag)
        for child in list(element):
            if _local(child.tag) not in _SHAPES:
                element.remove(child)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib = {
            name: re.sub(r"( font-family: [^;]*;)|(?<=url\(#)|(?<=^#)", lambda found: "" if found[1] else prefix, value)
            for name, value in attributes.items()
            if not name.lower().startswith("on")
            and (name.lower() != "href" or value.startswith(("#", "data:image/png;base64,")))
        }
        if "id" in element.attrib:
            element.attrib["id"] = prefix + element.attrib["id"]
    look = {"class": "wide" if wide > _NARROW else "", "style": f"--width:{wide:.0f}px"}
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alternative, **look}
    text = ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")
    return markupsafe.Markup(re.sub(r">\s+<", "><", text))


def _local(name: str) -> str:
    """Returns a name without its namespace."""
    return name.rpartition("}")[2]


def picture(file: pathlib.Path, width: int, alternative: str) -> markupsafe.Markup:
    """Returns a picture as an element of a page, as lossy WebP of at most this width in pixels.

    Raises:
        InputError: the file cannot be read as a picture.
    """
    stream = io.BytesIO()
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if _is_on_paper(image):
            image = without_paper(image)
            image = image.crop(image.getbbox())
        image.thumbnail((width, 20 * width), Image.Resampling.LANCZOS)
        image.save(stream, "webp", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{file} cannot be shown as a picture ({error}): remove it from the folder") from None
    content = base64.b64encode(stream.getvalue()).decode()
    return markupsafe.Markup('<img{} src="data:image/webp;base64,{}" width="{}" height="{}" alt="{}">').format(
        markupsafe.Markup(' class="small"') if image.width < _SMALL else "", content, *image.size, alternative
    )


def _is_on_paper(sheet: Image.Image) -> bool:
    """Tells whether a picture is a sheet of images on white paper, which has white edges, but is not all white."""
    pixels = np.asarray(sheet)
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return all((edge >= _WHITE).all() for edge in edges) and not (pixels >= _WHITE).all()


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
