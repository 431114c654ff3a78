"""Damages the files that every reader reads, at random: each must give a clean result or an error of one line.

`R2L_MUTANTS=10000 pytest -m slow tests/attack/test_fuzz_readers.py` damages more files.

Each reader runs in a process of its own, whose memory is bounded. It has lost a mutant if it gives anything but a clean
result (finite values in their range, the shape that was declared, little memory) or an InputError of one line that
names the file: another exception, a crash, a hang, or a file outside the folder that it may write to. A loss is
repeated by its reader and number: PYTHONPATH=.:tests/fixtures python tests/attack/test_fuzz_readers.py TIFF 1234 1
"""

import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib

import numpy as np
import pytest
from readers import READERS

from r2l_jax.errors import InputError

MUTANTS = os.environ.get("R2L_MUTANTS", "300")

# A mutant may take this many bytes of memory more than the process has, and this many seconds.
MEMORY, SECONDS = 2**29, 15

# Values at which sizes and offsets overflow or become nothing.
_EDGES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# The first and last bytes of a file mostly decide how it is read.
_ENDS = 400
# Numbers are changed more often than the layout of the file.
_CHANGES = (*("byte", "number") * 2, "cut", "delete", "repeat", "insert", "clear", "copy")


def mutant(content, rng):
    """Returns a damaged copy of a file's content."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if content:
            _change(content, rng.choice(_CHANGES), _place(len(content), rng), rng)
    return bytes(content)


def _place(size, rng):
    """Draws a position, half of the time near the beginning or the end."""
    end = min(_ENDS, size)
    return int(rng.choice([rng.integers(size), rng.integers(size), rng.integers(end), size - 1 - rng.integers(end)]))


def _change(content, change, place, rng):
    span = slice(place, place + int(2 ** rng.uniform(0, np.log2(len(content) + 2))))
    if change == "byte":
        content[place] = int(rng.integers(256))
    elif change == "number":
        _set_number(content, place // 2 * 2, rng)
    elif change == "cut":
        del content[place:]
    elif change == "delete":
        del content[span]
    elif change == "repeat":
        content[place:place] = content[span]
    elif change == "insert":
        content[place:place] = rng.bytes(int(rng.integers(1, 64)))
    elif change == "clear":
        content[span] = bytes([rng.choice([0, 255])]) * len(content[span])
    elif change == "copy":  # One part over another, such as one tag over the next.
        part = content[place : place + int(rng.choice([2, 4, 12, 64]))]
        target = _place(len(content), rng)
        content[target : target + len(part)] = part


def _set_number(content, place, rng):
    kind = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    number = int(rng.choice(_EDGES)) if rng.random() < 0.7 else int(rng.integers(2**32))
    size = struct.calcsize(kind)
    if place + size <= len(content):
        struct.pack_into(kind, content, place, number % 2 ** (8 * size))


def _peak():
    """Returns the greatest resident size of this process since the last call."""
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _attack(read, folder, original, number):
    """Damages a file and reads it; returns how it was lost, or None after a clean result or a refusal."""
    rng = np.random.default_rng([number, zlib.crc32(original.encode())])
    path = folder / original
    whole, loss = path.read_bytes(), None
    path.write_bytes(mutant(whole, rng))
    _peak()
    before, start = _peak(), time.monotonic()
    try:
        read(folder, path)
    except InputError as error:
        message = str(error)
        if "\n" in message or (path.name not in message and folder.name not in message) or len(message) > 2000:
            loss = message
    except BaseException:
        loss = traceback.format_exc(limit=-3)
    finally:
        path.write_bytes(whole)
    if (used := _peak() - before) > MEMORY:
        loss = f"{used >> 20} MiB; {loss}"
    if (seconds := time.monotonic() - start) > SECONDS:
        loss = f"{seconds:.0f} s; {loss}"
    return loss and f"{original}, mutant {number}: {loss}"


def _attack_all(name, first, mutants):
    """Attacks a reader in this process; prints each attack before it, and each loss."""
    warnings.simplefilter("ignore")
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    virtual = 4096 * int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 4 * MEMORY, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as scratch:
        (read, originals), folder = READERS[name], pathlib.Path(scratch) / name
        folder.mkdir()
        for original, content in originals.items():
            (folder / original).write_bytes(content)
        for number in range(first, first + mutants):
            print(f"{name}, mutant {number}", file=sys.stderr)
            if loss := _attack(read, folder, list(originals)[number % len(originals)], number):
                print(f"{name}: {loss}", flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_mutants_are_read_or_refused(reader):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, reader, "0", MUTANTS]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600 + int(MUTANTS))
    # The end of stderr names the mutant that ended the process.
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr[-300:]


if __name__ == "__main__":
    _attack_all(sys.argv[1], *map(int, sys.argv[2:]))
