"""Checks the gradient of a pipeline with finite differences, parameter by parameter."""

import jax
import numpy as np

import isp

pipeline = isp.parametrized(isp.CAMERAS["drone"])
raw = np.random.default_rng(0).uniform(0.2, 0.4, (64, 64)).astype(np.float32)


@jax.jit
def brightness(parameters):
    return pipeline.with_values(parameters)(raw).mean()


start = pipeline.parameters()
gradient = jax.grad(brightness)(start)
for name, value in start.items():
    step = 0.001 * max(abs(value).max(), 1)
    higher, lower = (brightness(start | {name: value + sign * step}) for sign in (1, -1))
    difference = (higher - lower) / (2 * step)
    print(f"{name:20} gradient {gradient[name].sum():8.4f}, finite difference {difference:8.4f}")
    assert np.isclose(gradient[name].sum(), difference, rtol=0.05, atol=0.01)
