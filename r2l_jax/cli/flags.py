"""The flags of a program, derived from the dataclasses that hold its settings.

A program's settings are a frozen dataclass, or a tree of them. Each field is made by `setting`, which holds its
default, its help and its bounds in one place; its annotation determines the kind of flag. `define` makes the flags,
`build` makes the dataclass from their values, and `flat` returns the values, as results record them.
"""

import dataclasses
import difflib
import functools
import gc
import math
import operator
import os
import pathlib
import shlex
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from absl import app, flags, logging

from r2l_jax.cli.commands import as_started
from r2l_jax.errors import InputError

Config = TypeVar("Config")


POSITIVE = msgspec.Meta(gt=0)
NOT_NEGATIVE = msgspec.Meta(ge=0)
FRACTION = msgspec.Meta(gt=0, lt=1)
SEED = msgspec.Meta(ge=0, lt=2**32)
_INT32 = msgspec.Meta(ge=-(2**31), lt=2**31)

# The limits of a `msgspec.Meta`, and how messages say them.
_LIMITS = {
    "gt": (operator.gt, "above"),
    "ge": (operator.ge, "at least"),
    "lt": (operator.lt, "below"),
    "le": (operator.le, "at most"),
}

_SETTING = "setting"


class Declared(NamedTuple):
    """The flag of a field of a settings dataclass.

    Attributes:
        each: the valid elements of a list of texts.
        bound: the valid numbers, of each element if the field is a tuple.
        kind: "repeated" for a tuple whose flag may be given several times, each time with a list; "states" for one that
            may also be given a camera state, such as `exposure=-1,defocus=0.5`, which stays whole; "value" for a
            boolean that takes its value as a separate argument, as in `--log_model False`.
        switches: for a list of texts, boolean flags of the published program, each with the element that it adds.
            `--help` does not list them.
        rare: whether the flag is listed only by `--helpfull`.
        needs: the conditions, separated by spaces, without which this flag has no effect: "run" requires a flag,
            "sensor|exposures" one of two flags, "against=sensor|corruptions" a flag with (or a list that contains) one
            of two values, and "!check" excludes a flag.
    """

    help: str
    choices: Sequence[str] = ()
    each: Sequence[str] = ()
    bound: msgspec.Meta | None = None
    kind: str = ""
    switches: Mapping[str, str] = types.MappingProxyType({})
    rare: bool = False
    needs: str = ""


def setting(help: str, default: Any = dataclasses.MISSING, **declared: Any) -> Any:
    """Makes a field of a settings dataclass; without a default, its flag is required. See `Declared`."""
    return dataclasses.field(default=default, metadata={_SETTING: Declared(help, **declared)})


def with_defaults(settings: type[Config], defaults: Mapping[str, Any]) -> type[Config]:
    """Makes a base class of settings that differ from others only in their defaults."""
    fields = [
        (field.name, field.type, dataclasses.field(default=defaults[field.name], metadata=field.metadata))
        for field in dataclasses.fields(typing.cast(Any, settings))
        if field.name in defaults
    ]
    options: Any = {"bases": (settings,), "frozen": True, "kw_only": True, "namespace": {"__doc__": settings.__doc__}}
    return dataclasses.make_dataclass(settings.__name__, fields, **options)


class Settings:
    """The base of settings dataclasses, which checks choices and bounds; whole numbers but seeds are of 32 bits."""

    def __post_init__(self):
        for field in dataclasses.fields(typing.cast(Any, self)):
            value, declared = getattr(self, field.name), field.metadata.get(_SETTING)
            if declared is None or value is None:
                continue
            valid, bound = declared.choices or declared.each, declared.bound
            for one in value if isinstance(value, tuple) else (value,):
                if valid and one not in valid:
                    # Only a list with no items by default may be none.
                    none = ["none"] if declared.each and not field.default else []
                    known = ", ".join([*map(_text, valid), *none])
                    raise InputError(f"`{field.name}` must be one of {known}, got {one!r}")
                of_type = _INT32 if type(one) is int and bound is not SEED else None
                for each in (bound, of_type):
                    if each is not None:
                        _check(field.name, one, each)


def _check(name: str, value: float | int, bound: msgspec.Meta) -> None:
    limits = {kind: getattr(bound, kind) for kind in _LIMITS if getattr(bound, kind) is not None}
    if not math.isfinite(value) or not all(_LIMITS[kind][0](value, limit) for kind, limit in limits.items()):
        words = " and ".join(f"{_LIMITS[kind][1]} {limit}" for kind, limit in limits.items())
        raise InputError(f"`{name}` must be {words}, got {value}")


class _Leaf(NamedTuple):
    """A field that is a flag: the dataclass that declares and groups it, its name, kind, default and declaration."""

    group: type
    name: str
    type: Any
    default: Any
    declared: Declared

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.type) is tuple


def leaves(settings: type) -> Iterator[_Leaf]:
    """Yields the flags of a settings dataclass and of those within it, in order."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from leaves(typing.cast(type, kind))
            continue
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            # In a union of a value and a list, the list decides.
            *_, kind = (each for each in typing.get_args(kind) if each is not types.NoneType)
        group = next(each for each in settings.__mro__ if field.name in vars(each).get("__annotations__", {}))
        yield _Leaf(group, field.name, kind, field.default, field.metadata[_SETTING])


_MAKERS: dict[type, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}


def define(settings: type, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each setting."""
    for leaf in leaves(settings):
        declared, default = leaf.declared, None if leaf.is_required else leaf.default
        options: dict[str, Any] = {"help": declared.help, "flag_values": values}
        if leaf.is_list:
            texts = [_text(value) for value in (default if isinstance(default, tuple) else (default,))]
            make = flags.DEFINE_multi_string if declared.kind else flags.DEFINE_list
            make(leaf.name, None if default is None else texts, **options)
        elif declared.choices:
            flags.DEFINE_enum(leaf.name, default, list(declared.choices), **options)
        elif declared.kind == "value":
            flags.DEFINE(flags.BooleanParser(), leaf.name, default, serializer=flags.ArgumentSerializer(), **options)
        else:
            # A text may have a number as its default.
            text = leaf.type is str and default is not None
            _MAKERS[leaf.type](leaf.name, _text(default) if text else default, **options)
        for name, element in declared.switches.items():
            flags.DEFINE_boolean(name, None, f"--{leaf.name}={element}", flag_values=values)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read(settings: type[Any], values: flags.FlagValues = flags.FLAGS) -> Any:
    """Makes settings from parsed flags. A flag without effect raises an InputError unless its value is falsy."""
    config = build(settings, {leaf.name: _value(leaf, values) for leaf in leaves(settings)})
    _check_needs(config, {leaf.name for leaf in leaves(settings) if values[leaf.name].present})
    return config


def called(settings: type[Config], given: Mapping[str, Any]) -> Config:
    """Makes settings from the arguments of a Python call, which may be paths, and single values in place of tuples.

    Raises an InputError for an argument without effect, and a TypeError for an unknown name.
    """
    known = {leaf.name: leaf for leaf in leaves(settings)}
    for name in given.keys() - known.keys():
        close = difflib.get_close_matches(name, known, 1)
        raise TypeError(f"unexpected argument `{name}`" + (f"; did you mean `{close[0]}`?" if close else ""))
    config = build(settings, {name: _argument(known[name], value) for name, value in given.items()})
    _check_needs(typing.cast(Settings, config), set(given))
    return config


def _argument(leaf: _Leaf, value: Any) -> Any:
    """Converts an argument of a Python call to the type of its setting."""
    # NumPy's scalars and arrays.
    value = value.tolist() if type(value).__module__ == "numpy" else value
    if not leaf.is_list or value is None:
        return str(value) if leaf.type is str and isinstance(value, os.PathLike | int | float) else value
    # A text is one value or a list, as in a flag; a camera state stays whole.
    single = isinstance(value, str | os.PathLike | int | float | Mapping) or dataclasses.is_dataclass(value)
    each: list[Any] = [value] if single else list(typing.cast(Any, value))
    if isinstance(value, str) and not (leaf.declared.kind == "states" and "=" in value):
        each = value.split(",")
    if (kind := typing.get_args(leaf.type)[0]) is str:
        texts = [_state(one) if isinstance(one, Mapping) else _text(one) for one in each]
        return [] if texts == ["none"] and leaf.declared.each else texts
    return _numbers(leaf.name, kind, each) if isinstance(value, str) else each


def _state(amounts: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={_text(amount)}" for name, amount in amounts.items())


def _numbers(name: str, kind: type, texts: Sequence[str]) -> tuple[Any, ...]:
    try:
        return tuple(map(kind, texts))
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(f"`{name}` must be {wanted}, separated by commas, got {','.join(texts)}") from None


def _check_needs(config: Settings, given: Collection[str]) -> None:
    """Raises an InputError for a given setting that has no effect, unless its value is falsy."""
    used = flat(config)
    for leaf in leaves(type(config)):
        for need in leaf.declared.needs.split() if leaf.name in given and used[leaf.name] else ():
            if not _is_met(need, used):
                where, need = ("with", need[1:]) if need.startswith("!") else ("without", need)
                wanted = " or ".join(f"`{each}`" for each in ([need] if "=" in need else need.split("|")))
                raise InputError(f"`{leaf.name}` has no effect {where} {wanted}")


def _is_met(need: str, used: Mapping[str, Any]) -> bool:
    names, _, wanted = need.removeprefix("!").partition("=")
    values = [used[name] for name in names.split("|")]
    if wanted:
        several = [value if isinstance(value, tuple) else (value,) for value in values]
        values = [set(wanted.split("|")).intersection(map(str, each)) for each in several]
    return any(values) != need.startswith("!")


def _value(leaf: _Leaf, values: flags.FlagValues) -> Any:
    value, declared = values[leaf.name].value, leaf.declared
    if value is None and leaf.is_required:
        raise InputError(f"`{leaf.name}` is required: {declared.help}")
    if not leaf.is_list or value is None:
        return value
    if declared.kind:
        lists = [[each] if "=" in each and declared.kind == "states" else each.split(",") for each in value]
        value = [one for each in lists for one in each]
    value = [] if value == ["none"] and declared.each else value
    switched = {element: values[name].value for name, element in declared.switches.items()}
    value = [one for one in value if switched.get(one) is not False]
    value += [element for element, is_on in switched.items() if is_on and element not in value]
    return _numbers(leaf.name, typing.get_args(leaf.type)[0], value)


def build(settings: type[Config], values: Mapping[str, Any] = types.MappingProxyType({}), **named: Any) -> Config:
    """Makes settings from values by flag name; `named` overrides `values`, and the rest have their defaults.

    Raises a TypeError for an unknown name, or if a required one is missing.
    """
    values = {**values, **named}
    if unknown := values.keys() - {leaf.name for leaf in leaves(settings)}:
        raise TypeError(f"{settings.__name__} has no settings {', '.join(sorted(unknown))}")
    return _build(settings, values)


def _build(settings: type[Config], values: Mapping[str, Any]) -> Config:
    arguments = {}
    for name, kind in typing.get_type_hints(settings).items():
        if dataclasses.is_dataclass(kind):
            arguments[name] = _build(typing.cast(type, kind), values)
        elif name in values:
            try:
                # In JSON, tuples are lists.
                arguments[name] = msgspec.convert(values[name], kind)
            except msgspec.ValidationError as error:
                raise InputError(f"`{name}`: {str(error).replace('`', '').lower()}, {values[name]!r:.80}") from None
    return settings(**arguments)


def flat(config: Settings) -> dict[str, Any]:
    """Returns the values of settings by the names of their flags."""
    values = {}
    for field in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, field.name)
        values |= flat(value) if isinstance(value, Settings) else {field.name: value}
    return values


def changed(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that differ from the defaults; they may come from JSON, where tuples are lists."""
    known = {leaf.name: leaf for leaf in leaves(settings)}
    each = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return {
        name: value
        for name, value in each.items()
        if value is not None and not (name in known and value == known[name].default)
    }


def arguments(settings: type, values: Mapping[str, Any]) -> list[str]:
    """Returns a program's arguments, quoted, for the flags that differ from their defaults, see `changed`."""
    known, found = {leaf.name: leaf for leaf in leaves(settings)}, []
    for name, value in changed(settings, values).items():
        if isinstance(value, bool) and not (name in known and known[name].declared.kind):
            found.append(f"--{'' if value else 'no'}{name}")
        else:
            texts = [*map(str, value)] if isinstance(value, tuple) else [str(value)]
            is_whole = name in known and known[name].declared.kind == "states" and any("=" in each for each in texts)
            texts = texts if is_whole or texts == [""] else [",".join(texts) or "none"]
            found += [shlex.quote(f"--{name}={text}") for text in texts]
    return found


def replace(config: Config, **changes: Any) -> Config:
    """Returns settings with other values, by the names of their flags."""
    return build(type(config), flat(typing.cast(Settings, config)), **changes)


def settings_of(main: types.FunctionType) -> type[Any]:
    """Returns the settings that a program's `main(config)` takes."""
    return typing.get_type_hints(main)["config"]


def run(main: types.FunctionType, any_thread: bool = False) -> None:
    """Runs an absl program: parses its flags, and exits with the status that `main(config)` returns.

    The docstring of main's module heads `--help`. `any_thread` says whether threads besides the main one use JAX.
    """
    settings = settings_of(main)
    # At absl's default level, Orbax and Grain report every step, and print errors with a traceback besides raising
    # them.
    logging.set_verbosity(logging.FATAL)
    # Some versions of XLA report an error for each compiled function that they read from the cache, though they use it.
    # XLA raises its other errors besides reporting them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Imports and JAX's tracing make many objects; with Python's default of 700, training starts 0.4 s later.
    gc.set_threshold(20_000)
    define(settings)

    def start(argv: Sequence[str]) -> int:
        # Imported here, because importing JAX would delay --help and errors about flags by half a second.
        from r2l_jax.cli.startup import prepare

        prepare(any_thread)
        return main(read(settings)) or 0

    title = as_started(main.__globals__["__doc__"] or "")
    app.run(start, flags_parser=functools.partial(parse, settings, title))


def parse(settings: type, title: str, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> Sequence[str]:
    """Parses flags and returns the program's path. Exits after `--help` or `--helpfull`, or on a wrong flag."""
    full = "--helpfull" in argv[1:]
    if full or not {"--help", "-help", "-h", "--helpshort"}.isdisjoint(argv[1:]):
        print(help_text(settings, title, full))
        sys.exit(0)
    try:
        if not (stray := list(values(argv)[1:])):
            return argv[:1]
        reason = f"unexpected arguments {stray}; options have the form --name=value; quote values with spaces"
    except flags.Error as error:
        reason = " ".join(str(error).split())
    sys.exit(f"{pathlib.Path(argv[0]).name}: error: {reason}")


def help_text(settings: type, title: str, full: bool = False) -> str:
    """Returns the text of `--help`: a title, and the flags, grouped by dataclass; `full` includes rare ones."""
    groups: dict[str, list[str]] = {}
    known = list(leaves(settings))
    shown = [leaf for leaf in known if full or not leaf.declared.rare]
    width = min(shutil.get_terminal_size().columns, 100)
    wrapper = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent=6 * " ", break_on_hyphens=False)
    wrapper.break_long_words = False
    for leaf in shown:
        heading = (leaf.group.__doc__ or "").strip().splitlines()[0].removesuffix(".")
        no = "[no]" if leaf.type is bool and leaf.declared.kind != "value" else ""
        groups.setdefault(heading, []).append(wrapper.fill(f"--{no}{leaf.name}: {_help(leaf)}"))
    sections = [f"{heading}:\n" + "\n".join(entries) for heading, entries in groups.items()]
    more = "--flagfile=<file> reads flags from a file, one per line."
    more += f" --helpfull lists {len(known) - len(shown)} more flags." if len(shown) < len(known) else ""
    return "\n\n".join([title.strip(), *sections, more])


def _help(leaf: _Leaf) -> str:
    choices = f"<{'|'.join(leaf.declared.choices)}>: " if leaf.declared.choices else ""
    default = leaf.default if isinstance(leaf.default, tuple) else (leaf.default,)
    if leaf.is_required:
        ending = " (required)"
    elif default in ((None,), ()):
        ending = ""
    else:
        texts = [str(each).lower() if isinstance(each, bool) else _text(each) for each in default]
        ending = f" (default: {', '.join(texts)})"
    return choices + leaf.declared.help + ending
