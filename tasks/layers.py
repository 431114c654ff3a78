"""The layers of the networks. They compute what PyTorch's do, in forms whose gradients XLA makes fast on CPUs too.

Flax's own would differ in two ways. Its batch norm keeps a biased running variance where PyTorch keeps an unbiased one.
And on a CPU the gradients of a max pool and of a 1x1 convolution are about three times and twice as slow as those of
the equal forms here, that of batch norm makes more passes over the images, and all that leads to an activation is
computed again wherever it is read. The forms here suit other devices just as well.

The derivatives of `relu` and of batch norm are written out for reverse mode; forward mode does not work.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

HE_NORMAL = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nnx.Module):
    """A convolution of `(B, H, W, in)` with a square kernel, padded by `size // 2` zeros on each side, without bias.

    The weights, `kernel (size, size, in, out)`, start out normal with variance `2 / (size * size * out)` as in
    torchvision (He et al. 2015, "Delving deep into rectifiers"), unless another initializer draws them.
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
        """Convolves; there are `ceil(H / stride)` rows and `ceil(W / stride)` columns."""
        kernel = self.kernel[...]
        size, stride = kernel.shape[0], self.stride
        if size == 1:  # a matrix product, whose gradient for the kernel is faster
            return x[:, ::stride, ::stride] @ kernel[0, 0]
        if min(x.shape[1:3]) < size:
            return _convolve_small(x, kernel, stride)
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(size // 2, size // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def _convolve_small(x, kernel, stride):
    """A padded convolution as a matrix product of all windows.

    XLA:CPU computes that of an image smaller than the kernel, as the last stage of a ResNet has them, value by value:
    2x2 pixels of 512 channels take a hundred times as long as here.
    """
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    border = (size // 2, size // 2)
    x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


class BatchNorm(nnx.BatchNorm):
    """Batch norm over all but the last axis, with PyTorch's defaults and running statistics.

    The batch is normalised by its biased variance; the running variance takes the unbiased one. With `affine` a learned
    scale and bias follow for each channel.
    """

    def __init__(self, features: int, *, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(features, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width features"]) -> Float[Array, "batch height width features"]:
        """Normalises by the running statistics after `eval()`, else by the batch's, which move the running ones.

        Raises:
            ValueError: in training, if there is only one value per channel.
        """
        # Rows of the image as vectors: XLA:CPU is slow at loops over a short last axis, such as the three colours of an
        # image, and at sums over all axes but that.
        features = x.shape[-1]
        rows = x.reshape(-1, x.shape[2] * features)
        scale = self.scale[...] if self.use_scale else jnp.ones(features, x.dtype)
        bias = self.bias[...] if self.use_bias else jnp.zeros(features, x.dtype)
        if self.use_running_average:
            gain = scale * jax.lax.rsqrt(self.var[...] + self.epsilon)
            normalized = _scale_and_shift(rows, gain, bias - self.mean[...] * gain)
        else:
            count = x.size // features
            if count == 1:
                raise ValueError(f"batch norm needs more than one value per channel to train, got shape {x.shape}")
            normalized, mean, var = _normalize(rows, scale, bias, self.epsilon)
            self._move(self.mean, mean)
            self._move(self.var, var * count / (count - 1))
        return normalized.reshape(x.shape)

    def _move(self, running: nnx.BatchStat, value: Float[Array, " features"]) -> None:
        running[...] = jax.lax.stop_gradient(self.momentum * running[...] + (1 - self.momentum) * value)


def _normalize(rows, scale, bias, epsilon):
    """Batch norm of `(rows, width * features)`, and the mean and biased variance of each feature, as constants."""
    normalized, *statistics = _normalize_by_batch(rows, scale, bias, epsilon)
    return normalized, *map(jax.lax.stop_gradient, statistics)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize_by_batch(rows, scale, bias, epsilon):
    return _normalize_forward(rows, scale, bias, epsilon)[0]


def _normalize_forward(rows, scale, bias, epsilon):
    mean = _mean_by_feature(rows, scale.size)
    var = _mean_by_feature(jnp.square(rows - _each_pixel(mean, rows)), scale.size)
    inverse = jax.lax.rsqrt(var + epsilon)
    normalized = _scale_and_shift(rows, scale * inverse, bias - mean * scale * inverse)
    return (normalized, mean, var), (rows, scale, mean, inverse)


def _normalize_backward(epsilon, residuals, gradients):
    # Of y = scale * z + bias with z = (x - mean) / deviation: dx = scale / deviation * (dy - <dy> - z <dy z>).
    rows, scale, mean, inverse = residuals
    gradient, *_ = gradients
    count = rows.size // scale.size
    mean_gradient = _mean_by_feature(gradient, scale.size)
    slope = inverse * _mean_by_feature(gradient * (rows - _each_pixel(mean, rows)), scale.size)
    gain, pull = scale * inverse, scale * inverse * inverse * slope
    rows_gradient = _scale_and_shift(gradient, gain, mean * pull - gain * mean_gradient) - rows * _each_pixel(
        pull, rows
    )
    return rows_gradient, count * slope, count * mean_gradient


_normalize_by_batch.defvjp(_normalize_forward, _normalize_backward)


def _scale_and_shift(rows, scale, shift):
    return rows * _each_pixel(scale, rows) + _each_pixel(shift, rows)


def _each_pixel(values, rows):
    """Values by feature, once for each pixel of a row."""
    return jnp.tile(values, rows.shape[-1] // values.size)


def _mean_by_feature(rows, features):
    return rows.mean(0).reshape(-1, features).mean(0)


@jax.custom_vjp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0). The gradient at 0 is 0."""
    return _positive(x)


def _positive(x):
    if jax.default_backend() != "cpu":
        return _maximum_with_zero(x)
    # Not fused with what reads it: XLA:CPU would compute a whole block of the network again for the gradient of each
    # kernel, in an order that is slow to write in.
    with set_xla_metadata(inlineable="false"):
        return _maximum_with_zero(x)


@jax.jit
def _maximum_with_zero(x):
    return jax.lax.max(x, jnp.zeros((), x.dtype))


def _relu_forward(x):
    y = _positive(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def max_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """The maximum of each 3x3 window, stride 2, padding 1: `(B, H, W, C)` to `(B, ceil(H / 2), ceil(W / 2), C)`.

    Of several equal sites in a window the first, row by row, takes the gradient, and NaN wins, both as in PyTorch.
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, height % 2), (1, width % 2), (0, 0)), constant_values=-jnp.inf)
    x = _first_maximum(_first_maximum(x[:, :, :-2:2], x[:, :, 1:-1:2]), x[:, :, 2::2])
    return _first_maximum(_first_maximum(x[:, :-2:2], x[:, 1:-1:2]), x[:, 2::2])


def _first_maximum(first: Float[Array, "*shape"], second: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Not jnp.maximum, which shares the gradient among equals.
    return jnp.where((first >= second) | jnp.isnan(first), first, second)
