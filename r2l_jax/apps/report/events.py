"""Numbers over epochs that only the TensorBoard events of a fold hold, such as the parameters of its processing."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import DEFAULT_SIZE_GUIDANCE, SCALARS, EventAccumulator

_PARAMETER, _NORM = "processor/", "processor_gradient_norm/"


class Course(NamedTuple):
    """A number over epochs: the epochs, from 0 on, and the values."""

    epochs: list[int]
    values: list[float]


class Recorded(NamedTuple):
    """The numbers that the events of a fold hold in addition to its metrics.json.

    Attributes:
        parameters: for each parameter of the processing the course of each element, by its place such as (0, 2).
            Elements of large parameters are not recorded one by one.
        norms: the course of the norm of each parameter's gradient.
    """

    parameters: Mapping[str, Mapping[tuple[int, ...], Course]]
    norms: Mapping[str, Course]


def read_events(folder: pathlib.Path) -> Recorded:
    """Reads the parameters and the norms of their gradients from the TensorBoard events of a fold's folder.

    Without events, nothing is recorded; damaged events are read up to the damage.
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
    """Reads all scalars by their tags. A continued run supersedes the epochs that it repeats."""
    # All scalars are kept, and as little as possible of the rest.
    events = EventAccumulator(str(folder), dict.fromkeys(DEFAULT_SIZE_GUIDANCE, 1) | {SCALARS: 0})
    events.Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()[SCALARS]}
    return {tag: Course([each.step for each in found[tag]], [each.value for each in found[tag]]) for tag in found}
