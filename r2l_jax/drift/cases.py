"""Cases: the known ways to test a model on images other than its clean ones, under names that never change."""

import itertools
import math
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import isp
import isp.unprocessing
from isp import CameraState, sensor_drift
from isp.sensor_drift import NAMED, QUANTITIES
from r2l_jax.config import TrainConfig
from r2l_jax.data.files.known_camera import find_camera
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import states
from r2l_jax.drift.corruptions import GROUPS as CORRUPTION_GROUPS
from r2l_jax.errors import InputError, warn
from r2l_jax.model.settings import HALF_SIZE_MODES, ProcessingSettings
from r2l_jax.names import CORRUPTIONS, INTENSITIES, SENSOR, SEVERITIES
from r2l_jax.pipelines import NamedPipeline, find_pipeline

# The quantities that each kind of sensor drift changes.
_CHANGED = {name: [QUANTITIES[each] for each in NAMED.get(name, [name])] for name in SENSOR}

# The group of each kind of drift that has severities, a sensor drift or a corruption.
GROUPS: dict[str, str | None] = {name: changed[0].group for name, changed in _CHANGED.items()} | CORRUPTION_GROUPS

# Differences of color matrices below this are rounding.
_ROUNDING = 0.005


class Case(NamedTuple):
    """How the images of a test are made; all attributes combine, and by default, each step is as in the run.

    Attributes:
        name: the name in files and titles.
        group: one of `names.DRIFTS`, or "clean".
        iso: the measured intensity at which the scenes are read.
        state: how the camera differs from the one that took the raw images.
        camera: another camera, whose calibration values also change the state.
        pipeline: the processing, at the camera's calibration values. It is found when the case is made, so that later
            edits of its file have no effect; its title is the case's name.
        corruption: the name and the severity of a change of the processed images.
    """

    name: str
    group: str
    iso: float | None = None
    state: CameraState = CameraState()
    camera: isp.Camera | None = None
    pipeline: NamedPipeline | None = None
    corruption: tuple[str, int] | None = None

    @property
    def kind(self) -> str | None:
        """The kind of a drift that has severities: a sensor drift or a corruption."""
        kind = self.name.rpartition(".")[0]
        return kind if kind in GROUPS else None

    @property
    def severity(self) -> int | None:
        """The severity of such a drift."""
        return int(self.name.rpartition(".")[2]) if self.kind else None

    def state_of(self, camera: isp.Camera | None) -> CameraState:
        """Returns the whole state, given the camera that took the raw images; processed images have none.

        Exposures are rounded as by the camera's analog-to-digital converter.
        """
        found = {}
        if camera is not None and self.camera is not None:
            found = sensor_drift.difference(self.camera, camera).given
        if camera is not None and self.group == "exposures":
            found["bits"] = float(isp.sensor.noise_of(camera).bits)
        return CameraState(**found | self.state.given)

    @property
    def identity(self) -> dict[str, Any]:
        """The JSON values that determine the images, but for the pipeline's."""
        camera = None if self.camera is None else self.camera.to_json()
        return self._replace(pipeline=None)._asdict() | {"state": self.state.given, "camera": camera}


# The images of the run as they are, which no drift has touched.
CLEAN = Case("clean", "clean")


def pipelines(names: Iterable[str], half_size: bool = False) -> list[Case]:
    """Returns cases of processing drift: other pipelines by their names, see `r2l_jax.pipelines`.

    With `half_size`, all of them make images of half the size.

    Raises:
        InputError: a name has no pipeline, or two pipelines have one title.
    """
    found = [find_pipeline(name, "pipelines") for name in names]
    found = [each.half_sized() for each in found] if half_size else found
    return _each_once([Case(each.title, "pipelines", pipeline=each) for each in found])


def intensities(values: Sequence[float]) -> list[Case]:
    """Returns cases of acquisition drift: the same scenes at other measured intensities, such as `iso=0.05`.

    Raises:
        InputError: an intensity that was not measured.
    """
    for value in values:
        if value not in INTENSITIES:
            measured = ", ".join(f"{intensity:g}" for intensity in INTENSITIES)
            raise InputError(f"`intensities` must be one of the measured {measured}, got {value:g}")
    return [Case(f"iso={value:g}", "intensities", iso=value) for value in values]


def exposures(values: Sequence[float]) -> list[Case]:
    """Returns cases of acquisition drift from the sensor model: factors on the light, such as `light=0.05`.

    Raises:
        InputError: an exposure that is not valid.
    """
    for value in values:
        if not (value > 0 and QUANTITIES["exposure"].valid(math.log2(value))):
            raise InputError(f"`exposures` must be positive, and at most 20 stops from 1, got {value:g}")
    return [Case(f"light={value:g}", "exposures", state=CameraState(exposure=math.log2(value))) for value in values]


def corruptions(names: Sequence[str], severities: Sequence[int]) -> list[Case]:
    """Returns cases of processed images under each corruption at each severity, such as `gaussian_noise.3`.

    Raises:
        InputError: an unknown name or severity.
    """
    at = _at_severities("corruptions", names, CORRUPTIONS, severities)
    return [Case(f"{name}.{severity}", "corruptions", corruption=(name, severity)) for name, severity in at]


def sensor(drifts: Sequence[str], severities: Sequence[int]) -> list[Case]:
    """Returns cases of raw images from a drifted sensor.

    Args:
        drifts: kinds of `names.SENSOR`, each at all severities, such as `defocus.3`; and camera states, as text or
            JSON files, see `states.read`.
        severities: the severities.

    Raises:
        InputError: an unknown kind or severity, no state, or two states of one name.
    """
    found = []
    for each in drifts:
        if each.endswith(".json") or "=" in each:
            state = states.read(each, "sensor")
            name = f"state={pathlib.Path(each).stem}" if each.endswith(".json") else str(state)
            found.append(Case(name, "sensor", state=state))
        else:
            for kind, severity in _at_severities("sensor", [each], [*SENSOR], severities):
                state = CameraState.named({kind: SENSOR[kind][severity - 1]})
                found.append(Case(f"{kind}.{severity}", "sensor", state=state))
    return _each_once(found)


def cameras(names: Sequence[str]) -> list[Case]:
    """Returns cases of other cameras, by their names or files: what their calibration values change, as `camera=new`.

    Raises:
        InputError: no whole camera, or two of one name.
    """
    found = []
    for name in names:
        camera = find_camera(name, "cameras")
        if camera is None:
            raise InputError(f"`cameras` must be {', '.join(isp.CAMERAS)} or a JSON file, got {name}")
        found.append(Case(f"camera={pathlib.Path(name).stem}", "cameras", camera=camera))
    return _each_once(found)


def _each_once(cases: Sequence[Case]) -> list[Case]:
    found: dict[str, Case] = {}
    for case in cases:
        if found.setdefault(case.name, case) != case:
            raise InputError(f"`{case.group}`: two different cases are called {case.name}")
    return [*found.values()]


def _at_severities(
    flag: str, names: Sequence[str], known: Sequence[str], severities: Sequence[int]
) -> list[tuple[str, int]]:
    """Returns each kind at each severity."""
    for name in names:
        if name not in known:
            raise InputError(f"`{flag}` must be one of {', '.join(known)}, got {name!r}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise InputError(f"`severities` must be one of {', '.join(map(str, SEVERITIES))}, got {severity}")
    return [*itertools.product(names, severities)]


def check_camera(cases: Sequence[Case], dataset: RawDataset) -> None:
    """Raises an InputError unless a data set's camera can be in all states, and pipelines take its raw images."""
    for case in cases:
        if case.camera is not None or case.state.given:
            check_state(case, camera_of(dataset), dataset.name)
    if pipelines := [case.pipeline for case in cases if case.pipeline is not None]:
        raw, _ = dataset[0]
        for pipeline in pipelines:
            pipeline.check(camera_of(dataset), *raw.shape)


def check_state(case: Case, camera: isp.Camera, name: str) -> None:
    """Raises an InputError unless the camera of a data set, by its name, can be in the state of a case."""
    flag = f"`{case.group}={case.kind or case.name.removeprefix('camera=')}`"
    if case.camera is not None:
        if case.camera.pattern != camera.pattern:
            raise InputError(f"{flag} must have the pattern {camera.pattern}, got {case.camera.pattern}")
        own, gains = np.array(camera.white_balance), np.array(case.camera.white_balance)
        if (own * gains < 0).any():
            raise InputError(f"{flag} must have gains of the signs of {own.tolist()}, got {gains.tolist()}")
        matrices = np.array(case.camera.color_matrix), np.array(camera.color_matrix)
        if not np.allclose(*matrices, atol=_ROUNDING):
            warn(f"{flag}: its color matrix differs from that of {name}, which is not simulated")
    state = case.state_of(camera)
    needing = [quantity for quantity in state.given if QUANTITIES[quantity].needs_colors]
    if needing and camera.pattern == isp.cfa.MONO:
        possible = ",".join(kind for kind in SENSOR if not any(each.needs_colors for each in _CHANGED[kind]))
        raise InputError(f"{flag}: {name} is from a sensor without color filters; give `sensor={possible}`")
    try:
        state.check(camera)
        if state.lamp_color is not None:
            isp.unprocessing.check_invertible(camera)
    except ValueError as error:
        raise InputError(f"{flag}: {error}") from None


def camera_of(dataset: RawDataset) -> isp.Camera:
    """Returns the camera of a data set of raw images; raises a ValueError if it holds processed images."""
    if dataset.camera is None:
        raise ValueError(f"{dataset.name} holds processed images, which have no camera")
    return dataset.camera


def run_pipeline(processing: ProcessingSettings) -> NamedPipeline | None:
    """Returns the pipeline of a run if it stayed at the camera's calibration values during training, else None."""
    stays = not processing.learns_pipeline or (processing.freeze_processor and not processing.processor_uri)
    return processing.named_pipeline if stays else None


def for_run(case: Case, processing: ProcessingSettings) -> Case:
    """Returns a case whose pipeline makes images of the size on which a run was trained; the name is kept."""
    if case.pipeline is None or not processing.half_size:
        return case
    return case._replace(pipeline=case.pipeline.half_sized())


def is_clean(case: Case, config: TrainConfig) -> bool:
    """Tells whether a case is no drift for a run, because the run was trained on such images."""
    if case.pipeline is not None:
        return for_run(case, config.processing).pipeline == run_pipeline(config.processing)
    return case.group == "clean" or case.iso in config.data.iso


def equals_clean(case: Case, config: TrainConfig) -> bool:
    """Tells whether the images of a case are exactly the clean images of a run, not only those at one intensity."""
    return is_clean(case, config) and (case.iso is None or len(config.data.iso) == 1)


def check(cases: Sequence[Case], config: TrainConfig, dataset: RawDataset, run: str) -> None:
    """Raises an InputError unless a run can be tested in these cases, whose groups are in `names.DRIFTS`."""
    for group in dict.fromkeys(case.group for case in cases):
        reason = None
        if group in ("pipelines", "exposures", "sensor", "cameras") and dataset.camera is None:
            reason = f"was trained on {dataset.name}, which is already processed and has no raw data"
        elif group == "pipelines" and config.processing.processing_mode in HALF_SIZE_MODES:
            reason = f"was trained with {config.processing.flag}, whose images have half the size of other pipelines'"
        elif group == "intensities" and not config.data.has_intensities:
            reason = (
                f"was trained on {dataset.name}, which has only one intensity: `against=exposures` simulates others"
            )
        elif group == "corruptions" and config.processing.processing_mode == "neural_network":
            reason = "was trained with `processing_mode=neural_network`, whose images are not in [0, 1]"
        if reason:
            raise InputError(f"`against={group}`: {run} {reason}")
    check_camera([for_run(case, config.processing) for case in cases], dataset)


def random_key(name: str, seed: int) -> jax.Array:
    """Returns the key of the noise of a state or a corruption, which depends only on its name and the seed."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(name.encode())))
