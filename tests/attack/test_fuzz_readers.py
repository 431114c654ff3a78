"""Damages the files that every reader reads, at random: each must give a clean result or an error of one line.

PYTHONPATH=.:tests/fixtures python tests/attack/test_fuzz_readers.py --mutants=10000 [--readers=TIFF,PNG] [--first=0]

Readers run in a process of their own, whose memory is bounded. A reader has lost a mutant if it gives anything but a
clean result (finite values in their range, the shape that was declared, little memory) or an InputError of one line
that names the file: another exception, a crash, a hang, or a file outside the folder that it may write to. A loss is
repeated by its reader and number: --readers=TIFF --first=1234 --mutants=1.
"""

import argparse
import json
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib

import numpy as np
import pytest
from outcomes import LOST, REFUSED, SURVIVED, Outcomes, show
from readers import READERS

from r2l_jax.runtime.errors import InputError

# A mutant may take this many bytes of memory more than the process has, and this many seconds.
MEMORY, SECONDS = 2**29, 60


# Values at which sizes and offsets overflow or become nothing.
_EDGES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# The first and last bytes of a file mostly decide how it is read.
_ENDS = 400
# Numbers are changed more often than the layout of the file.
_CHANGES = ("bit", *("byte", "number") * 2, "cut", "delete", "repeat", "insert", "clear", "copy")


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
    if change == "bit":
        content[place] ^= 1 << int(rng.integers(8))
    elif change == "byte":
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


def _attack(reader, folder, original, number):
    """Damages a file, reads it, and returns the outcome with a description."""
    rng = np.random.default_rng([number, zlib.crc32(original.encode())])
    path = folder / original
    whole = path.read_bytes()
    path.write_bytes(mutant(whole, rng))
    _peak()
    before, start = _peak(), time.monotonic()
    try:
        reader.read(folder, path)
        outcome, loss = SURVIVED, ""
    except InputError as error:
        outcome, loss = REFUSED, str(error)
        if "\n" in loss or (path.name not in loss and folder.name not in loss) or len(loss) > 2000:
            outcome = LOST
    except BaseException:
        outcome, loss = LOST, traceback.format_exc(limit=-3)
    finally:
        path.write_bytes(whole)
    if (used := _peak() - before) > MEMORY:
        outcome, loss = LOST, f"{used >> 20} MiB; {loss}"
    if (seconds := time.monotonic() - start) > SECONDS / 4:
        outcome, loss = LOST, f"{seconds:.0f} s; {loss}"
    return outcome, f"{original}, mutant {number}: {loss}"


def _child(readers, first, mutants):
    """Attacks readers in this process, and reports each attack before and after it as a line of JSON."""
    warnings.simplefilter("ignore")
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    virtual = 4096 * int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 4 * MEMORY, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as scratch:
        for name in readers:
            reader, folder = READERS[name], pathlib.Path(scratch) / name
            folder.mkdir()
            reader.prepare(folder)
            for number in range(first, first + mutants):
                original = reader.targets[number % len(reader.targets)]
                print(json.dumps([name, number]), flush=True)
                print(json.dumps([name, number, *_attack(reader, folder, original, number)]), flush=True)


def attack(readers, mutants, first=0):
    """Attacks readers with so many mutants each, and returns the outcomes; starts anew after a crash or a hang."""
    outcomes = {name: Outcomes(name) for name in readers}
    for name in readers:
        number = first
        while number < first + mutants:
            number = _attack_until_it_dies(outcomes[name], number, first + mutants)
    return list(outcomes.values())


def _child_process(*arguments, **options):
    """Starts this file as a program, which finds the modules that this process does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


def _attack_until_it_dies(outcomes, number, end):
    """Runs a process until it ends, and returns the number of the next mutant."""
    arguments = [f"--child={outcomes.attacked}", f"--first={number}", f"--mutants={end - number}"]
    with tempfile.TemporaryFile("w+") as errors, _child_process(*arguments, stderr=errors) as child:
        started = number - 1
        alarm = threading.Timer(SECONDS, child.kill)
        for line in child.stdout:
            _, started, *outcome = json.loads(line)
            alarm.cancel()
            if outcome:
                outcomes.add(*outcome)
                number = started + 1
            else:
                alarm = threading.Timer(SECONDS, child.kill)
                alarm.start()
        alarm.cancel()
        child.wait()
        if child.returncode:
            errors.seek(0)
            last = errors.read()[-300:]
            if started < number:
                raise RuntimeError(f"{outcomes.attacked}: the process ended between mutants: {last}")
            outcomes.add(LOST, f"mutant {started}: the process ended with status {child.returncode}: {last}")
            number = started + 1
    return number


def _check_none_lost(outcomes):
    show(outcomes)
    assert not [loss for each in outcomes for loss in each.losses]


@pytest.mark.slow
def test_a_few_mutants_of_each_reader_are_read_or_refused():
    outcomes = {name: Outcomes(name) for name in READERS}
    with _child_process(f"--child={','.join(READERS)}", "--mutants=60") as child:
        for line in child.stdout:
            name, _, *outcome = json.loads(line)
            if outcome:
                outcomes[name].add(*outcome)
    assert child.returncode == 0
    assert {each.counts.total() for each in outcomes.values()} == {60}
    _check_none_lost(outcomes.values())


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_ten_thousand_mutants_are_read_or_refused(reader):
    _check_none_lost(attack([reader], 10_000))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1000, help="how many mutants of each reader's files")
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant")
    parser.add_argument("--readers", default=",".join(READERS), help="the readers, separated by commas")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child.split(","), given.first, given.mutants)
    else:
        results = attack(given.readers.split(","), given.mutants, given.first)
        show(results)
        sys.exit(any(each.losses for each in results))
