"""The data that a model was trained on, as another acquisition would have given it."""

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
from r2l_jax.drift import cases as variants
from r2l_jax.drift.cases import Variant
from r2l_jax.runtime.errors import InputError


def at_intensity(config: TrainConfig, iso: float, fingerprint: str) -> RawDataset:
    """The data set of a run at another measured intensity.

    Args:
        config: what the run was trained by.
        iso: the intensity.
        fingerprint: of the data that it was trained on.

    Raises:
        InputError: it is not there, or has other samples.
    """
    dataset = datasets.load(config.data.dataset, **(config.data.source | {"iso": iso}))
    if dataset.fingerprint != fingerprint:
        raise InputError(f"--intensities={iso:g}: its samples are not those of --iso={config.data.iso:g}")
    return dataset


def drifted(
    config: TrainConfig, dataset: RawDataset, drift: Variant, camera: isp.Camera | None, seed: int
) -> RawDataset:
    """A run's data set under an acquisition drift; as it is under a drift of the processing.

    Args:
        config: what the run was trained by.
        dataset: what it was trained on, with a camera.
        drift: an intensity, an exposure, a camera; noise depends on its name.
        camera: the camera of that drift; its mosaics keep the data set's pattern.
        seed: of the noise.

    Raises:
        InputError: an intensity that is not there.
    """
    if drift.iso is not None:
        return at_intensity(config, drift.iso, dataset.fingerprint)
    key = variants.random_key(drift, seed)
    if drift.exposure is not None:
        expose = jax.jit(variants.expose, static_argnames="camera")

        def take(raw, index):
            return expose(raw[None], np.array([index]), key, drift.exposure, camera=dataset.camera)[0]

    elif camera is not None:

        def take(raw, index):
            return rephotograph(raw, jax.random.fold_in(key, index), camera=dataset.camera, other=camera)

    else:
        return dataset

    def read(index: int) -> Sample:
        raw, target = dataset[index]
        return np.asarray(take(raw, index)), target

    # In place of hashing noise that would have to be drawn first. Both drifts use the data set's camera.
    cameras = [each and dataclasses.asdict(each) for each in (dataset.camera, camera)]
    recipe = json.dumps([dataset.recipe, drift._asdict(), cameras, seed])
    return dataclasses.replace(dataset, read=read, recipe=recipe)


@functools.partial(jax.jit, static_argnames=("camera", "other"))
def rephotograph(
    raw: Float[Array | np.ndarray, "height width"], key: PRNGKeyArray, *, camera: isp.Camera, other: isp.Camera
) -> Float[Array, "height width"]:
    """What another camera would have taken of the scene of a mosaic, with the noise of its sensor on top.

    The mosaic is demosaiced bilinearly and brought to linear sRGB by its camera's figures; the other camera's undo
    them, see `isp.unprocess`, and its sensor is exposed to that light.

    Args:
        raw: the mosaic, in [0, 1].
        key: of the other sensor's noise.
        camera: which took it.
        other: the other camera.
    """
    sites = isp.bayer.subtract_black_level(raw, jnp.array(camera.black_level, jnp.float32))
    rgb = isp.color.white_balance(isp.demosaic.bilinear(sites, camera.pattern), jnp.array(camera.white_balance))
    rgb = jnp.clip(isp.color.color_correct(rgb, jnp.array(camera.color_matrix)), 0, 1)
    mosaic = isp.unprocess(rgb, other, gamma=1.0)
    return expose_sites(site_light(mosaic, other), key, camera=other)
