"""Replaces the data set of a run by the same scenes under another acquisition."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import isp
from isp.sensor import expose_sites, site_light
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets import datasets
from r2l_jax.drift.cases import Case, camera_of, random_key
from r2l_jax.drift.renderer import Renderer
from r2l_jax.runtime.errors import InputError


def at_intensity(config: TrainConfig, iso: float, fingerprint: str) -> RawDataset:
    """Loads the data set of a run at another measured intensity.

    Args:
        config: the run's settings.
        iso: the intensity.
        fingerprint: the fingerprint of the data set that the run was trained on.

    Raises:
        InputError: the intensity is not there, or has other samples.
    """
    dataset = datasets.load(config.data.dataset, **(config.data.source | {"iso": iso}))
    if dataset.fingerprint != fingerprint:
        raise InputError(f"--intensities={iso:g}: its samples are not those of --iso={config.data.iso:g}")
    return dataset


def drifted(config: TrainConfig, dataset: RawDataset, drift: Case, camera: isp.Camera | None, seed: int) -> RawDataset:
    """Returns a run's data set under an acquisition drift, and unchanged under a drift of the processing.

    Args:
        config: the run's settings.
        dataset: the mosaics that the run was trained on.
        drift: an intensity, an exposure or a camera; noise depends on its name.
        camera: the camera of a drift to another camera; its mosaics keep the data set's pattern.
        seed: the seed of the noise.

    Raises:
        InputError: the intensity is not there.
    """
    if drift.iso is not None:
        return at_intensity(config, drift.iso, dataset.fingerprint)
    own = camera_of(dataset)
    if drift.exposure is not None:
        renderer = Renderer(seed)

        def take(raw, index):
            return renderer.mosaics(drift, raw[None], np.array([index]), own)[0]

    elif camera is not None:
        key = random_key(drift, seed)

        def take(raw, index):
            return rephotograph(raw, jax.random.fold_in(key, index), camera=own, other=camera)

    else:
        return dataset

    def read(index: int) -> Sample:
        raw, target = dataset[index]
        return np.asarray(take(raw, index)), target

    # The recipe stands for the hash of mosaics whose noise would have to be drawn first.
    cameras = [each and dataclasses.asdict(each) for each in (own, camera)]
    recipe = json.dumps([dataset.recipe, drift._asdict(), cameras, seed])
    return dataclasses.replace(dataset, read=read, recipe=recipe)


@functools.partial(jax.jit, static_argnames=("camera", "other"))
def rephotograph(
    raw: Float[Array | np.ndarray, "height width"], key: PRNGKeyArray, *, camera: isp.Camera, other: isp.Camera
) -> Float[Array, "height width"]:
    """Takes the scene of a mosaic by another camera, with the noise of that camera's sensor on top.

    The mosaic is demosaiced bilinearly and brought to linear sRGB by its camera's white balance and color matrix. The
    other camera's values undo these steps, see `isp.unprocess`, and its sensor is exposed to that light.

    Args:
        raw: the mosaic, in [0, 1].
        key: the key of the other sensor's noise.
        camera: the camera that took the mosaic.
        other: the other camera.
    """
    sites = isp.bayer.subtract_black_level(raw, jnp.array(camera.black_level, jnp.float32))
    rgb = isp.color.white_balance(isp.demosaic.bilinear(sites, camera.pattern), jnp.array(camera.white_balance))
    rgb = jnp.clip(isp.color.color_correct(rgb, jnp.array(camera.color_matrix)), 0, 1)
    mosaic = isp.unprocess(rgb, other, gamma=1.0)
    return expose_sites(site_light(mosaic, other), key, camera=other)
