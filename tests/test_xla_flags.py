import pytest
import xla_flags

KNOWN = "--xla_backend_optimization_level=0"


def test_unknown_flags_are_left_out():
    assert xla_flags.known(["--xla_no_such_flag=1", KNOWN, "--xla_nor_such_a_flag"]) == [KNOWN]


def test_a_flag_with_a_wrong_value_is_not_taken_for_an_unknown_one():
    with pytest.raises(RuntimeError, match=r"XLA does not say which of .*=none it knows:\n.*Couldn't interpret value"):
        xla_flags.known(["--xla_backend_optimization_level=none"])
