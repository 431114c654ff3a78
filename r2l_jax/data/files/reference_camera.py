"""Converts raw images of several cameras to one of them, the reference camera.

When a file is read, its levels and gains are scaled to the reference camera's. Everything after that sees a single
camera, with the reference camera's color matrix.
"""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float32

import isp
from r2l_jax.errors import InputError

Mosaic = Float32[np.ndarray, "rows cols"]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The camera whose raw images a model expects.

    `cameras` has the training's cameras by the names in their files; it is empty if there was only one.
    """

    camera: isp.Camera
    cameras: Mapping[str, isp.Camera]

    def scaled(self, raw: Mosaic, camera: isp.Camera, stated: Collection[str]) -> Mosaic:
        """Scales a raw image; `stated` names the values of its camera that the user states.

        After training on one camera, gains are scaled only if they are stated: its files' own gains, such as their
        as-shot white balance, were not used in training either.
        """
        if not self.cameras and ("white_balance" not in stated or "white_balance" in self._ignored(camera)):
            camera = dataclasses.replace(camera, white_balance=self.camera.white_balance)
        return scaled(raw, camera, self.camera)

    def explain_ignored(self, camera: isp.Camera, stated: Collection[str]) -> str | None:
        """Says which stated values of a camera do not scale raw images; None if all do or are the run's."""
        named = [name for name in self._ignored(camera) if name in stated]
        return f"the stated {' and '.join(named)} cannot be converted; the run's values are used" if named else None

    def _ignored(self, camera: isp.Camera) -> list[str]:
        signs = np.array(camera.white_balance) * np.array(self.camera.white_balance) > 0
        known = [each.color_matrix for each in (self.camera, *self.cameras.values())]
        different = {"white_balance": not self.cameras and not signs.all()}
        different["color_matrix"] = camera.color_matrix not in known
        return [name for name, differs in different.items() if differs]


def scaled(raw: Mosaic, camera: isp.Camera, reference: isp.Camera) -> Mosaic:
    """Scales a raw image to the black level and the gains of a reference camera.

    The result has the same light under the reference camera's black level and gains as the raw image has under its own.
    The raw image starts with a whole tile of the color filter array. White is 1 for both. The result is clipped to
    [0, 1], because the reference camera saturates there.
    """
    if camera.pattern != reference.pattern:
        raise InputError(f"the color filter array must be {reference.pattern}, got {camera.pattern}")
    gains, wanted = np.array(camera.white_balance), np.array(reference.white_balance)
    if (gains * wanted <= 0).any():
        raise InputError(f"the gains must have the signs of {wanted.tolist()}, got {gains.tolist()}")
    colors = isp.cfa.tile(reference.pattern)
    black, level = (
        np.reshape(each.black_level, (2, 2))
        if isp.cfa.is_bayer(reference.pattern)
        else np.array(each.black_level)[colors]
        for each in (camera, reference)
    )
    scale = (1 - level) / (1 - black) * (gains / wanted)[colors]
    shift = level - black * scale
    result, (rows, columns) = np.empty(raw.shape, np.float32), colors.shape
    for row, column in np.ndindex(rows, columns):
        sites = np.s_[row::rows, column::columns]
        result[sites] = raw[sites] * np.float32(scale[row, column]) + np.float32(shift[row, column])
    return np.clip(result, 0, 1)
