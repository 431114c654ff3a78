import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from r2l_jax.runtime import hosts
from r2l_jax.runtime.errors import InputError

# The program that each of two processes runs.
PROGRAM = """
import sys

import jax
import numpy as np

from r2l_jax.runtime import hosts, startup
from r2l_jax.runtime.errors import InputError

startup.prepare()
number = jax.process_index()


def shown(work):
    try:
        print(work())
    except InputError as error:
        print("error:", error)


def fails(error):
    raise error


def fails_alone(process):
    if number == process:
        fails(InputError(f"no data in process {process}"))
    hosts.on_first_process(lambda: None)  # where the other process learns of it


shown(lambda: hosts.on_first_process(lambda: ["of process", number]))
shown(lambda: hosts.on_first_process(lambda: fails(InputError("the disk of \u00e9 is full"))))
shown(lambda: hosts.on_first_process(lambda: fails(OSError(28, "No space left on device", "/a/file"))))
shown(lambda: hosts.on_every_process(lambda: 10 * number) == 10 * number)
shown(lambda: hosts.on_every_process(lambda: fails_alone(0)))
shown(lambda: hosts.on_every_process(lambda: fails_alone(1)))
shown(lambda: hosts.on_every_process(lambda: hosts.on_every_process(lambda: fails_alone(1))))
shown(lambda: [hosts.any_process(number == 1), hosts.any_process(False)])
shown(lambda: hosts.gathered({"a": np.float32([number, 5])})["a"].tolist())
"""

PRINTED = """\
['of process', 0]
error: the disk of \u00e9 is full
error: /a/file: No space left on device
True
error: no data in process 0
error: no data in process 1
error: no data in process 1
[True, False]
[0.0, 5.0, 1.0, 5.0]
"""


def test_a_single_process_works_alone():
    assert hosts.is_first()
    assert hosts.on_first_process(lambda: 5) == hosts.on_every_process(lambda: 5) == 5
    assert hosts.any_process(True)
    assert not hosts.any_process(False)
    np.testing.assert_array_equal(hosts.gathered({"a": np.arange(3)})["a"], np.arange(3))

    def fail():
        raise InputError("no network")

    for together in (hosts.on_first_process, hosts.on_every_process):
        with pytest.raises(InputError, match="no network"):
            together(fail)


def test_processes_share_results_and_errors():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "PYTHONIOENCODING": "utf-8"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **environment, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for number in range(2)
    ]
    for stdout, stderr in [process.communicate(timeout=120) for process in processes]:
        # Gloo prints lines of its own.
        lines = [line for line in stdout.splitlines() if not line.startswith("[Gloo]")]
        assert lines == PRINTED.splitlines(), stderr


@pytest.mark.slow
def test_programs_leave_jax_alone_until_the_hosts_have_met():
    modules = ("adjustment.adaptation", "forensics.attack", "forensics.forensics", "synthesis.evaluation")
    imports = "\n".join(f"import r2l_jax.drift.{module}" for module in modules)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"import jax; jax.distributed.initialize('127.0.0.1:{free.getsockname()[1]}', 1, 0)"
    # Which JAX refuses once it has computed anything.
    subprocess.run([sys.executable, "-c", f"{imports}\n{meet}"], check=True, timeout=120)
