"""Drifts as MAITE augmentations and as image transforms; and MAITE's models, data sets and metrics for `evaluate`.

MAITE (https://github.com/mit-ll-ai-technology/maite) states protocols, which classes need not inherit: images are
arrays `(C, H, W)`, batches are lists, and metadata are dicts with an `id`. Nothing here imports it.
"""

import dataclasses
import os
import re
import secrets
import sys
import zlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import isp
from isp import CameraState, sensor_drift
from r2l_jax import named_code
from r2l_jax.data import from_arrays
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import compiler
from r2l_jax.drift import limits, states
from r2l_jax.drift.cases import CLEAN, Case, check_state
from r2l_jax.drift.renderer import drifted
from r2l_jax.errors import InputError
from r2l_jax.model.heads import FrozenHead, from_flax
from r2l_jax.model.host_networks import HostNetwork
from r2l_jax.model.scores import Outcome, OwnScore
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.pipelines import find_pipeline

AnyCamera = isp.Camera | str | os.PathLike

# Restores pictures that `isp.unprocess` has turned into raw images, but for errors of demosaicing.
PIPELINE = "menon2007.none.none"


class Augmentation:
    """Takes images as a camera in another state would: a MAITE augmentation, and a `transform` of single images.

    Pictures become raw images (`isp.unprocess`), which drift (`isp.sensor_drift.apply`) and are processed. Integers are
    fractions of their type's greatest value, and floating-point images are from 0 to 1; all keep their size, type and
    library. Boxes move with the pixels. The metadata list what was done under `r2l_jax`. One function is compiled for
    each size of images.

    Args:
        camera: the camera of raw images, or the one assumed for pictures: itself, its name or its JSON file.
        sensor: how it differs: a `CameraState`, a dict, text such as "exposure=-1,defocus=1", or a JSON file.
        other: another camera or its JSON file, as far as levels, gains and noise tell.
        envelope: limits, as of `evaluate`: a JSON file, a dict or "default". Each image has a random state within them.
        pipeline: the name of the processing; None for raw images `(1, H, W)`.
        seed: the seed of noise and states. In a batch, they depend on it and on the datum's `id` alone.

    Raises:
        InputError: several of `sensor`, `other` and `envelope`, or one that does not fit the camera.
    """

    def __init__(
        self,
        camera: AnyCamera,
        *,
        sensor: CameraState | Mapping[str, Any] | str | None = None,
        other: AnyCamera | None = None,
        envelope: Mapping[str, Any] | str | None = None,
        pipeline: str | None = PIPELINE,
        seed: int = 0,
    ):
        if (sensor, other, envelope).count(None) < 2:
            raise InputError("give only one of `sensor`, `other` and `envelope`")
        self.camera, self.pipeline, self.seed, self._calls = KnownCamera.of(camera).whole("`camera`"), pipeline, seed, 0
        case = CLEAN
        if sensor is not None:
            state = sensor if isinstance(sensor, CameraState) else states.read(sensor, "sensor")
            case = Case(str(state), "sensor", state=state)
        elif other is not None:
            case = Case("other", "other", camera=KnownCamera.of(other).whole("`other`"))
        check_state(case, self.camera, "the images")
        self.state = case.state_of(self.camera)
        self.limits = {} if envelope is None else limits.read(envelope, limits.possible(self.camera, {}))
        if pipeline is not None:
            self.camera = _assumed(self.camera)
            find_pipeline(pipeline)
        self.metadata = {"id": f"r2l_jax {limits.in_words(limits.written(self.limits)) or self.state}".strip()}

    def __call__(self, batch: tuple[Sequence[Any], Sequence[Any], Sequence[Mapping[str, Any]]]) -> tuple[list, ...]:
        """Returns a MAITE batch, of images, targets and metadata, after the drift."""
        found = []
        for image, target, datum in zip(*batch, strict=True):
            taken, state = self._taken(image, str(datum["id"]).encode())
            if state.pattern_shift is not None and hasattr(target, "boxes"):
                boxes = np.asarray(target.boxes).reshape(-1, 4)
                moved = sensor_drift.shifted_boxes(jnp.asarray(boxes), state.pattern_shift, np.shape(image)[1:])
                boxes = _as(target.boxes, np.asarray(moved, boxes.dtype))
                target = SimpleNamespace(boxes=boxes, labels=target.labels, scores=target.scores)
            done = {"state": state.given, "camera": self.camera.to_json(), "pipeline": self.pipeline, "seed": self.seed}
            found.append((taken, target, {**datum, "r2l_jax": [*datum.get("r2l_jax", ()), done]}))
        images, targets, metadata = map(list, zip(*found, strict=True))
        return images, targets, metadata

    def transform(self, image: Any) -> Any:
        """Returns an image after the drift: a picture of PIL, an array `(H, W, C)` or a PyTorch tensor `(C, H, W)`.

        Noise and states differ between images, and between calls.
        """
        self._calls += 1
        content = b"%d " % self._calls + np.asarray(image).tobytes()
        if _is_tensor(image):
            return self._taken(image, content)[0]
        made = np.moveaxis(self._taken(np.moveaxis(np.asarray(image), -1, 0), content)[0], 0, -1)
        return Image.fromarray(made) if isinstance(image, Image.Image) else made

    def _taken(self, image: Any, name: bytes) -> tuple[Any, CameraState]:
        """Returns an image after the drift, and the state, both drawn by a name."""
        array, channels, number = _fractions(image), 1 if self.pipeline is None else 3, zlib.crc32(name) >> 1
        if array.ndim != 3 or len(array) != channels:
            raise InputError(f"with `pipeline={self.pipeline}`, images need {channels} channels, got {array.shape}")
        state, shares = self.state, np.random.default_rng([self.seed, number]).random(len(self.limits)).tolist()
        if self.limits:
            drawn = zip(self.limits.items(), shares, strict=True)
            state = CameraState(**{name: limit.at(share) for (name, limit), share in drawn})
        _, height, width = array.shape
        even = np.pad(array, ((0, 0), (0, height % 2), (0, width % 2)), "edge")
        key, index, take = jax.random.key(self.seed), jnp.array([number]), compiler.jit(_take, 4, 5)
        taken = take(np.moveaxis(even, 0, -1), index, key, state, self.camera, self.pipeline)
        return _like(image, np.moveaxis(np.asarray(taken), -1, 0)[:, :height, :width]), state


def _take(image: Any, index: jax.Array, key: jax.Array, state: CameraState, camera: isp.Camera, pipeline: str | None):
    if pipeline is None:
        return drifted(jnp.moveaxis(image, -1, 0), index, key, state, camera)[0][..., None]
    raw = drifted(jnp.clip(isp.unprocess(image, camera), 0, 1)[None], index, key, state, camera)
    return jnp.clip(find_pipeline(pipeline)(camera)(raw)[0], 0, 1)


def dataset(data: Any, camera: AnyCamera, *, groups: str | None = None) -> RawDataset:
    """Makes a data set of a MAITE data set of pictures: the raw images that a camera would have taken, in memory.

    One-hot targets are classes, and objects are boxes. `index2label` names the classes, and must for boxes. A picture
    of odd height or width is cropped by one.

    Args:
        data: the MAITE data set.
        camera: the camera that is assumed: itself, its name or its JSON file.
        groups: the name in the metadata of each picture's group, such as its scene; by default, all are independent.
    """
    known, names = _assumed(KnownCamera.of(camera).whole("`camera`")), data.metadata.get("index2label", {})
    raws, targets, members, keys = [], [], [], sorted(names)
    for image, target, datum in (data[index] for index in range(len(data))):
        picture = _fractions(image)
        rows, cols = (size // 2 * 2 for size in picture.shape[-2:])
        if len(picture) != 3 or (raws and raws[0].shape != (rows, cols)):
            raise InputError(f"`data` must have images (3, H, W) of one size, got {picture.shape} for {datum['id']}")
        if groups and groups not in datum:
            raise InputError(f"`groups={groups}` must be in the metadata of each image, is not for {datum['id']}")
        raws.append(np.clip(isp.unprocess(np.moveaxis(picture, 0, -1)[:rows, :cols], known), 0, 1))
        targets.append(_rows(target, keys) if hasattr(target, "boxes") else np.asarray(target))
        members.append(datum[groups] if groups else None)
    if targets[0].ndim == 2:
        boxes = np.full((len(targets), max(1, *map(len, targets)), 5), [0, 0, 0, 0, -1], np.float32)
        for place, rows in zip(boxes, targets, strict=True):
            place[: len(rows)] = np.minimum(rows[:, [0, 1, 2, 3, 5]], [*2 * raws[0].shape[::-1], np.inf])
        targets, classes = boxes, [str(names[key]) for key in keys] or None
    else:
        classes = [str(names.get(key, key)) for key in range(len(targets[0]))]
        targets = np.argmax(targets, 1)
    return from_arrays(raws, targets, known, classes, members if groups else None)


def accepted(
    runs: Sequence[Any], data: Any, camera: AnyCamera | None, pipeline: Any, metric: Any
) -> tuple[list[Any], Any, dict[str, Any]]:
    """Returns runs, data, and the pipeline and the task of networks, as `evaluate` takes them, in place of MAITE's."""
    example, keys = np.zeros(0, np.float32), list(range(len(getattr(data, "classes", ()))))
    if _has_id(data):
        if camera is None:
            raise InputError("a MAITE data set needs `camera`, which is assumed to have taken its pictures")
        example, keys = data[0][0], sorted(data.metadata.get("index2label", ()))
        data, pipeline = dataset(data, camera), PIPELINE if pipeline is None else pipeline
    elif camera is not None:
        raise InputError("`camera` is for MAITE data sets: others have their own")
    scored = metric and _scored(metric, data, keys)
    task = metric and named_code.given(lambda _: scored, "metric")
    found: list[Any] = list(runs)
    for place, run in enumerate(runs):
        if _has_id(run):
            found[place] = from_flax(FrozenHead(_Model(run, example, keys)))
            found[place].__name__ = re.sub(r"\W+", "_", str(run.metadata["id"]))  # The name of its run.
    return found, data, {"pipeline": pipeline, "task": task}


class _Model(HostNetwork):
    """A MAITE model, which takes images like the `example`, and labels objects with `keys`."""

    def __init__(self, model: Any, example: Any, keys: Sequence[Any]):
        super().__init__()
        # Nothing tells models apart.
        self._model, self._example, self._keys, self.identity = model, example, keys, secrets.token_hex(16)

    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits, which are the logarithms of probabilities if the model returns these."""
        found = np.stack([np.asarray(each, np.float32) for each in self._called(images)])
        are_probabilities = found.min() >= 0 and np.allclose(found.sum(-1), 1, atol=1e-3)
        return np.log(np.maximum(found, np.finfo(np.float32).tiny)) if are_probabilities else found

    def detections(self, images: np.ndarray) -> list[np.ndarray]:
        """Detects objects of known classes: their corners, scores and class numbers, which begin at 1."""
        return [np.add(_rows(each, self._keys), [0, 0, 0, 0, 0, 1]) for each in self._called(images)]

    def _called(self, images: jax.Array | np.ndarray) -> Sequence[Any]:
        try:
            return self._model([_like(self._example, image) for image in np.asarray(images)])
        except Exception as error:  # The model may raise anything.
            raise InputError(f"{self._model.metadata['id']} raised {named_code.in_one_line(error)}") from error


def _scored(metric: Any, data: RawDataset, keys: Sequence[Any]) -> Task:
    """Makes the task of a data set with a MAITE metric as its score, computed from predictions and targets."""
    metric, key = metric if isinstance(metric, tuple) else (metric, None)
    kind: Any = type(task_of(data))

    class Scored(kind):
        def outcome(self, logits: Any, batch: Any) -> dict[str, jax.Array]:
            shown = self.probabilities(logits, batch["raw"].shape[1])
            return {**super().outcome(logits, batch), "shown": shown, "true": batch["target"], "number": batch["index"]}

    def targets(rows: np.ndarray) -> list[Any]:
        if rows.ndim == 2:
            return list(rows)
        kept = [each[each[:, 5] >= 0] for each in rows]
        labels = [np.array([keys[int(place)] for place in each[:, 5]], np.int64) for each in kept]
        pairs = zip(kept, labels, strict=True)
        return [SimpleNamespace(boxes=each[:, :4], labels=of, scores=each[:, 4]) for each, of in pairs]

    def score(outcome: Outcome, weights: np.ndarray) -> np.ndarray:
        true = outcome["true"]
        if true.ndim > 1:
            true = np.insert(true[..., :5], 4, 1, -1)
        else:
            true = np.eye(len(data.classes), dtype=np.float32)[true]
        every = targets(outcome["shown"]), targets(true), [{"id": number} for number in outcome["number"].tolist()]
        found = []
        for times in weights.reshape(-1, weights.shape[-1]).astype(int):
            metric.reset()
            metric.update(*([part[place] for place in np.repeat(np.arange(len(times)), times)] for part in every))
            computed = metric.compute()
            found.append(float(computed[key or next(iter(computed))]))
        return np.reshape(found, weights.shape[:-1])

    scored = OwnScore(".".join(filter(None, (metric.metadata["id"], key))), data.classes, -np.inf, function=score)
    return Scored.of(data.classes, NetworkSettings(), None).scored_by(scored)


def _rows(target: Any, keys: Sequence[Any]) -> np.ndarray:
    """Returns objects as rows `(N, 6)` of corners, score, and the place of the label among `keys`, if it is there."""
    scores = np.asarray(target.scores, np.float32)
    scores = scores.max(-1) if scores.ndim > 1 else scores
    places = [keys.index(label) if label in keys else -1 for label in np.asarray(target.labels).tolist()]
    rows = np.column_stack(
        [np.asarray(target.boxes, np.float32).reshape(-1, 4), scores, np.asarray(places, np.float32)]
    )
    return rows[rows[:, 5] >= 0]


def _assumed(camera: isp.Camera) -> isp.Camera:
    """Returns the camera that takes pictures without losing white, which saturates its sites above the black level."""
    if camera.pattern == isp.cfa.MONO:
        return camera
    gains = np.array(camera.white_balance) / (1 - np.max(camera.black_level))
    return dataclasses.replace(camera, white_balance=gains)


def _has_id(given: Any) -> bool:
    """Tells whether an object has MAITE's metadata."""
    return isinstance(metadata := getattr(given, "metadata", None), Mapping) and "id" in metadata


def _is_tensor(given: Any) -> bool:
    return type(given).__module__.partition(".")[0] == "torch"


def _fractions(image: Any) -> np.ndarray:
    """Returns an image in float32, from 0 to 1."""
    array = np.asarray(image)
    if array.dtype.kind == "u":
        return array / np.float32(np.iinfo(array.dtype).max)
    if array.dtype.kind != "f" or not ((array >= 0) & (array <= 1)).all():
        raise InputError(f"images must be unsigned integers, or from 0 to 1, got {array.dtype} up to {array.max():g}")
    return array.astype(np.float32)


def _like(example: Any, fractions: np.ndarray) -> Any:
    """Returns an image of fractions in the type and the library of an example."""
    kind = np.asarray(example).dtype
    made = np.round(fractions * np.iinfo(kind).max) if kind.kind == "u" else fractions
    return _as(example, np.ascontiguousarray(made, kind))


def _as(example: Any, array: np.ndarray) -> Any:
    return sys.modules["torch"].tensor(array) if _is_tensor(example) else array
