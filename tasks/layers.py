"""Network layers that compute the same as PyTorch's, with gradients that are fast even on CPUs.

Flax's layers differ in two ways. Their batch norm keeps a biased running variance, while PyTorch keeps an unbiased one.
And they are slow on CPUs: the gradient of a max pool takes eight times as long as here, the gradient of a 1x1
convolution twice as long, batch norm makes more passes over the images, and the layers before an activation are
computed again wherever the activation is read. Other devices run the forms here equally fast.

The layers compute in the precision of their images. Parameters and statistics are float32, and sums at least float32.

Most derivatives are written out for reverse mode; forward mode does not work.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tasks import winograd
from tasks._cpu import apart, each_pixel_times

# JAX may pass NumPy arrays to derivative rules, for constants and for the user's cotangents.
AnyArray = Array | np.ndarray

# The number of neighboring rows whose terms are added up as arrays.
_ROWS_ADDED = 8

HE_NORMAL = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nnx.Module):
    """Convolves images with a square kernel, without bias, padded with `size // 2` zeros on each side.

    The weights are `kernel (size, size, inputs, outputs)`, with an odd size, and the stride is in pixels. As in
    torchvision, they start normally distributed with the variance `2 / (size * size * outputs)` (K. He et al., "Delving
    deep into rectifiers", 2015), unless `kernel_init` draws them; the key comes from the `params` stream of `rngs`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        kernel_init: nnx.Initializer = HE_NORMAL,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows cols outputs"]:
        """Convolves images `(B, H, W, inputs)` to `(B, ceil(H / stride), ceil(W / stride), outputs)`."""
        kernel = jnp.asarray(self.kernel[...], x.dtype)
        size, stride = kernel.shape[0], self.stride
        if size == 1:  # A matrix product has a faster kernel gradient.
            return each_pixel_times(x[:, ::stride, ::stride], kernel[0, 0])
        if min(x.shape[1:3]) < size:
            return _convolve_small(x, kernel, stride)
        if stride == 1 and winograd.is_faster(x, kernel):
            return winograd.convolve(x, kernel)
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(size // 2, size // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def _convolve_small(x: Array, kernel: Array, stride: int) -> Array:
    """Computes a padded convolution as a matrix product of all windows, since XLA:CPU would go value by value."""
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    border = (size // 2, size // 2)
    x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return each_pixel_times(jnp.concatenate(shifted, -1), kernel.reshape(-1, kernel.shape[-1]))


# Added to variances, as PyTorch does.
EPSILON = 1e-5


class Mixing(nnx.Variable):
    """Lets a normalizing layer adapt to a batch, see `mix`.

    Before a call, it holds the share of the batch's statistics, and the mean and variance per channel of known images,
    see `mixing_of`. After the call, it holds the moments of each image: its mean and variance per channel, `(2, B, C)`.
    """


def mixing_of(share: Array, mean: Array, var: Array) -> Mixing:
    """Returns the `Mixing` of statistics `(C,)`: the batch gets this share, and known images get the rest."""
    return Mixing(jnp.stack([jnp.full_like(mean, share), mean, var]))


def mix(mixing: Mixing, x: Array, mean: Array, var: Array) -> tuple[Array, Array]:
    """Returns the mean and variance `(C,)` that normalize images `(B, H, W, C)`; stores the moments of each image.

    The statistics of known images are mixed with those of the batch. Images with the mixed statistics are normalized as
    the known images are with the given mean and variance; if these are the known images' statistics, the mixture is
    returned. Variances are unbiased, like running ones. The result is differentiable.
    """
    share, known, known_var = mixing[...]
    values = at_least_float32(x)
    means = values.mean((1, 2))
    variances = jnp.square(values - means[:, None, None]).mean((1, 2))
    mixing.set_value(jnp.stack([means, variances]))
    of_batch = means.mean(0)
    count = x.size // x.shape[-1]
    var_of_batch = (variances.mean(0) + jnp.square(means - of_batch).mean(0)) * count / max(count - 1, 1)
    mixed, mixed_var = known + share * (of_batch - known), known_var + share * (var_of_batch - known_var)
    ratio = (mixed_var + EPSILON) / (known_var + EPSILON)
    return mixed + jnp.sqrt(ratio) * (mean - known), (var + EPSILON) * ratio - EPSILON


class BatchNorm(nnx.BatchNorm):
    """Normalizes over all axes but the last, with PyTorch's defaults and running statistics.

    The batch is normalized by its biased variance; the running variance follows the unbiased one.

    Attributes:
        mixing: If given, the layer normalizes with its statistics mixed with the batch's, see `mix`, and stores the
            moments.
    """

    mixing: Mixing | None = None

    def __init__(self, features: int, *, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(features, momentum=0.9, epsilon=EPSILON, use_scale=affine, use_bias=affine, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch height width features"],
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Float[Array, "batch height width features"]:
        """Normalizes with the running statistics after `eval()`; else with the batch's, and updates the running ones.

        `use_running_average` overrides the choice of `train()` and `eval()`; a mask is not supported.
        """
        if mask is not None:
            raise ValueError(f"batch norm does not support a mask, got one of shape {mask.shape}")
        if use_running_average is None:
            use_running_average = self.use_running_average
        # Image rows are treated as vectors, because XLA:CPU is slow at loops over a short last axis, such as the three
        # colors of an image, and at sums over all other axes.
        features = x.shape[-1]
        rows = x.reshape(-1, x.shape[2] * features)
        scale = jnp.ones(features) if self.scale is None else self.scale[...]
        bias = jnp.zeros(features) if self.bias is None else self.bias[...]
        if self.mixing is not None:
            self.mean[...], self.var[...] = mix(self.mixing, x, self.mean[...], self.var[...])
        if use_running_average or self.mixing is not None:
            gain = scale * jax.lax.rsqrt(self.var[...] + self.epsilon)
            normalized = _scale_and_shift(rows, gain, bias - self.mean[...] * gain)
        else:
            count = x.size // features
            if count == 1:
                raise ValueError(f"batch norm needs more than one value per channel to train, got shape {x.shape}")
            normalized, mean, var = _normalize_by_batch(rows, scale, bias, self.epsilon)
            self._move(self.mean, mean)
            self._move(self.var, var * count / (count - 1))
        return normalized.reshape(x.shape)

    def _move(self, running: nnx.BatchStat, value: Float[Array, " features"]) -> None:
        running[...] = jax.lax.stop_gradient(self.momentum * running[...] + (1 - self.momentum) * value)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Converts values to a precision in which many can be summed."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normalize_primal(rows: AnyArray, scale: AnyArray, bias: AnyArray, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalizes `(rows, width * features)`; mean and biased variance by feature have no gradient."""
    return _normalize_forward(rows, scale, bias, epsilon)[0]


_normalize_by_batch = jax.custom_vjp(_normalize_primal, nondiff_argnums=(3,))


def _normalize_forward(
    rows: AnyArray, scale: AnyArray, bias: AnyArray, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array]]:
    rows, scale, bias = map(jnp.asarray, (rows, scale, bias))
    mean = _mean_by_feature(at_least_float32(rows), scale.size)
    var = _mean_of_terms(_squares, rows, mean)
    inverse = jax.lax.rsqrt(var + epsilon)
    normalized = _scale_and_shift(rows, scale * inverse, bias - mean * scale * inverse)
    return (normalized, mean, var), (rows, scale, mean, inverse)


def _normalize_backward(
    epsilon: float, residuals: tuple[AnyArray, ...], gradients: tuple[AnyArray, ...]
) -> tuple[Array, Array, Array]:
    # For y = scale * z + bias with z = (x - mean) / deviation: dx = scale / deviation * (dy - <dy> - z <dy z>).
    rows, scale, mean, inverse = map(jnp.asarray, residuals)
    gradient = at_least_float32(jnp.asarray(gradients[0]))
    count = rows.size // scale.size
    mean_gradient = _mean_by_feature(gradient, scale.size)
    slope = inverse * _mean_of_terms(_products, rows, mean, gradient)
    gain, pull = scale * inverse, scale * inverse * inverse * slope
    shifted = _scale_and_shift(gradient, gain, mean * pull - gain * mean_gradient)
    return (shifted - rows * _each_pixel(pull, rows)).astype(rows.dtype), count * slope, count * mean_gradient


_normalize_by_batch.defvjp(_normalize_forward, _normalize_backward)


def _scale_and_shift(rows: Array, scale: Array, shift: Array) -> Array:
    return (rows * _each_pixel(scale, rows) + _each_pixel(shift, rows)).astype(rows.dtype)


def _each_pixel(values: Array, rows: Array) -> Array:
    return jnp.tile(values, rows.shape[-1] // values.size)


def _mean_by_feature(rows: Array, features: int) -> Array:
    return rows.mean(0).reshape(-1, features).mean(0)


def _mean_of_terms(terms: Callable[..., Array], rows: Array, mean: Array, *others: Array) -> Array:
    """Computes the mean of `terms(rows, mean, *others)` by feature."""
    # Neighboring rows are added as arrays first, because XLA:CPU would write all terms to memory before summing them.
    together = math.gcd(len(rows), _ROWS_ADDED) if jax.default_backend() == "cpu" else 1
    added = apart(_added, terms, together)(rows, mean, *others)
    return _mean_by_feature(added, mean.size) / together


def _added(terms: Callable[..., Array], together: int, rows: Array, mean: Array, *others: Array) -> Array:
    """Adds up the terms of this many neighboring rows."""
    groups = [each.reshape(-1, together, each.shape[-1]) for each in (rows, *others)]
    each_row = ([group[:, k] for group in groups] for k in range(together))
    return functools.reduce(jnp.add, (terms(first, mean, *rest) for first, *rest in each_row))


def _squares(rows: Array, mean: Array) -> Array:
    return jnp.square(rows - _each_pixel(mean, rows))


def _products(rows: Array, mean: Array, gradient: Array) -> Array:
    return gradient * (rows - _each_pixel(mean, rows))


@jax.custom_vjp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes max(x, 0), with a gradient of 0 at 0."""
    # Not fused with its readers: XLA:CPU would compute a whole block of the network again for the gradient of each
    # kernel, in an order that is slow to write in.
    return apart(_maximum_with_zero)(x)


def _maximum_with_zero(x: Array) -> Array:
    return jax.lax.max(x, jnp.zeros((), x.dtype))


def _relu_forward(x: AnyArray) -> tuple[Array, Array]:
    y = relu(jnp.asarray(x))
    return y, y


def _relu_backward(y: AnyArray, gradient: AnyArray) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """Computes the maximum of each 3x3 window, with stride 2 and padding 1. Forward mode does not work.

    As in PyTorch, the first of several equal maxima, row by row, gets the gradient, and a window with NaN gives NaN.
    Images `(B, H, W, C)` become `(B, ceil(H / 2), ceil(W / 2), C)`.
    """
    return _max_pool(x, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: AnyArray, sides: tuple[int, int]) -> Array:
    return _maxima_and_places(jnp.asarray(x))[0]


def _maxima_and_places(x: Array) -> tuple[Array, Array]:
    """Computes the maxima, and the place of each in its window: 0 to 8, row by row."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, height % 2), (1, width % 2), (0, 0)), constant_values=-jnp.inf)
    columns = [(x[:, :, start : start + width : 2], jnp.int8(start)) for start in range(3)]
    maxima, places = functools.reduce(_first_maximum, columns)
    windows = [np.s_[:, start : start + height : 2] for start in range(3)]
    rows = [(maxima[window], places[window] + jnp.int8(3 * start)) for start, window in enumerate(windows)]
    return functools.reduce(_first_maximum, rows)


def _first_maximum(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    (maximum, place), (other, other_place) = first, second
    is_first = (maximum >= other) | jnp.isnan(maximum)
    return jnp.where(is_first, maximum, other), jnp.where(is_first, place, other_place)


def _max_pool_forward(x: AnyArray, sides: tuple[int, int]) -> tuple[Array, Array]:
    return apart(_maxima_and_places)(jnp.asarray(x))


def _max_pool_backward(sides: tuple[int, int], places: AnyArray, gradient: AnyArray) -> tuple[Array]:
    return (apart(_spread, sides)(jnp.asarray(places), jnp.asarray(gradient)),)


def _spread(sides: tuple[int, int], places: Array, gradient: Array) -> Array:
    """Sums each pixel's gradients over the windows that it belongs to: one or two along each axis."""
    # Pixel 2 * i is the second of window i; pixel 2 * i + 1 is the third of window i and the first of window i + 1.
    batch, rows, cols, channels = gradient.shape
    beyond = ((0, 0), (0, 1), (0, 1), (0, 0))
    places, gradient = jnp.pad(places, beyond, constant_values=-1), jnp.pad(gradient, beyond)
    # Even and odd pixels share one loop, because computing the four kinds separately and interleaving them is slower.
    odd_row, odd_col = (np.arange(2).reshape(shape) for shape in ((2, 1, 1, 1), (2, 1)))
    total = jnp.zeros((), gradient.dtype)
    for down, right in np.ndindex(2, 2):
        window = np.s_[:, down : down + rows, None, right : right + cols, None]
        place = 3 * (odd_row + 1 - 2 * down) + odd_col + 1 - 2 * right
        belongs = (odd_row >= down) & (odd_col >= right)
        total += jnp.where(places[window] == np.where(belongs, place, -2).astype(np.int8), gradient[window], 0)
    return total.reshape(batch, 2 * rows, 2 * cols, channels)[:, : sides[0], : sides[1]]


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
