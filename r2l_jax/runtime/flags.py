"""The flags of a program, derived from the dataclasses that hold its settings.

A program's settings are a frozen dataclass, or a tree of them. Each field is made by `setting`, which holds its
default, its help and its bounds in one place; its annotation decides the kind of flag. `define` makes the flags,
`build` makes the dataclass from their values, and `flat` gives the values back, as results record them.
"""

import dataclasses
import difflib
import functools
import gc
import math
import pathlib
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from absl import app, flags, logging

from r2l_jax.runtime.commands import as_started
from r2l_jax.runtime.errors import InputError

Config = TypeVar("Config")


class Bound(NamedTuple):
    """The valid values of a number.

    Attributes:
        holds: tells whether a value is valid.
        words: completes the message "--flag must ...".
    """

    holds: Callable[[float], bool]
    words: str


POSITIVE = Bound(lambda value: 0 < value < math.inf, "be positive")
NOT_NEGATIVE = Bound(lambda value: 0 <= value < math.inf, "not be negative")
FRACTION = Bound(lambda value: 0 < value < 1, "be between 0 and 1")

_SETTING = "setting"


class _Setting(NamedTuple):
    help: str
    choices: tuple[str, ...] | None
    each: tuple[str, ...] | None
    bound: Bound | None
    kind: str
    ignores_case: bool
    switches: Mapping[str, str]
    rare: bool


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: Sequence[str] | None = None,
    each: Sequence[str] | None = None,
    bound: Bound | None = None,
    kind: str = "",
    ignores_case: bool = False,
    switches: Mapping[str, str] = types.MappingProxyType({}),
    rare: bool = False,
) -> Any:
    """Makes a field of a settings dataclass.

    Args:
        help: the flag's text in `--help`.
        default: the value without the flag; a field without a default is a required flag.
        choices: the valid values of a text.
        each: the valid elements of a list of texts.
        bound: the valid numbers, of each element if the field is a tuple.
        kind: "repeated" for a tuple whose flag may be given several times, each time with a list; "value" for a boolean
            that takes its value as an argument of its own, as in `--log_model False`.
        ignores_case: whether upper and lower case of a choice are the same.
        switches: for a list of texts, boolean flags of the published program, each with the element that it adds. They
            are not listed by `--help`.
        rare: whether only `--helpfull` lists the flag.
    """
    one_of, all_of = (None if values is None else tuple(values) for values in (choices, each))
    declared = _Setting(help, one_of, all_of, bound, kind, ignores_case, switches, rare)
    return dataclasses.field(default=default, metadata={_SETTING: declared})


def redeclared(settings: type, name: str, default: Any, added: str = "") -> Any:
    """Makes a field like one of another settings dataclass, with another default and words added to its help."""
    (field,) = [field for field in dataclasses.fields(settings) if field.name == name]
    declared: _Setting = field.metadata[_SETTING]
    words = declared.help.split("; default: ")[0] + added
    return dataclasses.field(default=default, metadata={_SETTING: declared._replace(help=words)})


class Settings:
    """The base of settings dataclasses: checks choices and bounds.

    Raises:
        InputError: a value that is not one of the choices, or out of bounds.
    """

    def __post_init__(self):
        for field in dataclasses.fields(typing.cast(Any, self)):
            value = getattr(self, field.name)
            if _SETTING in field.metadata and value is not None:
                _check(field.name, value, field.metadata[_SETTING])

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values of the fields, with those added that follow from others. `build` calls this."""
        return values


def _check(name: str, value: Any, declared: _Setting) -> None:
    if declared.choices is not None and value not in declared.choices:
        raise InputError(f"--{name} must be one of {', '.join(declared.choices)}, got {value!r}")
    values = value if isinstance(value, tuple) else (value,)
    for one in values:
        if declared.each is not None and one not in declared.each:
            raise InputError(f"--{name} must be one of {', '.join(declared.each)}, got {one!r}")
        if declared.bound is not None and not declared.bound.holds(one):
            raise InputError(f"--{name} must {declared.bound.words}, got {one}")


class Switch(NamedTuple):
    """A flag that chooses between two or more settings dataclasses, such as `--mode`."""

    name: str
    default: str
    help: str
    settings: Mapping[str, type]


class _Leaf(NamedTuple):
    """A field that is a flag: the dataclass that declares and groups it, its name, kind, default and declaration."""

    group: type
    name: str
    type: Any
    default: Any
    declared: _Setting


def leaves(settings: type) -> Iterator[_Leaf]:
    """Yields the flags of a settings dataclass and of those within it, in order."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from leaves(typing.cast(type, kind))
        else:
            yield _Leaf(
                _declaring(settings, field.name),
                field.name,
                _without_none(kind),
                field.default,
                field.metadata[_SETTING],
            )


def _declaring(settings: type, name: str) -> type:
    """Returns the class of settings, or of their bases, that declares a field."""
    return next(each for each in settings.__mro__ if name in vars(each).get("__annotations__", {}))


def _without_none(kind: Any) -> Any:
    """Returns the type of a field without None; of a value or a list of them, the list."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        *_, kind = (each for each in typing.get_args(kind) if each is not types.NoneType)
    return kind


def _all_leaves(settings: type | Switch) -> dict[str, _Leaf]:
    chosen = settings.settings.values() if isinstance(settings, Switch) else [settings]
    return {leaf.name: leaf for each in chosen for leaf in leaves(each)}


def define(settings: type | Switch, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each setting.

    Args:
        settings: the dataclass, or several of them.
        values: where the flags are defined.
    """
    if isinstance(settings, Switch):
        flags.DEFINE_enum(settings.name, settings.default, list(settings.settings), settings.help, flag_values=values)
    for leaf in _all_leaves(settings).values():
        _define(leaf, values)


def _define(leaf: _Leaf, values: flags.FlagValues) -> None:
    declared, default = leaf.declared, None if _is_required(leaf) else leaf.default
    options: dict[str, Any] = {"flag_values": values}
    if typing.get_origin(leaf.type) is tuple:
        values_of = default if isinstance(default, tuple) or default is None else (default,)
        default = None if values_of is None else [_text(value) for value in values_of]
        make = flags.DEFINE_multi_string if declared.kind == "repeated" else flags.DEFINE_list
        make(leaf.name, default, declared.help, **options)
    elif declared.choices is not None:
        sensitive = not declared.ignores_case
        choices = list(declared.choices)
        flags.DEFINE_enum(leaf.name, default, choices, declared.help, case_sensitive=sensitive, **options)
    elif declared.kind == "value":
        serializer = flags.ArgumentSerializer()
        flags.DEFINE(flags.BooleanParser(), leaf.name, default, declared.help, serializer=serializer, **options)
    else:
        makers = {
            str: flags.DEFINE_string,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_boolean,
        }
        makers[leaf.type](leaf.name, default, declared.help, **options)
    for name, element in declared.switches.items():
        flags.DEFINE_boolean(name, False, f"--{leaf.name}={element}", **options)


def _is_required(leaf: _Leaf) -> bool:
    return leaf.default is dataclasses.MISSING


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read(settings: type[Any] | Switch, values: flags.FlagValues = flags.FLAGS) -> Any:
    """Makes the settings from parsed flags.

    Raises:
        InputError: values that are not valid.
    """
    chosen = settings.settings[str(values[settings.name].value)] if isinstance(settings, Switch) else settings
    return build(chosen, {name: _value(leaf, values) for name, leaf in _all_leaves(chosen).items()})


def _value(leaf: _Leaf, values: flags.FlagValues) -> Any:
    value = values[leaf.name].value
    if value is None and _is_required(leaf):
        raise InputError(f"--{leaf.name} is required: {leaf.declared.help}")
    if typing.get_origin(leaf.type) is not tuple or value is None:
        return value
    value = [] if value == ["none"] and leaf.declared.each is not None else value
    added = [element for name, element in leaf.declared.switches.items() if values[name].value]
    value = [*value, *(element for element in added if element not in value)]
    if leaf.declared.kind == "repeated":
        value = [one for several in value for one in several.split(",")]
    kind = typing.get_args(leaf.type)[0]
    try:
        return tuple(map(kind, value))
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(f"--{leaf.name} must be {wanted}, separated by commas, got {','.join(value)}") from None


def build(settings: type[Config], values: Mapping[str, Any] = types.MappingProxyType({}), **named: Any) -> Config:
    """Makes settings from values by the names of their flags. Settings without a value have their defaults.

    Args:
        settings: the dataclass.
        values: the values, by name.
        **named: more values, which take precedence.

    Raises:
        InputError: values that are not valid.
        TypeError: a name that the settings do not have, or a required one that is missing.
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
                raise InputError(f"--{name}: {str(error).replace('`', '').lower()}, {values[name]!r:.80}") from None
    return settings(**(settings.completed(arguments) if issubclass(settings, Settings) else arguments))


def flat(*configs: Settings) -> dict[str, Any]:
    """Returns the values of settings by the names of their flags."""
    values = {}
    for config in configs:
        for field in dataclasses.fields(typing.cast(Any, config)):
            value = getattr(config, field.name)
            values |= flat(value) if isinstance(value, Settings) else {field.name: value}
    return values


def replace(config: Config, **changes: Any) -> Config:
    """Returns settings with other values, by the names of their flags."""
    return build(type(config), flat(typing.cast(Settings, config)), **changes)


def run(main: types.FunctionType, settings: type | Switch, any_thread: bool = False) -> None:
    """Runs an absl program: parses its flags, and exits with the status that `main(config)` returns.

    Args:
        main: the program. The docstring of its module is the head of `--help`.
        settings: the dataclass that the flags fill and `main` takes.
        any_thread: whether threads besides the main one use JAX.
    """
    # At absl's default level, Orbax and Grain report every step, and print errors with a traceback although they also
    # raise them.
    logging.set_verbosity(logging.FATAL)
    # Imports and JAX's tracing make many objects: with Python's default of 700, a training begins 0.4 s later.
    gc.set_threshold(20_000)
    define(settings)

    def start(argv: Sequence[str]) -> int:
        # Imported here, because with JAX, --help and a misspelled flag would take half a second longer.
        from r2l_jax.runtime.startup import prepare

        prepare(any_thread)
        return main(read(settings)) or 0

    title = as_started(main.__globals__["__doc__"] or "")
    app.run(start, flags_parser=functools.partial(parse, settings, title))


def parse(
    settings: type | Switch,
    title: str,
    argv: Sequence[str],
    values: flags.FlagValues = flags.FLAGS,
) -> Sequence[str]:
    """Parses a program's flags, and returns its path.

    Args:
        settings: as for `define`.
        title: the head of `--help`.
        argv: the program's path and its arguments.
        values: where the flags are defined.

    Raises:
        SystemExit: after `--help`, which prints the title and the program's usual flags, or `--helpfull`, which prints
            all of them; or with one line about a wrong flag.
    """
    full = "--helpfull" in argv[1:]
    if full or not {"--help", "-help", "-h", "--helpshort"}.isdisjoint(argv[1:]):
        print(help_text(settings, title, full))
        sys.exit(0)
    try:
        if not (stray := list(values(argv)[1:])):
            return argv[:1]
        reason = f"unexpected arguments {stray}; every option has the form --name=value, quoted if it has spaces"
    except flags.UnrecognizedFlagError as error:
        reason = f"unknown flag --{error.flagname}{_hint(error.flagname, settings)}"
    except flags.Error as error:
        reason = " ".join(str(error).split())
    sys.exit(f"{pathlib.Path(argv[0]).name}: error: {reason}")


def _hint(unknown: str, settings: type | Switch) -> str:
    """Names the flag that was probably meant: one with a similar name, or else one whose help has these words."""
    known = _all_leaves(settings)
    names = [*known, *(f"no{name}" for name, leaf in known.items() if leaf.type is bool)]
    if isinstance(settings, Switch):
        names.append(settings.name)
    words = unknown.replace("_", " ").replace("-", " ")
    near = difflib.get_close_matches(unknown.replace("-", "_"), names, n=1, cutoff=0.6) or [
        name for name, leaf in known.items() if words in leaf.declared.help
    ]
    return f": did you mean --{near[0]}?" if near else "; --helpfull lists all flags"


def help_text(settings: type | Switch, title: str, full: bool = False) -> str:
    """Returns the text of `--help`: a title, and the flags in groups, each of one dataclass; `full` has rare ones."""
    groups: dict[str, list[str]] = {}
    if isinstance(settings, Switch):
        lead = f"<{'|'.join(settings.settings)}>: {settings.help} (default: {settings.default})"
        groups["Mode"] = [_entry(settings.name, lead)]
    shown = [leaf for leaf in _all_leaves(settings).values() if full or not leaf.declared.rare]
    for leaf in shown:
        heading = (leaf.group.__doc__ or "").strip().splitlines()[0].removesuffix(".")
        groups.setdefault(heading, []).append(
            _entry(f"[no]{leaf.name}" if _is_switch(leaf) else leaf.name, _help(leaf))
        )
    sections = [f"{heading}:\n" + "\n".join(entries) for heading, entries in groups.items()]
    more = "--flagfile=<file> reads flags from a file, one per line."
    if left_out := len(_all_leaves(settings)) - len(shown):
        more += f" --helpfull lists {left_out} more flags."
    return "\n\n".join([title.strip(), *sections, more])


def _is_switch(leaf: _Leaf) -> bool:
    return leaf.type is bool and leaf.declared.kind != "value"


def _help(leaf: _Leaf) -> str:
    choices = f"<{'|'.join(leaf.declared.choices)}>: " if leaf.declared.choices else ""
    default = leaf.default
    if _is_required(leaf):
        ending = " (required)"
    elif default is None or default == ():
        ending = ""
    elif isinstance(default, tuple):
        ending = f" (default: {', '.join(map(_text, default))})"
    else:
        ending = f" (default: {str(default).lower() if isinstance(default, bool) else _text(default)})"
    return choices + leaf.declared.help + ending


def _entry(name: str, text: str) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    lines = textwrap.wrap(
        f"--{name}: {text}", width - 2, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    return textwrap.indent("\n".join(lines), "  ")
