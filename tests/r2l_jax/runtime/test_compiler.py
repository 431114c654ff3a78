import jax
import jax.numpy as jnp
import pytest

from r2l_jax.runtime import compiler


def test_unknown_options_are_left_out():
    level = {"xla_backend_optimization_level": 3}
    assert compiler.known({"xla_no_such_option": 1, **level, "xla_nor_such_an_option": ""}) == level


def test_a_wrong_value_is_not_taken_for_an_unknown_option():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiler.known({"xla_backend_optimization_level": "none"})


def test_xla_compiles_with_the_options():
    double = jax.jit(lambda x: 2 * x, compiler_options=compiler.options())
    assert double(jnp.ones(())) == 2
