"""Processing that adapts to each image: a small network moves a pipeline's parameters by what the mosaic shows."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

import isp
from isp.parameter import MOST_ELEMENTS

# The shares of a color's sites that are darker than its quantiles.
_SHARES = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99], np.float32)

# Quantiles are interpolated between these levels of the scale of `_tone`, on which noise may lie below black.
_LEVELS = np.linspace(-0.5, 1.05, 32, dtype=np.float32)

# The signal, as a share of white, around which the scale of tones turns from linear to logarithmic.
_LINEAR_BELOW = 1 / 512

# Quantiles are taken of about this many blocks of sites along the shorter side.
_GRID = 32

# The height and width of the small image whose gradient is a statistic.
_SMALL = 16

# The number of statistics of a mosaic: for each color, its quantiles, mean, variance, noise and gradient.
STATISTICS = 3 * (len(_SHARES) + 4)

# The number of features in the network's hidden layer.
_WIDTH = 48

# The farthest that the network moves a value, in natural ranges. For gains, this is a factor of 20.
_FARTHEST = 3.0

# By the name of a parameter, an offset for each image, see `isp.Pipeline`.
Offsets = Mapping[str, ArrayLike] | None


class AdaptivePipeline(isp.Pipeline):
    """A pipeline that processes each mosaic with parameters of its own.

    A network of two layers, with fewer than 5,000 weights, sees the `statistics` of a mosaic. It gives the offsets of
    all tuned parameters from the pipeline's own values: for each value, or for the strength of a filter with a neutral
    kernel. Offsets stay within 3 natural ranges, and values are valid, see `isp.Parameter`. The last layer starts at 0,
    so that the processing starts as that of the pipeline. The pipeline's own values can be learned as well.

    Whoever moves the pipeline's own values by an offset, as searches do, moves the values of each image by the same
    offset.

    Args:
        pipeline: The pipeline to adapt.
        camera: The camera, whose color filter array and black level statistics need.
        rngs: Draw the weights.

    Raises:
        ValueError: If no parameter of the pipeline is tuned and has a natural range, or if a parameter has the name of
            an attribute of this class.
    """

    def __init__(self, pipeline: isp.Pipeline, camera: isp.Camera, rngs: nnx.Rngs) -> None:
        for name in pipeline.facts:
            if name in ("network", "sensor") or hasattr(AdaptivePipeline, name):
                raise ValueError(f"a parameter of an adaptive pipeline cannot be called {name!r}: rename it")
        super().__init__([stage.starting_at(pipeline.parameters()) for stage in pipeline.stages])
        outputs = sum(math.prod(shape) for shape in self._outputs.values())
        if not outputs:
            raise ValueError("no parameter of the pipeline is tuned and has a natural range, so nothing can adapt")
        self.sensor = camera.pattern, float(np.mean(camera.black_level))
        zeros = nnx.initializers.zeros
        hidden = nnx.Linear(STATISTICS, _WIDTH, rngs=rngs)
        last = nnx.Linear(_WIDTH, outputs, kernel_init=zeros, rngs=rngs)
        self.network = nnx.Sequential(hidden, nnx.relu, last)

    def __call__(
        self, raw: Shaped[Array | np.ndarray, "..."], offsets: Offsets = None
    ) -> Float[Array, "*batch height width 3"]:
        """Processes mosaics `(..., H, W)`, each with its own parameters (see `isp.Pipeline`).

        Args:
            raw: The mosaics.
            offsets: Further offsets of each image, which are added to those of the network.
        """
        flat = raw.reshape(-1, *raw.shape[-2:])
        images = super().__call__(flat, self._total(flat, offsets))
        return images.reshape(*raw.shape[:-2], *images.shape[1:])

    def trace(
        self,
        raw: Shaped[Array | np.ndarray, "..."],
        perturbations: Mapping[str, Array] | None = None,
        offsets: Offsets = None,
    ) -> tuple[Float[Array, "*batch height width 3"], dict[str, Float[Array, "..."]]]:
        """Processes mosaics, and keeps the image after each stage (see `isp.Pipeline.trace`)."""
        flat, leading = raw.reshape(-1, *raw.shape[-2:]), raw.shape[:-2]
        perturbations = {
            name: each.reshape(-1, *each.shape[len(leading) :]) for name, each in (perturbations or {}).items()
        }
        image, stages = super().trace(flat, perturbations, self._total(flat, offsets))
        stages = {name: each.reshape(*leading, *each.shape[1:]) for name, each in stages.items()}
        return image.reshape(*leading, *image.shape[1:]), stages

    def moves(
        self, raw: Float[Array | np.ndarray, "batch height width"], offsets: Offsets = None
    ) -> dict[str, Float[Array, "..."]]:
        """Computes what the network gives for mosaics: offsets, or how much stronger a filter is `(batch, 1, 1)`.

        Args:
            raw: The mosaics.
            offsets: As in a call. They move the black level from which the statistics of each mosaic are counted.
        """
        pattern, black = self.sensor
        for name, offset in (offsets or {}).items():
            if self.facts[name].camera == "black_level":
                black += jnp.mean(jnp.asarray(self.facts[name].moved(0.0, jnp.asarray(offset))), -1)
        moves = _FARTHEST * jnp.tanh(self.network(statistics(jnp.asarray(raw), pattern, black)) / _FARTHEST)
        sizes = [math.prod(shape) for shape in self._outputs.values()]
        parts = jnp.split(moves, np.cumsum(sizes)[:-1], axis=1)
        return {
            name: part.reshape(-1, *shape) for (name, shape), part in zip(self._outputs.items(), parts, strict=True)
        }

    def own_values(
        self, raw: Float[Array | np.ndarray, "batch height width"], offsets: Offsets = None
    ) -> dict[str, Float[Array, "..."]]:
        """Computes the values with which each mosaic is processed, `(batch, *shape)` by adapted parameter."""
        return self.values(self._total(raw, offsets))

    def for_camera(self, camera: isp.Camera) -> "AdaptivePipeline":
        """Returns a copy whose statistics are counted from the black level of another camera of the same pattern."""
        graph, state = nnx.split(self)
        pipeline = nnx.merge(graph, state)
        pipeline.sensor = camera.pattern, float(np.mean(camera.black_level))
        return pipeline

    def adapted(self, raw: Float[Array | np.ndarray, "height width"]) -> isp.Pipeline:
        """Returns the pipeline that processes all mosaics with the parameters of one."""
        values = {name: value[0] for name, value in self.own_values(raw[None]).items()}
        return isp.Pipeline([stage.starting_at(self.parameters() | values) for stage in self.stages])

    def _total(self, raw: Array | np.ndarray, offsets: Offsets) -> dict[str, Array]:
        """Computes the offsets of each mosaic from the pipeline's own values."""
        own = self.moves(raw, offsets)
        for name, facts in self.facts.items():
            if name in own and facts.neutral is not None:
                own[name] = own[name] * (getattr(self, name)[...] - jnp.array(facts.neutral)) / facts.width
        return own | {name: jnp.asarray(offset) + own.get(name, 0) for name, offset in (offsets or {}).items()}

    @property
    def _outputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of what the network gives for each parameter that it moves."""
        shapes = {}
        for name, value in self.parameters().items():
            facts = self.facts[name]
            if facts.tuned and facts.has_range and (facts.neutral is not None or value.size <= MOST_ELEMENTS):
                shapes[name] = (1,) * value.ndim if facts.neutral is not None else value.shape
        return shapes


def statistics(
    raw: Float[Array | np.ndarray, "batch height width"], pattern: str, black: Float[Array, " batch"] | float = 0.0
) -> Float[Array, "batch statistics"]:
    """Computes statistics of mosaics that do not depend on their size.

    For each of red, green and blue, of blocks of one tile of the color filter array: seven quantiles, the mean, the
    variance, the noise (the mean difference between a block and the mean of its four neighbors), and the gradient of
    the mosaic at 16 x 16 pixels. All are on scales on which a factor on the light adds about the same amount. Nothing
    is differentiated through them.

    Args:
        raw: Mosaics with white at 1.
        pattern: The color filter array.
        black: The black level, of each mosaic or of all.
    """
    black = jnp.asarray(black, raw.dtype)[..., None, None, None]
    rgb = (isp.demosaic.binned(raw, pattern) - black) / (1 - black)
    batch, rows, cols, _ = rgb.shape
    every = max(1, min(rows, cols) // _GRID)
    tones = _tone(rgb[:, ::every, ::every]).reshape(batch, -1, 1, 3)
    darker = (tones < _LEVELS[:, None]).mean(1)[:, None]
    # The inverse of the piecewise linear function from levels to shares: without a search, which ONNX lacks.
    reached = (_SHARES[:, None, None] - darker[:, :, :-1]) / jnp.maximum(jnp.diff(darker, axis=2), 1e-6)
    quantiles = _LEVELS[0] + (_LEVELS[1] - _LEVELS[0]) * jnp.clip(reached, 0, 1).sum(2)
    small = jax.image.resize(rgb, (batch, _SMALL, _SMALL, 3), "linear", antialias=True)
    around = (rgb[:, :-2, 1:-1] + rgb[:, 2:, 1:-1] + rgb[:, 1:-1, :-2] + rgb[:, 1:-1, 2:]) / 4
    noise = jnp.abs(rgb[:, 1:-1, 1:-1] - around).mean((1, 2))
    gradient = sum(jnp.abs(jnp.diff(small, axis=axis)).mean((1, 2)) for axis in (1, 2))
    logarithms = [jnp.log10(each + 1e-6) / 6 + 0.5 for each in (rgb.var((1, 2)), noise, gradient)]
    by_color = jnp.swapaxes(quantiles, 1, 2).reshape(batch, -1)
    return jax.lax.stop_gradient(jnp.concatenate([by_color, _tone(rgb.mean((1, 2))), *logarithms], 1))


def _tone(values: Array) -> Array:
    """Maps the signal to a scale that is logarithmic in the light, linear around black, and 1 at white."""
    return jnp.arcsinh(values / _LINEAR_BELOW) / math.asinh(1 / _LINEAR_BELOW)
