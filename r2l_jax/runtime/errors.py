"""Errors that a program reports to its user in one line."""


class InputError(ValueError):
    """An unusable flag, file or folder. Programs print the message as one line, without a traceback."""


def one_line(error: BaseException | str) -> str:
    """Returns the message of an error in one line."""
    return " ".join(str(error).split())


def root_cause(error: BaseException) -> str:
    """Returns the message of the first exception in a chain in one line, or the name of its class."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return one_line(error) or type(error).__name__
