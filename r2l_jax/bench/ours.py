"""Our side of the benchmark; `r2l_jax.bench.baselines` has functions of the same names.

Each function prepares a piece of work with NumPy arrays, and returns the call to time.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.bench.inputs import CAMERA, CLASSES, LEARNING_RATE
from r2l_jax.bench.timing import Call
from r2l_jax.config import PUBLISHED_OPTIMIZATION, TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.build import Architecture
from r2l_jax.model.tasks import task_of
from r2l_jax.runtime import startup
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.flags import build
from r2l_jax.training.steps import Steps, TrainState, make_steps
from r2l_jax.training.update import StepSettings
from tasks.layers import BatchNorm


def _normalized_pipeline() -> tuple[Callable, nnx.State, nnx.State]:
    """Returns the pipeline with batch norm as `(parameters, statistics, raw) -> (rgb, statistics)`.

    Also returns the initial parameters of the pipeline and statistics of the batch norm.
    """
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
    render, parameters, statistics = _normalized_pipeline()
    return partial(jax.jit(render), parameters, statistics, jnp.asarray(raw))


def parametrized_gradient(raw: np.ndarray, weight: np.ndarray) -> Call:
    """Prepares to differentiate a weighted mean of the images of `parametrized_forward` for all parameters."""
    render, parameters, statistics = _normalized_pipeline()

    @jax.jit
    def gradient(parameters, statistics, raw, weight):
        def weighted_mean(parameters):
            rgb, updated = render(parameters, statistics, raw)
            return (rgb * weight).mean(), updated

        return jax.grad(weighted_mean, has_aux=True)(parameters)

    return partial(gradient, parameters, statistics, jnp.asarray(raw), jnp.asarray(weight))


def _dataset(raw: np.ndarray, targets: np.ndarray) -> RawDataset:
    names, segmentation = tuple(map(str, range(len(raw)))), targets.ndim > 1
    return RawDataset(
        name="benchmark",
        task="segmentation" if segmentation else "classification",
        classes=("object",) if segmentation else names[:CLASSES],
        camera=CAMERA,
        names=names,
        labels=np.zeros(len(raw), np.int32) if segmentation else targets,
        read=lambda index: (raw[index], targets[index]),
    )


def train_step(raw: np.ndarray, targets: np.ndarray, **flags: str) -> Call:
    """Prepares the training step of scripts/train.py with these flags.

    By default: parametrized pipeline, Adam, and a ResNet-18 for classes or a U-Net++ for masks.
    """
    steps, state, batch = _prepared_run(raw, targets, flags)
    key = jax.random.key(0)

    def step():
        nonlocal state
        state, loss = steps.train(state, batch, key)
        return state, loss

    return step


def evaluation(raw: np.ndarray, labels: np.ndarray) -> Call:
    """Prepares to add a batch's loss and confusion matrix, with parametrized pipeline and ResNet-18, to sums."""
    steps, state, batch = _prepared_run(raw, labels, {})
    sums = steps.zero_evaluated()

    def evaluate():
        nonlocal sums
        sums = steps.evaluate(state, sums, batch)
        return sums

    return evaluate


def _prepared_run(raw: np.ndarray, targets: np.ndarray, flags: Mapping[str, str]) -> tuple[Steps, TrainState, Batch]:
    """Returns a run's compiled functions, the state in which its training begins, and a batch on the devices."""
    config = build(TrainConfig, {**PUBLISHED_OPTIMIZATION, **flags}, batch_size=len(raw), lr=LEARNING_RATE)
    steps = make_steps(StepSettings.of(config, _dataset(raw, targets), 1))
    index, weight = np.arange(len(raw), dtype=np.int32), np.ones(len(raw), np.float32)
    batch = {"raw": raw, "target": targets, "index": index, "weight": weight}
    return steps, steps.begin(steps.init(jax.random.key(0))), to_devices(batch, shardings().split)


def search_together(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Call:
    """Prepares two steps of sixteen worst-case searches through a ResNet-18, as one stack."""
    search = _searcher(batch_size, raw, labels)
    return lambda: search(_SEARCHES)


def search_apart(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Call:
    """Prepares the same searches one after another, as the baseline of `search_together`."""
    startup.keep_memory()
    search = _searcher(batch_size, raw, labels)
    return lambda: [search([one]) for one in _SEARCHES]


_SEARCHES = tuple(Search(("white_balance", "gamma_correct"), seed=seed, spread=0.02) for seed in range(16))


def _searcher(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Callable[[Sequence[Search]], list[Found]]:
    config, dataset = TrainConfig(), _dataset(raw, labels)
    task = task_of(dataset, config.model)
    model = Architecture.of(config.processing, task, CAMERA, dataset.shape).model(nnx.Rngs(0), None)
    model.eval()
    searcher = Searcher(Frozen(model, task), direction="worst", batch_size=batch_size)

    def search(searches):
        # Without progress bars.
        with contextlib.redirect_stderr(io.StringIO()):
            return searcher.run(searches, raw, labels, steps=2)

    return search


def demosaic(method: str, raw: np.ndarray) -> Call:
    """Prepares to demosaic with a method of `isp.demosaic`."""
    return partial(getattr(isp.demosaic, method), jnp.asarray(raw), CAMERA.pattern)


def static(algorithms: tuple[str, str, str], raw: np.ndarray) -> Call:
    """Prepares to render with a static pipeline."""
    return partial(isp.static(CAMERA, *algorithms), jnp.asarray(raw))


def denoise(method: str, rgb: np.ndarray) -> Call:
    """Prepares to denoise with a method of `isp.denoise`."""
    return partial(getattr(isp.denoise, method), jnp.asarray(rgb))
