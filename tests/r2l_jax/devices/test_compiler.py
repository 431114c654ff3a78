from r2l_jax.devices import compiler


def test_unknown_options_are_left_out():
    level = {"xla_backend_optimization_level": 3}
    assert compiler.known({"xla_no_such_option": 1, **level, "xla_nor_such_an_option": ""}) == level
