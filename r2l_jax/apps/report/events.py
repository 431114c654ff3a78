"""Numbers over epochs that only the TensorBoard events of a fold hold, such as the parameters of its processing."""

import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboardX.proto import event_pb2

from r2l_jax.runtime.errors import InputError

# Made by protobuf while the module is imported, which type checkers do not see.
_Event, _START = event_pb2.Event, event_pb2.SessionLog.START  # pyright: ignore[reportAttributeAccessIssue]

_PARAMETER, _NORM = "processor/", "processor_gradient_norm/"

# A record of an event file is its length and a checksum of that, the event, and its checksum.
_HEAD, _TAIL = struct.Struct("<QI"), 4

# Longer events are pictures and histograms. They are skipped, which makes reading fast.
_LONGEST = 4096


class Course(NamedTuple):
    """A number over epochs: the epochs, from 0 on, and the values."""

    epochs: list[int]
    values: list[float]


class Recorded(NamedTuple):
    """The numbers that the events of a fold hold beside its metrics.json.

    Attributes:
        parameters: for each parameter of the processing the course of each element, by its place such as (0, 2). Those
            with many elements are not recorded one by one.
        norms: the course of the norm of each parameter's gradient.
    """

    parameters: Mapping[str, Mapping[tuple[int, ...], Course]]
    norms: Mapping[str, Course]


def read_events(folder: pathlib.Path) -> Recorded:
    """Reads the parameters and the norms of their gradients from the TensorBoard events of a fold.

    Args:
        folder: the fold's folder. Without events, nothing is recorded.

    Raises:
        InputError: the events cannot be read.
    """
    parameters: dict[str, dict[tuple[int, ...], Course]] = {}
    norms: dict[str, Course] = {}
    for tag, course in _scalars(folder).items():
        if tag.startswith(_NORM):
            norms[tag.removeprefix(_NORM)] = course
        elif tag.startswith(_PARAMETER):
            name, *place = tag.removeprefix(_PARAMETER).split("/")
            if all(index.isdecimal() for index in place):
                parameters.setdefault(name, {})[tuple(map(int, place))] = course
    return Recorded({name: dict(sorted(each.items())) for name, each in parameters.items()}, norms)


def _scalars(folder: pathlib.Path) -> dict[str, Course]:
    """Reads all scalars by their tags. A run that was continued has a file of events for each of its parts."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.*")):
        try:
            for event in _events(file):
                if event.WhichOneof("what") == "session_log" and event.session_log.status == _START:
                    # The part that begins here supersedes these steps of the part before.
                    found = {
                        tag: {step: value for step, value in values.items() if step < event.step}
                        for tag, values in found.items()
                    }
                for value in event.summary.value:
                    if value.WhichOneof("value") == "simple_value":
                        found.setdefault(value.tag, {})[event.step] = value.simple_value
        except (OSError, DecodeError) as error:
            raise InputError(f"{file} cannot be read ({error}): move it away") from None
    return {
        tag: Course(sorted(values), [values[step] for step in sorted(values)])
        for tag, values in found.items()
        if values
    }


def _events(file: pathlib.Path) -> Iterator[Any]:
    """Yields the short events of a file, up to one that is not complete: a running program may be writing it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            length, _ = _HEAD.unpack(head)
            end = stream.tell() + length + _TAIL
            if end > size:
                return
            if length <= _LONGEST:
                event = _Event()
                event.ParseFromString(stream.read(length))
                yield event
            stream.seek(end)
