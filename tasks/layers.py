"""The layers of the networks. They compute what PyTorch's do, in forms whose gradients XLA makes fast on CPUs too.

Flax's own would differ in two ways. Its batch norm keeps a biased running variance where PyTorch keeps an unbiased one.
And on a CPU the gradients of a max pool and of a 1x1 convolution are about three times and twice as slow as those of
the equal forms here, which suit other devices just as well.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Conv(nnx.Module):
    """A convolution of `(B, H, W, in)` with a square kernel, padded by `size // 2` zeros on each side, without bias.

    The weights, `kernel (size, size, in, out)`, start out normal with variance `2 / (size * size * out)` as in
    torchvision (He et al. 2015, "Delving deep into rectifiers").
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, rngs: nnx.Rngs):
        he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(he_normal(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows cols outputs"]:
        """Convolves; there are `ceil(H / stride)` rows and `ceil(W / stride)` columns."""
        kernel = self.kernel[...]
        size, stride = kernel.shape[0], self.stride
        if size == 1:  # a matrix product, whose gradient for the kernel is faster
            return x[:, ::stride, ::stride] @ kernel[0, 0]
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(size // 2, size // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


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
        width, features = x.shape[2:]
        rows = x.reshape(-1, width * features)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            count = x.size // features
            if count == 1:
                raise ValueError(f"batch norm needs more than one value per channel to train, got shape {x.shape}")
            mean = _mean_by_feature(rows, features)
            var = _mean_by_feature(jnp.square(rows - jnp.tile(mean, width)), features)
            self._move(self.mean, mean)
            self._move(self.var, var * count / (count - 1))
        scale = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            scale *= self.scale[...]
        normalized = (rows - jnp.tile(mean, width)) * jnp.tile(scale, width)
        if self.use_bias:
            normalized += jnp.tile(self.bias[...], width)
        return normalized.reshape(x.shape)

    def _move(self, running: nnx.BatchStat, value: Float[Array, " features"]) -> None:
        running[...] = jax.lax.stop_gradient(self.momentum * running[...] + (1 - self.momentum) * value)


def _mean_by_feature(rows: Float[Array, "rows values"], features: int) -> Float[Array, " features"]:
    return rows.mean(0).reshape(-1, features).mean(0)


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
