"""Shot metadata in raw files: the camera, the lens, and the exposure settings."""

import contextlib
import dataclasses
import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rawpy
import tifffile

from r2l_jax.data.files.libraw import is_container
from r2l_jax.data.files.tiff import TIFF_SUFFIXES

# The TIFF and EXIF 2.32 tags that hold the metadata, and the tag that holds EXIF in a TIFF.
_EXIF = "ExifTag"
_TAGS = (
    *("Make", "Model", "LensModel", "ExposureTime", "FNumber"),
    *("ISOSpeedRatings", "PhotographicSensitivity", "DateTimeOriginal", "DateTime", _EXIF),
)
# Stands for the camera or the day of a file that names none.
UNKNOWN = "unknown"

# The longest text of a field that is kept.
_LONGEST = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """Holds the metadata of a shot. None means unknown.

    The exposure time is in seconds, and the date in ISO 8601, on the camera's clock. `iso` is the intensity at which
    the scene was measured, as a fraction of the full light, which no file records; `camera` is a name in a data set of
    several cameras.
    """

    maker: str | None = None
    model: str | None = None
    lens: str | None = None
    iso_speed: float | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    date: str | None = None
    iso: float | None = None
    camera: str | None = None

    @property
    def title(self) -> str:
        """The camera's maker and model, which name it in a folder of several cameras."""
        return " ".join(filter(None, (self.maker, self.model))) or UNKNOWN


def read_shot(path: Path) -> Shot:
    """Reads the metadata of a shot from a raw file.

    It comes from the tags of TIFF and of camera formats based on it, otherwise from LibRaw. Fields that cannot be read
    are unknown; `read_raw` reports damaged files.
    """
    found: dict[str, Any] = {}
    for read in (_from_libraw, _from_tiff) if path.suffix.lower() not in TIFF_SUFFIXES else (_from_tiff,):
        with contextlib.suppress(Exception):
            found |= {name: value for name, value in read(path).items() if value is not None}
    return Shot(**found)


def _from_tiff(path: Path) -> dict[str, Any]:
    with tifffile.TiffFile(path) as tiff:
        tags = {tag.name: tag.value for tag in tiff.pages.first.tags if tag.name in _TAGS}
    return _from_tags({**tags, **tags.get(_EXIF, {})})


def _from_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "maker": _text(tags.get("Make")),
        "model": _text(tags.get("Model")),
        "lens": _text(tags.get("LensModel")),
        "iso_speed": _number(tags.get("ISOSpeedRatings", tags.get("PhotographicSensitivity"))),
        "exposure_time": _number(tags.get("ExposureTime")),
        "f_number": _number(tags.get("FNumber")),
        "date": _date(tags.get("DateTimeOriginal")) or _date(tags.get("DateTime")),
    }


def _from_libraw(path: Path) -> dict[str, Any]:
    if not is_container(path):
        return {}  # LibRaw would guess from the number of bytes.
    with rawpy.RawPy() as raw:
        raw.open_file(str(path))
        other, taken = raw.other, raw.other.timestamp
        return {
            "lens": _text(raw.lens.model),
            "iso_speed": _number(other.iso_speed),
            "exposure_time": _number(other.shutter_speed),
            "f_number": _number(other.aperture),
            # LibRaw writes an unknown time as zero.
            "date": taken.isoformat() if taken.year > 1970 else None,
        }


def _text(value: Any) -> str | None:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        return None
    return "".join(letter for letter in text if letter.isprintable()).strip()[:_LONGEST] or None


def _number(value: Any) -> float | None:
    if isinstance(value, tuple | list):
        value = value[0] / value[1] if len(value) == 2 and value[1] else value[0] if len(value) == 1 else None
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # Six digits hide the rounding of LibRaw's float32.
    return float(f"{number:.6g}") if math.isfinite(number) and number > 0 else None


def _date(value: Any) -> str | None:
    try:
        return datetime.datetime.strptime(str(_text(value)), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None
