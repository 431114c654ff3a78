"""Camera values that the user states, which add to or replace the calibration values in files.

A camera's JSON file has the fields of `isp.Camera`. For files that name their camera, it may have only some of them;
each replaces the value in the file. It may also have

- `raw`: the layout of files without a header, see `headerless.Layout`;
- `dark`, `flat`, `defects`: the files of corrections, relative to the JSON file, see `corrections.read`.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

import isp
from r2l_jax.data.files import corrections
from r2l_jax.data.files.corrections import Corrections
from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.data.files.headerless import EXAMPLE, Layout
from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.errors import InputError

_CORRECTIONS = ("dark", "flat", "defects")
_FIELDS = tuple(field.name for field in dataclasses.fields(isp.Camera))

# Advice at the end of an error message: unknown calibration values may start from values that change nothing.
NEUTRAL_MATRIX = '"color_matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]'
NEUTRAL_START = (
    "if its calibration is unknown, start with a JSON file (`camera`) that states the sensor's pattern, such as "
    f'{{"pattern": "RGGB", "black_level": [0, 0, 0, 0], "white_balance": [1, 1, 1], {NEUTRAL_MATRIX}}}'
)


@dataclasses.dataclass(frozen=True, eq=False)
class KnownCamera:
    """Holds the camera values that a user states.

    Attributes:
        figures: the fields of `isp.Camera` that are given, with levels as fractions of the white level.
        guesses_white_level: whether the white level follows from the bits of the layout alone.
        states_pattern: whether the color filter array is stated explicitly, so that it overrides the file's.
        reference: the camera that raw images are converted to; None leaves them unchanged.
    """

    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: Layout | None = None
    corrections: Corrections | None = None
    states_pattern: bool = False
    guesses_white_level: bool = False
    reference: Reference | None = None

    @classmethod
    def of(cls, camera: "isp.Camera | KnownCamera | str | os.PathLike | None") -> "KnownCamera":
        """Returns all values of a camera, or of a name or JSON file, as stated; no values for None."""
        if isinstance(camera, KnownCamera):
            return camera
        if camera is None:
            return cls()
        if isinstance(camera, str | os.PathLike):
            return find_known_camera(str(camera))
        if not isinstance(camera, isp.Camera):
            raise InputError(f"`camera` must be an isp.Camera, a name or a JSON file, got {type(camera).__name__}")
        figures = {name: getattr(camera, name) for name in _FIELDS if getattr(camera, name) is not None}
        return cls(figures, states_pattern=not isp.cfa.is_bayer(camera.pattern))

    @property
    def missing(self) -> list[str]:
        """The required fields of a camera that are not given."""
        needed = ["black_level"]
        if self.figures.get("pattern") != isp.cfa.MONO:
            needed += ["white_balance", "color_matrix"]
        return [name for name in needed if name not in self.figures]

    @functools.cached_property
    def camera(self) -> isp.Camera | None:
        """The camera, if all fields that it needs are given."""
        return None if self.missing else isp.Camera(**self.figures)

    def whole(self, source: str) -> isp.Camera:
        """Returns the camera; raises an InputError that names the source if a field is missing."""
        if self.camera is None:
            raise InputError(f"{source}: the camera lacks {', '.join(self.missing)}")
        return self.camera

    @property
    def described(self) -> str | dict[str, Any]:
        """The given values, layout and corrections as JSON values; "auto" if nothing is given."""
        if self.camera is not None:
            given = json.loads(self.camera.to_json())
        else:
            given = {name: np.asarray(value).tolist() for name, value in self.figures.items()}
        if self.layout is not None:
            given["raw"] = msgspec.structs.asdict(self.layout)
        if self.corrections is not None:
            given["corrections"] = self.corrections.identity
        return given or "auto"


def read_known_camera(path: pathlib.Path) -> KnownCamera:
    """Reads a camera's JSON file, and the files of corrections that it names."""
    with reading(path):
        fields = json.loads(read_text(path))
        if not isinstance(fields, dict):
            raise InputError(f"a camera must be a JSON object, got {type(fields).__name__}")
        named = {name: fields.pop(name, None) for name in _CORRECTIONS}
        given = [name for name, file in named.items() if file is not None]
        raw = fields.pop("raw", None)
        if not fields and raw is None:
            raise InputError(f"a camera must have some of the fields {', '.join((*_FIELDS, 'raw'))}, got none")
        try:
            figures = isp.Camera.figures_of(fields)
            # A whole camera may be invalid even if each of its values is valid.
            _ = KnownCamera(figures).camera
        except ValueError as error:
            raise InputError(str(error)) from None
        guesses = "white_level" not in figures
        layout = None
        if raw is not None:
            try:
                layout = msgspec.convert(raw, Layout)
            except msgspec.ValidationError as error:
                raise InputError(f"raw: {error}; an example is {EXAMPLE}") from None
            figures.setdefault("white_level", float(layout.largest))
        corrected = corrections.read(path.parent, **named) if given else None
        return KnownCamera(figures, layout, corrected, "pattern" in figures, guesses)


def find_known_camera(name: str, argument: str = "camera") -> KnownCamera:
    """Returns the camera values that an argument states for raw files.

    The name is one of `isp.CAMERAS`, the path of a JSON file, or "auto", which leaves the camera to each raw file.
    Errors name the argument.
    """
    if name in isp.CAMERAS:
        return KnownCamera.of(isp.CAMERAS[name])
    if name == "auto":
        return KnownCamera()
    if not pathlib.Path(name).exists():
        raise InputError(f"`{argument}` must be {', '.join(isp.CAMERAS)}, auto or a JSON file, got {name!r}: not found")
    try:
        return read_known_camera(pathlib.Path(name))
    except InputError as error:
        raise InputError(f"`{argument}={name}`: {str(error).removeprefix(f'{name}: ')}") from None


def find_camera(name: str, argument: str = "camera") -> isp.Camera | None:
    """Returns a known camera, a whole camera from a JSON file, or None for "auto"; see `find_known_camera`."""
    stated = find_known_camera(name, argument)
    return None if name == "auto" else stated.whole(f"`{argument}={name}`")


def read_camera_file(path: pathlib.Path) -> isp.Camera:
    """Reads a whole camera from its JSON file."""
    return read_known_camera(path).whole(str(path))


def common_camera(files: Sequence[pathlib.Path], cameras: Sequence[isp.Camera]) -> isp.Camera:
    """Combines the cameras of several files into one, with the median of each calibration value.

    Even files of one camera differ, for example in the as-shot white balance. The result has no `white_level`, because
    raw images are divided by it when read. It has the noise values on which all files agree.
    """
    for path, camera in zip(files, cameras, strict=True):
        if camera.pattern != cameras[0].pattern:
            raise InputError(
                f"all files must have the same color filter array: {files[0]} has {cameras[0].pattern}, {path} has "
                f"{camera.pattern}"
            )
    black, gains, matrix = (
        np.median([getattr(camera, name) for camera in cameras], axis=0)
        for name in ("black_level", "white_balance", "color_matrix")
    )
    noise = {name: {getattr(camera, name) for camera in cameras} for name in ("full_well", "read_noise", "bits")}
    agreed = {name: values.pop() for name, values in noise.items() if len(values) == 1}
    return isp.Camera(black, gains, matrix, cameras[0].pattern, **agreed)
