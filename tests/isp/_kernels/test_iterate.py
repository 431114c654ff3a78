import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels.iterate import iterate

MATRIX = jnp.array([[0.6, 0.3], [-0.2, 0.7]])
STATE = (jnp.array([1.0, -2.0]), jnp.zeros(()))
OFFSET = jnp.array([0.1, 0.2])


def step(state, parameters):
    """Applies a nonlinear contraction, and counts its steps."""
    x, count = state
    matrix, offset = parameters
    moved = jnp.tanh(matrix @ x) + offset
    return (moved, count + 1), jnp.linalg.norm(moved - x)


def never(first, previous, change):
    return jnp.zeros((), bool)


def at_once(first, previous, change):
    return jnp.ones((), bool)


def small(first, previous, change):
    return change <= 1e-3


def settled(first, previous, change):
    return jnp.abs(previous - change) <= 0.01 * first


def written_out(state, parameters, steps):
    for _ in range(steps):
        state, _ = step(state, parameters)
    return state


def steps_by_the_rule(stop, state, parameters, max_iterations):
    first, previous, count = None, np.inf, 0
    while count < max_iterations:
        state, change = step(state, parameters)
        count += 1
        first = change if first is None else first
        if stop(first, previous, change):
            break
        previous = change
    return count


# The backward pass works in segments of sqrt(n) steps: some cases have whole segments (9 = 3 * 3), others a short one.
CASES = [(small, 5), (small, 50), (settled, 50), *((never, n) for n in (0, 9, 10)), (at_once, 20)]


@pytest.mark.parametrize(("stop", "max_iterations"), CASES)
def test_steps_and_gradients_equal_those_of_the_written_out_loop(stop, max_iterations):
    with jax.enable_x64(True):
        state, parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (STATE, (MATRIX, OFFSET)))
        steps = steps_by_the_rule(stop, state, parameters, max_iterations)

        def loss(run):
            return jax.value_and_grad(lambda *arguments: jnp.sum(jnp.sin(run(*arguments)[0])), (0, 1))

        (x, count), value, gradients = jax.jit(
            lambda *arguments: (
                iterate(step, stop, *arguments, max_iterations),
                *loss(lambda *arguments: iterate(step, stop, *arguments, max_iterations))(*arguments),
            )
        )(state, parameters)
        assert count == steps
        expected = jax.jit(loss(lambda *arguments: written_out(*arguments, steps)))(state, parameters)
        np.testing.assert_allclose(x, written_out(state, parameters, steps)[0], rtol=1e-14)
        jax.tree.map(
            lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-12, atol=1e-300), (value, gradients), expected
        )


def test_the_memory_of_a_gradient_grows_with_the_root_of_the_iterations():
    def memory(max_iterations):
        def loss(x):
            return jnp.sum(iterate(lambda x, p: (jnp.sin(p * x), x[0]), never, x, jnp.ones(()), max_iterations))

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(1000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / jnp.ones(1000).nbytes

    assert memory(10000) < 2 * 100 + 20
