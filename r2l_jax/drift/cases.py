"""What a trained model is tested on beside its own images: the known test cases, by names that stay.

And what makes their images: `process`, `expose` and `corrupt`, to be compiled by whoever calls them.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

import isp
from isp.sensor import expose_sites, site_light
from r2l_jax.config import HALF_SIZE_MODES, INTENSITIES, TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.corruptions import CORRUPTIONS, SEVERITIES
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError

# Kinds of drift: in the processing; in the acquisition, measured or by the model of the sensor; and what is commonly
# done to pictures in its place.
GROUPS = ("pipelines", "intensities", "exposures", "corruptions")

PIPELINES = tuple(".".join(names) for names in isp.PUBLISHED_STATIC)
EXPOSURES = tuple(intensity for intensity in INTENSITIES if intensity < 1)
# Without the one that changes nothing.
CHANGES = tuple(name for name in CORRUPTIONS if name != "identity")


class Variant(NamedTuple):
    """A test case: how the images that a model's normalizer and head see come about. What is None is the run's own.

    Attributes:
        name: stable, for files and titles. What is random in the case depends on it.
        group: one of `GROUPS`, or "own".
        iso: the measured intensity at which the same scenes are read.
        exposure: factor on the light of the mosaics, which the sensor model takes once more.
        pipeline: processes, at the camera's figures; the case is called by its title. It is found once, so that a file
            that is edited meanwhile changes nothing.
        corruption: the name of what is done to the processed images, and its severity.
    """

    name: str
    group: str
    iso: float | None = None
    exposure: float | None = None
    pipeline: NamedPipeline | None = None
    corruption: tuple[str, int] | None = None


OWN = Variant("own", "own")


def pipelines(names: Iterable[str]) -> list[Variant]:
    """Processing drift: other pipelines by their names, see `r2l_jax.pipelines`.

    Raises:
        InputError: a name that no pipeline has, or two pipelines of one title.
    """
    found = {}
    for name in names:
        pipeline = find_pipeline(name, "--pipelines")
        if found.setdefault(pipeline.title, pipeline) != pipeline:
            raise InputError(f"--pipelines: {found[pipeline.title].name} and {name} are both called {pipeline.title}")
    return [Variant(title, "pipelines", pipeline=pipeline) for title, pipeline in found.items()]


def intensities(values: Iterable[float]) -> list[Variant]:
    """Acquisition drift: the same scenes at other measured intensities, such as `iso=0.05`.

    Raises:
        InputError: one that was not measured.
    """
    variants = []
    for value in values:
        if value not in INTENSITIES:
            measured = ", ".join(f"{intensity:g}" for intensity in INTENSITIES)
            raise InputError(f"--intensities must be of the measured ones, {measured}, got {value:g}")
        variants.append(Variant(f"iso={value:g}", "intensities", iso=value))
    return variants


def exposures(values: Iterable[float]) -> list[Variant]:
    """Acquisition drift by the model of the sensor: each mosaic taken once more at such an exposure, `exposure=0.05`.

    Raises:
        InputError: one that is not positive.
    """
    variants = []
    for value in values:
        if not 0 < value < np.inf:
            raise InputError(f"--exposures must be positive, got {value:g}")
        variants.append(Variant(f"exposure={value:g}", "exposures", exposure=value))
    return variants


def corruptions(names: Sequence[str], severities: Sequence[int]) -> list[Variant]:
    """Post-hoc corruptions of the processed images at each severity, such as `gaussian_noise.3`.

    Raises:
        InputError: a name or a severity that is not known.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise InputError(f"--corruptions must be of {', '.join(CORRUPTIONS)}, got {name!r}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise InputError(f"--severities must be of {', '.join(map(str, SEVERITIES))}, got {severity}")
    return [
        Variant(f"{name}.{severity}", "corruptions", corruption=(name, severity))
        for name in names
        for severity in severities
    ]


def check_pipelines(cases: Iterable[Variant], dataset: RawDataset) -> None:
    """Raises an InputError unless the pipelines of test cases can process a data set's mosaics."""
    raw, _ = dataset[0]
    for case in cases:
        if case.pipeline is not None:
            case.pipeline.check(dataset.camera, *raw.shape)


def own_pipeline(config: TrainConfig) -> NamedPipeline | None:
    """Returns the pipeline that a run was trained with, at the camera's figures; None if it has none or learned it."""
    fixed = not config.processing.learns_pipeline or (
        config.processing.freeze_processor and not config.processing.processor_uri
    )
    return config.processing.named_pipeline if fixed else None


def is_own(variant: Variant, config: TrainConfig) -> bool:
    """Whether a test case is what a run was trained on, so that it is no drift."""
    if variant.pipeline is not None:
        return variant.pipeline == own_pipeline(config)
    return variant.group == "own" or variant.iso == config.data.iso


def check(groups: Iterable[str], config: TrainConfig, dataset: RawDataset, run: str) -> None:
    """Raises an InputError unless a run can be tested against such groups of test cases.

    Args:
        groups: of `GROUPS`.
        config: what the run was trained by.
        dataset: what it was trained on.
        run: what the error calls it.
    """
    for group in groups:
        reason = None
        if group in ("pipelines", "exposures") and dataset.camera is None:
            reason = f"was trained on {dataset.name}, which is processed already: there is no raw data"
        elif group == "pipelines" and config.processing.processing_mode in HALF_SIZE_MODES:
            reason = (
                f"was trained with {config.processing.flag}, on images of half the size of those that pipelines make"
            )
        elif group == "intensities" and config.data.dataset == "Folder":
            reason = "was trained on a Folder, which holds one intensity: --against=exposures computes others"
        elif group == "corruptions" and config.processing.processing_mode == "neural_network":
            reason = "was trained with --processing_mode=neural_network, whose images are not in [0, 1]"
        if reason:
            raise InputError(f"--against={group}: {run} {reason}")


def random_key(variant: Variant, seed: int) -> jax.Array:
    """What a test case's randomness is drawn from: it depends on nothing but its name and the seed."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(variant.name.encode())))


def process(
    graph: nnx.GraphDef, state: nnx.State, raw: Float[Array, "batch height width *channels"]
) -> Float[Array, "batch rows cols 3"]:
    """What a processing, as `nnx.split` takes it apart, makes of mosaics, or of images if it takes those."""
    return nnx.merge(graph, state)(raw)


def expose(
    raw: Float[Array, "batch height width"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
    exposure: Float[Array, ""] | float,
    camera: isp.Camera,
) -> Float[Array, "batch height width"]:
    """Takes mosaics once more by the model of the sensor, with noise around their values.

    Args:
        raw: the mosaics.
        index: of each, which sample it is: its noise does not depend on the batch that it is in.
        key: of the test case.
        exposure: factor on the light.
        camera: gives the black level.
    """

    def one(raw, key):
        return expose_sites(site_light(raw, camera), key, camera=camera, exposure=exposure)

    return jax.vmap(one)(raw, _sample_keys(key, index))


def corrupt(
    name: str,
    severity: Int[Array, ""] | int,
    images: Float[Array, "batch height width 3"],
    index: Int[Array, " batch"],
    key: PRNGKeyArray,
) -> Float[Array, "batch height width 3"]:
    """Corrupts images, clipped to [0, 1] first.

    Args:
        name: of the corruption.
        severity: of it, 1 to 5.
        images: the images.
        index: of each, which sample it is: its noise does not depend on the batch that it is in.
        key: of the test case.
    """

    def one(image, key):
        return CORRUPTIONS[name](image, key, severity)

    return jax.vmap(one)(jnp.clip(images, 0, 1), _sample_keys(key, index))


def _sample_keys(key, index):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
