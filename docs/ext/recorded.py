"""Keeps the settings of results in the picture that shows them, so that a test finds pages with other settings.

python docs/ext/recorded.py <picture>.png <results>.json... takes the flags of the files that programs write with their
results, such as metrics.json, evaluation.json and tolerances.json.
"""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROGRAMS = {
    "metrics.json": "train.py",
    "evaluation.json": "evaluate.py",
    **dict.fromkeys(("forensics.json", "sensitivity.json", "tolerances.json", "worst_case.json"), "forensics.py"),
    "adaptation.json": "adjust.py",
    "learning.json": "adjust.py",
    "study.json": "study.py",
}

_KEY = "settings"

# Where files are, which is different on each machine.
_PLACES = ("logdir", "data_dir", "output")


def record(picture: pathlib.Path, results: Iterable[pathlib.Path]) -> None:
    """Writes the program and the flags of each file of results into a PNG; its pixels stay as they are."""
    settings = [(PROGRAMS[file.name], _kept(json.loads(file.read_text())["flags"])) for file in results]
    kept = PngInfo()
    kept.add_text(_KEY, json.dumps(settings), zip=True)
    with Image.open(picture) as image:
        image.load()
    image.save(picture, pnginfo=kept, optimize=True)


def _kept(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: _short(value) for name, value in flags.items() if name not in _PLACES}


def _short(value: Any) -> Any:
    """Cuts absolute paths to their last two parts."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    return "/".join(pathlib.PurePosixPath(value).parts[-2:]) if isinstance(value, str) and value[:1] == "/" else value


def recorded(picture: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the programs and their flags that a PNG keeps."""
    with Image.open(picture) as image:
        return [(program, flags) for program, flags in json.loads(image.info.get(_KEY, "[]"))]


if __name__ == "__main__":
    record(pathlib.Path(sys.argv[1]), map(pathlib.Path, sys.argv[2:]))
