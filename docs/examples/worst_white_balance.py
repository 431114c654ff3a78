"""Trains a tiny model, and finds the white balance, within 20% of the camera's, that harms it most."""

import jax
import jax.numpy as jnp

import isp

camera = isp.CAMERAS["drone"]
is_red = jnp.arange(64) % 2
colors = jnp.where(is_red[:, None], jnp.array([0.6, 0.45, 0.35]), 0.45)
raws = isp.unprocess(colors[:, None, None] + 0.1 * jax.random.normal(jax.random.key(0), (64, 16, 16, 3)), camera)


def loss(weights, offsets):
    gains = jnp.array(camera.white_balance) * jnp.exp(offsets)
    means = isp.parametrized(camera).with_values({"white_balance": gains})(raws).mean((1, 2))
    return jnp.logaddexp(0, (1 - 2 * is_red) * (means @ weights[:3] + weights[3])).mean()


weights, offsets, gradient = jnp.zeros(4), jnp.zeros(3), jax.jit(jax.grad(loss, argnums=(0, 1)))
for _ in range(300):
    weights -= 5 * gradient(weights, offsets)[0]
for _ in range(20):
    offsets = jnp.clip(offsets + 0.02 * jnp.sign(gradient(weights, offsets)[1]), -0.2, 0.2)
print(f"loss {loss(weights, jnp.zeros(3)):.3f}; {loss(weights, offsets):.3f} with gains times {jnp.exp(offsets)}")
