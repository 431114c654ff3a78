import functools

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


def small(first, previous, change):
    return change <= 1e-3


def settled(first, previous, change):
    return jnp.abs(previous - change) <= 0.01 * first


def written_out(state, parameters, steps):
    for _ in range(steps):
        state, _ = step(state, parameters)
    return state


def steps_by_the_rule(stop, state, parameters, max_iterations):
    changes = []
    while len(changes) < max_iterations and not (changes and stop(changes[0], (jnp.inf, *changes)[-2], changes[-1])):
        state, change = step(state, parameters)
        changes.append(change)
    return len(changes)


# The backward pass works in segments of sqrt(n) steps: some cases have whole segments (9 = 3 * 3), others a short one.
CASES = [(small, 5), (small, 50), (settled, 50), *((never, n) for n in (0, 9, 10))]


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


def test_vmap_ends_each_problem_by_its_own_rule():
    starts = jnp.array([[1.0, -2.0], [0.3, 0.4], [30.0, 40.0]])

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def differentiated(start, offset):
        x, count = iterate(step, small, (start, jnp.zeros(())), (MATRIX, offset), 100)
        return jnp.sum(jnp.sin(x)), count

    together = jax.vmap(differentiated, (0, None))(starts, OFFSET)
    alone = [differentiated(start, OFFSET) for start in starts]
    assert len({int(count) for (_, count), _ in alone}) == 3
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5), together, expected)


def test_the_memory_of_a_gradient_grows_with_the_root_of_the_iterations():
    def memory(max_iterations):
        def loss(x):
            return jnp.sum(iterate(lambda x, p: (jnp.sin(p * x), x[0]), never, x, jnp.ones(()), max_iterations))

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones(1000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / jnp.ones(1000).nbytes

    assert memory(10000) < 2 * 100 + 20
