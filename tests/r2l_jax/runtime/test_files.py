import threading

import pytest

from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import each_file


@pytest.mark.parametrize(
    "error",
    [
        ValueError("one\ntwo"),
        MemoryError(),
        RecursionError("deep"),
        KeyError("x"),
        OSError("full"),
        InputError("b: bad"),
    ],
)
def test_a_bad_file_never_ends_the_others_whatever_it_raises(capsys, error):
    def work(name):
        if name == "b":
            raise error
        return name

    assert sorted(each_file(work, list("abcdef"))) == list("acdef")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.endswith(f"error: b: {one_line(error).removeprefix('b: ') or type(error).__name__}")


def test_an_interruption_ends_all():
    started = threading.Event()

    def work(name):
        started.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each_file(work, ["a"])


def test_control_characters_are_escaped_in_messages(capsys):
    def work(name):
        raise InputError(f"{name}: no such file")

    each_file(work, ["a\x1b[2J\u202eb"])
    assert r"error: a\x1b[2J\u202eb: no such file" in capsys.readouterr().err
    assert one_line("a\x1b]0;title\x07 \udcff") == r"a\x1b]0;title\x07 \udcff"
