"""The cameras of a data set whose samples were taken by several."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

import isp
from isp.parameter import CAMERA_FIELDS
from isp.sensor import noise_of
from r2l_jax.runtime.errors import InputError

Leaf = TypeVar("Leaf")

# The values of the samples' cameras in a batch, under "own", and of the camera that the processing starts from, under
# "start": by the fields of `isp.Camera`, `(B, ...)`.
CameraValues = Mapping[str, Mapping[str, Leaf]]


@dataclasses.dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of samples. They have one color filter array.

    Attributes:
        names: the name of each camera.
        each: the cameras.
        of_sample: for each sample, the number of its camera.
        start: the camera that the processing starts from.

    Raises:
        InputError: two cameras have different color filter arrays.
    """

    names: tuple[str, ...]
    each: tuple[isp.Camera, ...]
    of_sample: np.ndarray
    start: isp.Camera

    def __post_init__(self) -> None:
        for name, camera in zip(self.names, self.each, strict=True):
            if camera.pattern != self.start.pattern:
                raise InputError(
                    f"all cameras must have one color filter array: {self.names[0]} has {self.start.pattern}, "
                    f"{name} {camera.pattern}"
                )

    @property
    def by_name(self) -> dict[str, isp.Camera]:
        """The cameras by their names."""
        return dict(zip(self.names, self.each, strict=True))

    def of(self, index: int) -> isp.Camera:
        """Returns the camera of a sample."""
        return self.each[self.of_sample[index]]

    @property
    def described(self) -> dict[str, Any]:
        """The calibration of each camera by its name, as JSON gives it back, and a hash of which samples are whose."""
        digest = hashlib.sha256(np.asarray(self.of_sample, np.int64).tobytes()).hexdigest()
        return {"each": {name: json.loads(each.to_json()) for name, each in self.by_name.items()}, "samples": digest}

    @functools.cached_property
    def _values(self) -> dict[str, dict[str, np.ndarray]]:
        return values_of(self.each, self.start)

    def values(self, index: int | np.ndarray) -> CameraValues[np.ndarray]:
        """Returns the values of the camera of a sample, or of several `(B, ...)`."""
        number = self.of_sample[index]
        return {which: {name: each[number] for name, each in of.items()} for which, of in self._values.items()}


def values_of(cameras: Sequence[isp.Camera], start: isp.Camera) -> dict[str, dict[str, np.ndarray]]:
    """Returns the values of cameras, and those of the camera that the processing starts from, stacked by field.

    Under "start", the same values are repeated for each camera. "own" also has the noise of the cameras, see
    `isp.sensor.noise_of`.
    """

    def calibration(cameras: Sequence[isp.Camera]) -> dict[str, np.ndarray]:
        return {name: np.array([getattr(camera, name) for camera in cameras], np.float32) for name in CAMERA_FIELDS}

    noise = np.array([noise_of(camera) for camera in cameras], np.float32).T
    names = ("full_well", "read_noise", "bits")
    own = calibration(cameras) | dict(zip(names, noise, strict=True))
    return {"own": own, "start": calibration([start] * len(cameras))}
