"""What to raise when something the user gave is wrong."""


class InputError(ValueError):
    """A flag, a file or a folder is not what it should be. Programs print the message as one line, no traceback."""
