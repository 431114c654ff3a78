"""Our side of the benchmark, as `r2l_jax.bench.baselines` is the other, by the same names; what goes into both; and floors.

Each function of a side prepares a piece of work for NumPy arrays, and returns what is timed. A floor is what no
function can beat that reads its input and writes its result.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.bench.baselines import CAMERA, CLASSES, GAMMA, LEARNING_RATE
from r2l_jax.bench.timing import Call
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.build import make_model
from r2l_jax.model.tasks import task_of
from r2l_jax.runtime import startup
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.flags import build
from r2l_jax.training.steps import make_steps
from tasks.layers import BatchNorm


def images(shape: tuple[int, ...]) -> tuple[np.ndarray]:
    """Smooth shading, hard edges and noise: `(*shape, 3)`, in [0, 1].

    Like photographs, since denoising by total variation takes as many steps as the image needs.
    """
    rng = np.random.default_rng(0)
    *batch, height, width = shape
    y, x = np.ogrid[:height, :width]
    down, across = rng.uniform(0.01, 0.1, (2, *batch, 1, 1, 3))
    waves = down * y[..., None] + across * x[..., None]
    rgb = 0.5 + 0.2 * np.sin(waves) + 0.1 * np.sign(np.sin(3 * waves)) + 0.02 * rng.standard_normal((*shape, 3))
    return (np.clip(rgb, 0, 1).astype(np.float32),)


def raws(shape: tuple[int, ...]) -> tuple[np.ndarray]:
    """Mosaics of such images."""
    (photographs,) = images(shape)
    return (np.array(isp.bayer.mosaic(photographs, CAMERA.pattern)),)


def raws_and_weights(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mosaics, and weights of the pixels that they are rendered to."""
    return *raws(shape), np.random.default_rng(1).standard_normal((*shape, 3), np.float32)


def raws_and_labels(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mosaics, and their classes."""
    return *raws(shape), np.arange(shape[0], dtype=np.int32) % CLASSES


def _normalized_pipeline() -> tuple[Callable, nnx.State, nnx.State]:
    """Pipeline and batch norm as `(parameters, statistics, raw) -> (rgb, statistics)`, and what these start from."""
    pipeline, parameters = nnx.split(isp.parametrized(CAMERA))
    norm, statistics = nnx.split(BatchNorm(3, affine=False, rngs=nnx.Rngs(0)))

    def render(parameters, statistics, raw):
        module = nnx.merge(norm, statistics, copy=True)  # a copy, whose statistics may change in here
        rgb = module(nnx.merge(pipeline, parameters)(raw))
        return rgb, nnx.state(module)

    return render, parameters, statistics


def parametrized_forward(raw: np.ndarray) -> Call:
    """The parametrized pipeline and batch norm."""
    render, parameters, statistics = _normalized_pipeline()
    return partial(jax.jit(render), parameters, statistics, jnp.asarray(raw))


def parametrized_gradient(raw: np.ndarray, weight: np.ndarray) -> Call:
    """The gradients for all parameters of a weighted mean of what `parametrized_forward` makes."""
    render, parameters, statistics = _normalized_pipeline()

    @jax.jit
    def gradient(parameters, statistics, raw, weight):
        def weighted_mean(parameters):
            rgb, updated = render(parameters, statistics, raw)
            return (rgb * weight).mean(), updated

        return jax.grad(weighted_mean, has_aux=True)(parameters)

    return partial(gradient, parameters, statistics, jnp.asarray(raw), jnp.asarray(weight))


def _dataset(raw: np.ndarray, labels: np.ndarray) -> RawDataset:
    samples, names = (lambda index: (raw[index], labels[index])), tuple(map(str, range(len(raw))))
    return RawDataset("benchmark", "classification", names[:CLASSES], CAMERA, names, labels, samples)


def train_step(raw: np.ndarray, labels: np.ndarray) -> Call:
    """The step of scripts/train.py with its defaults: parametrized, ResNet-18, Adam."""
    steps = make_steps(build(TrainConfig, batch_size=len(raw), lr=LEARNING_RATE), _dataset(raw, labels))
    batch = {"raw": raw, "target": labels, "weight": np.ones(len(raw), np.float32)}
    batch = to_devices(batch, shardings().split)
    key = jax.random.key(0)
    state = steps.begin(steps.init(key))

    def step():
        nonlocal state
        state, loss = steps.train(state, batch, key)
        return state, loss

    return step


def search_together(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Call:
    """Two steps of sixteen worst-case searches through a ResNet-18, as one stack."""
    search = _searcher(batch_size, raw, labels)
    return lambda: search(_SEARCHES)


def search_apart(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Call:
    """The same searches one after another, as the baseline of `search_together`."""
    startup.keep_memory()
    search = _searcher(batch_size, raw, labels)
    return lambda: [search([one]) for one in _SEARCHES]


_SEARCHES = tuple(Search(("white_balance", "gamma_correct"), seed=seed, spread=0.02) for seed in range(16))


def _searcher(batch_size: int, raw: np.ndarray, labels: np.ndarray) -> Callable[[Sequence[Search]], list[Found]]:
    config, dataset = TrainConfig(), _dataset(raw, labels)
    task = task_of(dataset, config.model)
    model = make_model(config, dataset, task, nnx.Rngs(0), None)
    model.eval()
    searcher = Searcher(Frozen(model, task), direction="worst", batch_size=batch_size)

    def search(searches):
        with contextlib.redirect_stderr(io.StringIO()):  # no progress bars
            return searcher.run(searches, raw, labels, steps=2)

    return search


def demosaic(method: str, raw: np.ndarray) -> Call:
    """A method of `isp.demosaic`."""
    return partial(getattr(isp.demosaic, method), jnp.asarray(raw), CAMERA.pattern)


def static(algorithms: tuple[str, str, str], raw: np.ndarray) -> Call:
    """A static pipeline."""
    return partial(isp.static(CAMERA, *algorithms), jnp.asarray(raw))


def denoise(method: str, rgb: np.ndarray) -> Call:
    """A method of `isp.denoise`."""
    return partial(getattr(isp.denoise, method), jnp.asarray(rgb))


def copy_floor(raw: np.ndarray) -> Call:
    """Reads the mosaic and writes an image."""
    return _into_old_memory(lambda raw: jnp.broadcast_to(raw, (3, *raw.shape)), jnp.asarray(raw))


def tone_floor(raw: np.ndarray) -> Call:
    """Reads an image and writes its exp(log())."""
    image = jnp.stack([jnp.asarray(raw)] * 3)
    return _into_old_memory(lambda image: jnp.exp(jnp.log(image) / GAMMA), image)


def _into_old_memory(function: Callable[[jax.Array], jax.Array], source: jax.Array) -> Call:
    """A call of the function that writes its result over its last one."""
    compiled = jax.jit(lambda old, source: function(source), donate_argnums=0, keep_unused=True)
    result = function(source)

    def call():
        nonlocal result
        result = compiled(result, source)
        return result

    return call
