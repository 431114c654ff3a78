"""Adds a custom stage to a pipeline, and learns its parameter, the amount of haze to remove."""

import jax
import jax.numpy as jnp

import isp


@isp.local(0)
def dehaze(rgb, haze):
    """Subtracts an even haze and keeps white at 1."""
    return (rgb - haze) / (1 - haze)


camera = isp.CAMERAS["drone"]
stage = isp.Stage("dehaze", dehaze, {"haze": isp.Parameter(0.0, width=0.1, low=0, high=0.9, unit="level")})
pipeline = isp.parametrized(camera).inserted(stage, after="color_correct")
scene = jax.random.uniform(jax.random.key(0), (64, 64, 3), minval=0.4, maxval=0.9)
clear = isp.parametrized(camera)(isp.unprocess(scene, camera))
hazy = isp.unprocess((0.7 * scene**2.2 + 0.3) ** (1 / 2.2), camera)

haze, slope = 0.0, jax.jit(jax.grad(lambda haze: jnp.mean((pipeline.with_values({"haze": haze})(hazy) - clear) ** 2)))
for _ in range(200):
    haze -= 0.5 * slope(haze)
print(f"stages: {', '.join(pipeline.stage_names)}; learned haze {haze:.2f}, true haze 0.30")
