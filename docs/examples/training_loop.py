"""Learns a camera's white balance from pictures and their raw images, in a plain JAX training loop."""

import jax
import jax.numpy as jnp

import isp

camera = isp.CAMERAS["drone"]
pictures = jax.image.resize(jax.random.uniform(jax.random.key(0), (8, 4, 4, 3)), (8, 32, 32, 3), "linear")
raws = isp.unprocess(pictures, camera)


def loss(gains):
    mosaic = isp.cfa.subtract_black_level(raws, jnp.array(camera.black_level), pattern=camera.pattern)
    rgb = isp.color.white_balance(isp.demosaic.malvar2004(mosaic, camera.pattern, border="mirror"), gains)
    rgb = isp.color.color_correct(rgb, jnp.array(camera.color_matrix))
    return jnp.mean((isp.color.gamma_correct(jnp.clip(rgb, 1e-3, 1), 2.2) - pictures) ** 2)


gains, loss_and_slope = jnp.ones(3), jax.jit(jax.value_and_grad(loss))
for _ in range(300):
    error, slope = loss_and_slope(gains)
    gains -= 5 * slope
print(f"learned gains {gains.round(2)} with a loss of {error:.5f}; true gains {camera.white_balance}")
