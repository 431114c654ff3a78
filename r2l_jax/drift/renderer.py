"""Makes the images of cases from raw images, in the same three steps for evaluation, synthesis and adjustment."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int, PRNGKeyArray

import isp
from isp import CameraState, sensor_drift
from isp.metering import Part
from r2l_jax.devices import compiler
from r2l_jax.drift.cases import Case, random_key
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.raw_to_logit import Raws
from r2l_jax.pipelines import NamedPipeline

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

Images = Float[Array, "batch rows cols 3"]


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


class Renderer:
    """Changes, processes and corrupts raw images, each with one compiled function.

    A function is compiled again only for another structure or shape. Processors of the same structure, such as all
    folds of a run, share one compiled function, and so do states of the same quantities, and all severities of a
    corruption. Noise depends only on the state or the corruption, the seed and the sample's index, not on the batch or
    on other cases. Defective sites and column noise belong to the sensor: they are the same in all samples of a state.

    Args:
        seed: the seed of the noise.
        sharding: the placement of images on the devices; None leaves them where the raw images are.
    """

    def __init__(self, seed: int, sharding: Sharding | None = None):
        jit = functools.partial(jax.jit, compiler_options=compiler.options(), out_shardings=sharding)
        self._drift = jit(drifted, static_argnames="camera")
        self._process = jit(process, static_argnums=(0, 3))
        self._corrupt = jit(corrupt, static_argnums=0)
        self._key = functools.cache(functools.partial(random_key, seed=seed))

    def mosaics(
        self, state: CameraState, raw: Raws, index: Int[Array | np.ndarray, " batch"], camera: isp.Camera | None
    ) -> Raws:
        """Returns raw images as their camera takes them in another state. Frames change with their parts."""
        if isinstance(raw, Part):
            return jax.tree.map(lambda each: self.mosaics(state, each, index, camera), raw)
        return self._drift(raw, index, self._key(str(state)), state, camera=camera) if state.given else raw

    def targets(self, state: CameraState, targets: Any, shape: tuple[int, ...]) -> Any:
        """Returns the targets of changed raw images `(H, W)`: masks and boxes move with the content, others stay."""
        if targets.ndim < 3 or state.pattern_shift is None:
            return targets
        if jnp.issubdtype(targets.dtype, jnp.floating):
            return sensor_drift.shifted_boxes(targets, state.pattern_shift, tuple(shape))
        return sensor_drift.shifted_rows(targets, state.pattern_shift)

    def images(
        self,
        cases: Iterable[Case],
        raw: Raws,
        index: Int[Array, " batch"],
        camera: isp.Camera | None,
        processors: Mapping[NamedPipeline | None, Sequence[Processor]],
    ) -> Iterator[tuple[Case, list[Images]]]:
        """Yields the images of each case by each processor, which the device may still be computing.

        Cases are grouped, in the order in which states and pipelines first occur: those of one state share its raw
        images, and among them, those of one pipeline share its images.

        Args:
            cases: the cases.
            raw: the raw images as read. They must have the measured intensity of all cases.
            index: the samples' indices in their data set.
            camera: the camera that took the raw images.
            processors: the processors of each pipeline; under None, those for cases without a pipeline.
        """
        for state, of_state in grouped(cases, lambda case: case.state_of(camera)):
            mosaics = self.mosaics(state, raw, index, camera)
            for pipeline, of_pipeline in grouped(of_state, lambda case: case.pipeline):
                made = [self._process(*each[:2], mosaics, each.stacked) for each in processors[pipeline]]
                for case in of_pipeline:
                    yield case, [self._corrupted(case, images, index) for images in made]

    def _corrupted(self, case: Case, images: Images, index: Int[Array, " samples"]) -> Images:
        if case.corruption is None:
            return images
        name, severity = case.corruption
        of_images = index if len(images) == len(index) else jnp.repeat(index, len(images) // len(index))
        return self._corrupt(name, severity, images, of_images, self._key(f"{name}.{severity}"))


def drifted(
    raw: Float[Array, "batch height width"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
    state: CameraState,
    camera: isp.Camera,
) -> Float[Array, "batch height width"]:
    """Changes raw images as a camera in another state, see `isp.sensor_drift.apply`.

    The noise of a shot is drawn from the sample's index and the key, and what belongs to the sensor from the key alone.
    """

    def one(raw: Array, key_of_one: PRNGKeyArray) -> Array:
        return sensor_drift.apply(raw, key_of_one, state, camera=camera, sensor_key=key)

    return jax.vmap(one)(raw, sample_keys(key, index))


def process(graph: nnx.GraphDef, state: nnx.State, raw: Raws, count: int = 1) -> Float[Array, "images rows cols 3"]:
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
    """Clips images to [0, 1] and corrupts them; the noise is drawn as in `drifted`."""

    def one(image, key):
        return CORRUPTIONS[name](image, key, severity)

    return jax.vmap(one)(jnp.clip(images, 0, 1), sample_keys(key, index))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Iterable[tuple[Key, list[Item]]]:
    """Groups items by a key, in the order in which keys first occur."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups.items()
