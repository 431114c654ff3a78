"""Damages files at random, by a seed."""

import struct

import numpy as np

# Values at which sizes and offsets overflow or become nothing.
_EDGES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Most of what decides how a file is read stands in its first or last bytes.
_ENDS = 400


def mutant(content, rng):
    """Returns a damaged copy of a file's content."""
    content = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        _CHANGES[rng.integers(len(_CHANGES))](content, rng)
    return bytes(content)


def _place(content, rng):
    """Draws a position, half of the time near the beginning or the end."""
    size = len(content)
    if not size:
        return 0
    end = min(_ENDS, size)
    return int(rng.choice([rng.integers(size), rng.integers(size), rng.integers(end), size - 1 - rng.integers(end)]))


def _span(content, rng):
    start = _place(content, rng)
    return slice(start, start + int(2 ** rng.uniform(0, np.log2(len(content) + 2))))


def _flip_bit(content, rng):
    if content:
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _set_byte(content, rng):
    if content:
        content[_place(content, rng)] = int(rng.integers(256))


def _set_number(content, rng):
    kind = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    number = int(rng.choice(_EDGES)) if rng.random() < 0.7 else int(rng.integers(2**32))
    size = struct.calcsize(kind)
    place = _place(content, rng) // 2 * 2
    if place + size <= len(content):
        struct.pack_into(kind, content, place, number % 2 ** (8 * size))


def _cut(content, rng):
    del content[_place(content, rng) :]


def _delete(content, rng):
    del content[_span(content, rng)]


def _repeat(content, rng):
    span = _span(content, rng)
    content[span.start : span.start] = content[span]


def _insert(content, rng):
    place = _place(content, rng)
    content[place:place] = rng.bytes(int(rng.integers(1, 64)))


def _clear(content, rng):
    span = _span(content, rng)
    content[span] = bytes([int(rng.choice([0, 255]))]) * len(content[span])


def _swap(content, rng):
    """Copies one part over another, such as one tag over the next."""
    length = int(rng.choice([2, 4, 12, 64]))
    source, target = _place(content, rng), _place(content, rng)
    part = content[source : source + length]
    content[target : target + len(part)] = part


_CHANGES = (_flip_bit, _set_byte, _set_byte, _set_number, _set_number, _cut, _delete, _repeat, _insert, _clear, _swap)
