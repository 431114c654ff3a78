"""Makes the images of cases from raw images, in the same three steps for evaluation, synthesis and adjustment."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int, PRNGKeyArray

import isp
from isp import sensor_drift
from isp.metering import Part
from isp.sensor import expose_again, noise_of
from r2l_jax.drift import sensor
from r2l_jax.drift.cases import CLEAN, Case, random_key
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.raw_to_logit import Raws
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import compiler

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Processor(NamedTuple):
    """A module from raw to processed images, in the two parts that `nnx.split` returns.

    If `stacked` is above 1, the state is a stack of that many, and each raw image becomes as many consecutive images.
    """

    graph: nnx.GraphDef
    state: nnx.State
    stacked: int = 1

    @classmethod
    def of(cls, module: nnx.Module) -> "Processor":
        """Returns the parts of a module."""
        return cls(*nnx.split(module))


class Rendering(NamedTuple):
    """The case of each of the three steps from a raw image to a processed one; `CLEAN` leaves a step as in the run.

    Attributes:
        acquisition: exposes the raw images, reads them at another measured intensity, or lets the sensor drift.
        processing: processes them.
        corruption: corrupts the processed images.
    """

    acquisition: Case = CLEAN
    processing: Case = CLEAN
    corruption: Case = CLEAN

    @classmethod
    def of(cls, case: Case) -> "Rendering":
        """Returns the rendering in which a case changes only its step."""
        if case.corruption is not None:
            return cls(corruption=case)
        if case.pipeline is not None:
            return cls(processing=case)
        return cls(acquisition=case)


class Renderer:
    """Exposes, processes and corrupts raw images, each with one compiled function.

    A function is compiled again only for another structure or shape. Processors of the same structure, such as all
    folds of a run, share one compiled function, and so do all exposures, and all severities of a corruption or a sensor
    drift. Noise depends only on the case's name, the seed and the sample's index, not on the batch or on other
    renderings.

    Args:
        seed: the seed of the noise.
        sharding: the placement of images on the devices; None leaves them where the raw images are.
    """

    def __init__(self, seed: int, sharding: Sharding | None = None):
        jit = functools.partial(jax.jit, compiler_options=compiler.options(), out_shardings=sharding)
        self._expose = jit(expose, static_argnames="camera")
        self._drift = jit(sensor.drifted, static_argnums=0, static_argnames="camera")
        self._together = jit(sensor.together, static_argnames="camera")
        self._move = jit(sensor.moved, static_argnums=(0, 3))
        self._process = jit(process, static_argnums=(0, 3))
        self._corrupt = jit(corrupt, static_argnums=0)
        self._key = functools.cache(functools.partial(random_key, seed=seed))

    def mosaics(
        self,
        acquisition: Case,
        raw: Raws,
        index: Int[Array | np.ndarray, " batch"],
        camera: isp.Camera | None,
    ) -> Raws:
        """Exposes raw images again, or lets their sensor drift, as an acquisition says; else returns them unchanged.

        Without a camera, they are processed images, which no acquisition changes. Frames change with their parts.
        """
        if isinstance(raw, Part):
            return jax.tree.map(lambda each: self.mosaics(acquisition, each, index, camera), raw)
        if acquisition.sensor is not None:
            return self._drift(*acquisition.sensor, raw, index, self._key(acquisition), camera=camera)
        if acquisition.amounts:
            return self._together(raw, index, self._key(acquisition), dict(acquisition.amounts), camera=camera)
        if acquisition.exposure is None:
            return raw
        return self._expose(raw, index, self._key(acquisition), acquisition.exposure, camera=camera)

    def targets(self, acquisition: Case, targets: Any, shape: tuple[int, ...]) -> Any:
        """Returns the targets of changed raw images `(H, W)`: masks and boxes move with the content, others stay."""
        if targets.ndim < 3:
            return targets
        if acquisition.sensor is not None and acquisition.sensor[0] in sensor.MOVING:
            return self._move(*acquisition.sensor, targets, shape)
        for name, amount in acquisition.amounts:
            targets = sensor.moved_by(name, amount, targets, shape) if name in sensor.MOVING else targets
        return targets

    def images(
        self,
        renderings: Iterable[Rendering],
        raw: Raws,
        index: Int[Array, " batch"],
        camera: isp.Camera | None,
        processors: Mapping[NamedPipeline | None, Processor],
    ) -> Iterator[tuple[Rendering, Float[Array, "batch rows cols 3"]]]:
        """Yields the images of each rendering, which the device may still be computing.

        Renderings of one acquisition share its raw images, and among them, renderings of one processing share its
        images. The renderings are therefore grouped, in the order in which acquisitions and processings first occur.

        Args:
            renderings: the renderings, each once.
            raw: the raw images as read. They must have the measured intensity of all acquisitions.
            index: the samples' indices in their data set.
            camera: the camera that took the raw images.
            processors: the processor of each pipeline; under None, the one for a processing without a pipeline.
        """
        for acquisition, of_acquisition in grouped(renderings, lambda rendering: rendering.acquisition):
            mosaics = self.mosaics(acquisition, raw, index, camera)
            for processing, of_processing in grouped(of_acquisition, lambda rendering: rendering.processing):
                graph, state, count = processors[processing.pipeline]
                images = self._process(graph, state, mosaics, count)
                of_images = index if count == 1 else jnp.repeat(index, count)
                for rendering in of_processing:
                    yield rendering, self._corrupted(rendering.corruption, images, of_images)

    def _corrupted(self, case: Case, images: jax.Array, index: jax.Array) -> jax.Array:
        if case.corruption is None:
            return images
        return self._corrupt(*case.corruption, images, index, self._key(case))


def expose(
    raw: Float[Array, "batch height width"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
    exposure: Float[Array, ""] | float,
    camera: isp.Camera,
) -> Float[Array, "batch height width"]:
    """Exposes raw images again with a factor on the light and the noise of that light, see `isp.sensor.expose_again`.

    Values are quantized as by the camera's analog-to-digital converter. The noise is drawn from the samples' indices
    and the case's key, so that it does not depend on the batch.
    """

    def one(raw, key):
        taken = expose_again(raw, key, camera=camera, light=exposure)
        return sensor_drift.bits(taken, key, jnp.asarray(noise_of(camera).bits, jnp.float32), camera=camera)

    return jax.vmap(one)(raw, sample_keys(key, index))


def process(
    graph: nnx.GraphDef,
    state: nnx.State,
    raw: Raws,
    count: int = 1,
) -> Float[Array, "images rows cols 3"]:
    """Processes raw or RGB images, as the processor takes them, see `Processor`."""
    if count == 1:
        return nnx.merge(graph, state)(raw)
    images = jax.vmap(lambda one: nnx.merge(graph, one)(raw), out_axes=1)(state)
    return images.reshape(-1, *images.shape[2:])


def corrupt(
    name: str,
    severity: Int[Array, ""] | int,
    images: Float[Array, "batch height width 3"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
) -> Float[Array, "batch height width 3"]:
    """Clips images to [0, 1] and corrupts them; the noise is drawn as in `expose`."""

    def one(image, key):
        return CORRUPTIONS[name](image, key, severity)

    return jax.vmap(one)(jnp.clip(images, 0, 1), sample_keys(key, index))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Iterable[tuple[Key, list[Item]]]:
    """Groups items by a key, in the order in which keys first occur."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups.items()
