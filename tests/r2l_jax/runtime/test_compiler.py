import jax
import jax.numpy as jnp

from r2l_jax.runtime import compiler


def test_unknown_options_are_left_out():
    level = {"xla_backend_optimization_level": 3}
    assert compiler.known({"xla_no_such_option": 1, **level, "xla_nor_such_an_option": ""}) == level


def test_xla_compiles_with_the_options():
    double = jax.jit(lambda x: 2 * x, compiler_options=compiler.options())
    assert double(jnp.ones(())) == 2
