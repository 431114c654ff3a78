import socket

import pytest
from programs import call

pytest.importorskip("nicegui")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir=data"], "--data_dir changes nothing without --run"),
        (["--port=70000"], "--port must be from 0 to 65535, got 70000"),
        (["--max_upload=0"], "--max_upload must be positive, got 0"),
        (["--input=none.dng"], "none.dng: no such file"),
        (["--camera=none"], "--camera must be drone, microscopy, auto or a JSON file, got 'none'"),
        (["--pipeline=none"], "no pipeline is called 'none'"),
        (["--run=none"], "--run=none is no run's folder with a fold_0: not found"),
        (["--host=no.such.host.invalid"], "cannot listen on --host=no.such.host.invalid --port=8080: "),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    done = call("lab.py", *flags)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("lab.py", f"--port={port}")
    assert done.returncode == 1
    assert f"cannot listen on --host=127.0.0.1 --port={port}: Address already in use" in done.stderr
