"""The outputs of a network that stand for the classes of a data set, which the flag --classes names.

The flag has pairs `<class>:<output>`, with outputs counted from 0 and joined by `+`, as in `cat:281+282`; or it is a
text file with the names of the outputs, one in each line, as for the 1,000 classes of ImageNet. A line may give several
names, separated by commas, and may begin with the number of a synset, such as `n02123045`.
"""

import difflib
import pathlib
import re
from collections.abc import Sequence

from r2l_jax.runtime.errors import InputError

_SYNSET = re.compile(r"(n\d{8})\s*")
# Names may have commas.
_PAIR = re.compile(r"([^:]+):(\d+(?:\+\d+)*)(?:,|$)")
_FLAG = "--classes"


def pairs(given: str, classes: Sequence[str]) -> str:
    """Returns the pairs of the classes, separated by commas, in the order of the classes.

    Args:
        given: pairs, or the path of a file.
        classes: the names of the classes.

    Raises:
        InputError: the file cannot be read, a class has no output, an output is named twice, or a pair is of no class
            or has no number.
    """
    outputs = _of_pairs(given) if ":" in given else _of_file(given, classes)
    if unknown := [name for name in outputs if name not in classes]:
        raise InputError(f"{_FLAG}: the data has no class {unknown[0]!r}; its classes are {', '.join(classes)}")
    if lacking := [name for name in classes if name not in outputs]:
        raise InputError(f"{_FLAG}: no output for the class {lacking[0]!r}")
    owners = dict[int, str]()
    for name, places in outputs.items():
        for place in places:
            if place in owners:
                raise InputError(
                    f"{_FLAG}: output {place} must be named once, got {owners[place]!r} and {name!r} for it"
                )
            owners[place] = name
    return ",".join(f"{name}:{'+'.join(map(str, outputs[name]))}" for name in classes)


def groups(given: str, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Returns the numbers of each class's outputs, see `pairs`."""
    outputs = _of_pairs(pairs(given, classes))
    return tuple(outputs[name] for name in classes)


def _of_pairs(given: str) -> dict[str, tuple[int, ...]]:
    if not re.fullmatch(f"({_PAIR.pattern})+", given):
        raise InputError(f"{_FLAG} must be a file of names, or pairs such as cat:281,dog:207+208, got {given!r:.80}")
    outputs = dict[str, tuple[int, ...]]()
    for name, places in _PAIR.findall(given):
        if name in outputs:
            joined = "+".join(map(str, outputs[name]))
            raise InputError(
                f"{_FLAG} names the class {name!r} twice: join its outputs, as in {name}:{joined}+{places}"
            )
        outputs[name] = tuple(map(int, places.split("+")))
    return outputs


def _of_file(path: str, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise InputError(f"{_FLAG}={path}: {reason}") from None
    names = [_names(line) for line in lines]
    found = {}
    for name in classes:
        places = tuple(place for place, known in enumerate(names) if _plain(name) in known)
        if not places:
            every = sorted({each for known in names for each in known})
            near = difflib.get_close_matches(_plain(name), every, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"{_FLAG}={path}: none of its {len(names)} lines names the class {name!r}{hint} Rename the data's "
                f"folder, or give pairs such as {name}:281"
            )
        found[name] = places
    return found


def _names(line: str) -> set[str]:
    """Returns the names that a line gives to an output."""
    synset = _SYNSET.match(line)
    text = line[synset.end() :] if synset else line
    return {_plain(name) for name in (text, *text.split(","), *((synset[1],) if synset else ())) if name.strip()}


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
