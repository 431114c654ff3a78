"""Our side of the benchmark; `r2l_jax.bench.baselines` has functions of the same names.

Each function prepares a piece of work with NumPy arrays, and returns the call to time.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.bench.inputs import CAMERA, CLASSES, LEARNING_RATE
from r2l_jax.bench.timing import Call
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.drift.corruptions import CORRUPTIONS
from r2l_jax.training.settings import PUBLISHED_OPTIMIZATION
from r2l_jax.training.steps import Steps, StepSettings, TrainState, make_steps
from tasks.layers import BatchNorm


def _render() -> tuple[Callable, nnx.State, nnx.State]:
    """Returns the pipeline with batch norm as a function, with initial parameters and statistics of the batch norm."""
    pipeline, parameters = nnx.split(isp.parametrized(CAMERA))
    norm, statistics = nnx.split(BatchNorm(3, affine=False, rngs=nnx.Rngs(0)))

    def render(parameters, statistics, raw):
        # Calling the module changes its statistics, so it must be a copy.
        module = nnx.merge(norm, statistics, copy=True)
        rgb = module(nnx.merge(pipeline, parameters)(raw))
        return rgb, nnx.state(module)

    return render, parameters, statistics


def parametrized_forward(raw: np.ndarray) -> Call:
    """Prepares to render with the parametrized pipeline and batch norm."""
    render, *state = _render()
    return partial(jax.jit(render), *state, jnp.asarray(raw))


def parametrized_gradient(raw: np.ndarray, weight: np.ndarray) -> Call:
    """Prepares to differentiate a weighted mean of the images of `parametrized_forward` for all parameters."""
    render, *state = _render()

    def weighted_mean(parameters, statistics, raw, weight):
        rgb, updated = render(parameters, statistics, raw)
        return (rgb * weight).mean(), updated

    return partial(jax.jit(jax.grad(weighted_mean, has_aux=True)), *state, jnp.asarray(raw), jnp.asarray(weight))


def train_step(raw: np.ndarray, labels: np.ndarray) -> Call:
    """Prepares the training step of scripts/train.py: parametrized pipeline, ResNet-18 and Adam."""
    steps, state, batch = _prepared_run(raw, labels)
    key = jax.random.key(0)

    def step():
        nonlocal state
        state, outcome = steps.train(state, batch, key)
        return state, outcome

    return step


def evaluation(raw: np.ndarray, labels: np.ndarray) -> Call:
    """Prepares to compute a batch's outcomes, with parametrized pipeline and ResNet-18."""
    steps, state, batch = _prepared_run(raw, labels)
    return partial(steps.evaluate, state, batch)


def _prepared_run(raw: np.ndarray, labels: np.ndarray) -> tuple[Steps, TrainState, Batch]:
    """Returns a run's compiled functions, the state in which its training begins, and a batch on the devices."""
    names = tuple(map(str, range(len(raw))))
    dataset = RawDataset(
        name="benchmark",
        task="classification",
        classes=names[:CLASSES],
        camera=CAMERA,
        names=names,
        labels=labels,
        read=lambda index: (raw[index], labels[index]),
    )
    config = build(TrainConfig, PUBLISHED_OPTIMIZATION, batch_size=len(raw), lr=LEARNING_RATE)
    steps = make_steps(StepSettings.of(config, dataset, 1))
    index, weight = np.arange(len(raw), dtype=np.int32), np.ones(len(raw), np.float32)
    batch = {"raw": raw, "target": labels, "index": index, "weight": weight}
    return steps, steps.begin(steps.init(jax.random.key(0))), to_devices(batch, shardings().split)


def demosaic(method: str, raw: np.ndarray) -> Call:
    """Prepares to demosaic with a method of `isp.demosaic`."""
    return partial(getattr(isp.demosaic, method), jnp.asarray(raw), CAMERA.pattern)


def static(algorithms: tuple[str, str, str], raw: np.ndarray) -> Call:
    """Prepares to render with a static pipeline."""
    return partial(isp.static(CAMERA, *algorithms), jnp.asarray(raw))


def denoise(method: str, rgb: np.ndarray) -> Call:
    """Prepares to denoise with a method of `isp.denoise`."""
    return partial(getattr(isp.denoise, method), jnp.asarray(rgb))


def corruption(name: str, images: np.ndarray) -> Call:
    """Prepares to corrupt images with severity 3."""
    return partial(CORRUPTIONS[name], jnp.asarray(images), jax.random.key(0), 3)


def drift(state: isp.CameraState, raw: np.ndarray) -> Call:
    """Prepares to take raw images with a camera in another state."""
    return partial(isp.sensor_drift.apply, jnp.asarray(raw), jax.random.key(0), state, camera=CAMERA)
