"""Errors and warnings that a program reports to its user in one line."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from tqdm import tqdm


class InputError(ValueError):
    """An unusable argument, file or folder. Programs print the message as one line, without a traceback.

    Messages name arguments as in Python, such as `epochs` or `lr=-1` in backquotes, see `spelled`.
    """

    def __str__(self) -> str:
        return spelled(super().__str__())


_names_flags = False


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Makes `spelled` name flags, as within a program."""
    global _names_flags
    earlier, _names_flags = _names_flags, True
    try:
        yield
    finally:
        _names_flags = earlier


def spelled(message: str) -> str:
    """Returns a message that names flags in place of arguments, such as --epochs or --lr=-1, within a program."""
    if not _names_flags:
        return message.replace("the same command", "the same call")
    return re.sub("`([a-z]\\w*(=[^`]*)?)`", r"--\1", message)


def of_callback(error: BaseException) -> InputError | None:
    """Returns the InputError raised by Python code in a compiled function; JAX passes on only its text."""
    *_, found = ["", *(line for line in str(error).splitlines() if "InputError: " in line)]
    return InputError(found.partition("InputError: ")[2]) if found and "callback" in str(error) else None


def one_line(error: BaseException | str) -> str:
    """Returns an error message in one line; escapes control characters, which could hide text in a terminal."""
    return printable(" ".join(str(error).split()))


def in_words(error: BaseException) -> str:
    """Returns an error in one line: its message, or the file and the system's reason, or the name of its class."""
    if isinstance(error, OSError) and error.errno is not None:
        return one_line(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror))
    return one_line(error) or type(error).__name__


def printable(text: str) -> str:
    """Returns a text with unprintable characters, such as line breaks, as escape sequences."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def root_cause(error: BaseException) -> str:
    """Returns the message of the first exception in a chain in one line, or the name of its class."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return one_line(error) or type(error).__name__


_collected = ContextVar[list[str] | None]("collected", default=None)


def warn(message: str) -> None:
    """Writes a warning as one line to stderr, above a progress bar if there is one."""
    if (collected := _collected.get()) is not None:
        collected.append(message)
    else:
        tqdm.write(f"warning: {spelled(one_line(message))}", file=sys.stderr)


def warn_once(messages: Sequence[str], files: int) -> None:
    """Writes the first of several warnings about files, and the number of the others."""
    if messages:
        others = f" (and likewise for {len(messages) - 1} more of {files} files)" if len(messages) > 1 else ""
        warn(f"{min(messages)}{others}")


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yields a list that collects the block's warnings in this thread instead of writing them."""
    collected = list[str]()
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


@contextlib.contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Keeps a library's logger from logging anything below errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
