"""Replaces the data set of a run with the same scenes under another acquisition."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import isp
from isp.sensor import expose_sites, site_light
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.drift.cases import Case, camera_of, random_key
from r2l_jax.drift.renderer import Renderer
from r2l_jax.runtime.errors import InputError


def at_intensity(data: TrainingDataSettings, iso: float, fingerprint: str) -> RawDataset:
    """Loads the data set of a run at another measured intensity.

    If the run has several intensities, each sample is replaced by the raw image of the same scene at the given one.

    Raises:
        InputError: the intensity is missing, or its data has another fingerprint.
    """
    settings: dict[str, Any] = {**data.source, "iso": iso}
    dataset = datasets.pooled(dict.fromkeys(data.iso, datasets.load(data.dataset, **settings)))
    if dataset.fingerprint != fingerprint:
        own = ",".join(map("{:g}".format, data.iso))
        raise InputError(f"--intensities={iso:g} and --iso={own} have different samples")
    return dataset


def drifted(
    data: TrainingDataSettings, dataset: RawDataset, drift: Case, camera: isp.Camera | None, seed: int
) -> RawDataset:
    """Returns a run's data set under an acquisition drift; a processing drift leaves it unchanged.

    Noise depends on the seed and the drift's name. Mosaics of another camera keep the data set's color filter array.

    Raises:
        InputError: the intensity is missing.
    """
    if drift.iso is not None:
        return at_intensity(data, drift.iso, dataset.fingerprint)
    if drift.exposure is None and drift.sensor is None and camera is None:
        return dataset
    own, renderer, key = camera_of(dataset), Renderer(seed), random_key(drift, seed)

    def read(index: int) -> Sample:
        raw, target = dataset[index]

        def taken(raw: np.ndarray) -> np.ndarray:
            if camera is not None:
                return np.asarray(rephotograph(raw, jax.random.fold_in(key, index), camera=own, other=camera))
            return np.asarray(renderer.mosaics(drift, raw[None], np.array([index]), own))[0]

        moved = renderer.targets(drift, np.asarray(target)[None], dataset.shape[:2])
        return jax.tree.map(taken, raw), np.asarray(moved)[0]

    # The provenance identifies the new raw images, since hashing them would require drawing all their noise first.
    cameras = [each and dataclasses.asdict(each) for each in (own, camera)]
    provenance = json.dumps([dataset.provenance, drift._asdict(), cameras, seed])
    # The processing does not know that another camera took the raw images; that is the drift.
    return dataclasses.replace(dataset, read=read, provenance=provenance)


@functools.partial(jax.jit, static_argnames=("camera", "other"))
def rephotograph(
    raw: Float[Array | np.ndarray, "height width"],
    key: PRNGKeyArray,
    *,
    camera: isp.Camera,
    other: isp.Camera,
) -> Float[Array, "height width"]:
    """Re-exposes the scene of a raw image with another camera, adding the noise of that camera's sensor.

    The raw image is demosaiced bilinearly and converted to linear sRGB with its camera's white balance and color
    matrix. The other camera's values undo these steps, see `isp.unprocess`, and its sensor is exposed to that light.
    """
    sites = isp.cfa.subtract_black_level(raw, jnp.array(camera.black_level, jnp.float32), pattern=camera.pattern)
    light = isp.demosaic.normalized(sites, pattern=camera.pattern)
    if isp.cfa.is_bayer(camera.pattern):
        light = isp.demosaic.bilinear(sites, camera.pattern)
    rgb = isp.color.white_balance(light, jnp.array(camera.white_balance))
    rgb = jnp.clip(isp.color.color_correct(rgb, jnp.array(camera.color_matrix)), 0, 1)
    mosaic = isp.unprocess(rgb, other, gamma=1.0)
    return expose_sites(site_light(mosaic, other), key, camera=other)
