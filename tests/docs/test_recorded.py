"""Pictures in docs/images keep the settings of their results, and these are the flags that stand beside them."""

import json
import re
import shlex

import pytest
import recorded
from pages import PAGES, ROOT, code_blocks
from PIL import Image

PICTURES = sorted((ROOT / "docs/images").glob("*.png"))

# Drawn before pictures kept their settings. A picture that is drawn anew leaves this list.
WITHOUT = frozenset(
    {
        *("adjustment", "calibration", "correction", "corruptions"),
        *("lab", "monitor", "predictions", "report", "sensor", "sheet", "stages"),
        "static_pipelines",
    }
)


def flags_of(arguments):
    """The flags of a command by their names, with those of its flagfiles."""
    flags = {}
    for argument in shlex.split(arguments, comments=True):
        name, _, value = argument.lstrip("-").partition("=")
        if name == "flagfile":
            flags |= flags_of((ROOT / value).read_text())
        else:
            flags[name] = value or "true"
    return flags


def differing(flags, kept):
    """The flags of a command that a picture keeps with another value; an analysis keeps only those that it uses."""

    def agrees(found, value):
        if isinstance(found, list):
            values = [] if value == "none" else value.split(",")
            return len(found) == len(values) and all(map(agrees, found, values))
        if isinstance(found, bool) or found is None:
            return str(found).lower() == value
        if isinstance(found, str):
            return f"/{found}".endswith(f"/{value}") or value.endswith(f"/{found}")
        return found == float(value)

    return {name: value for name, value in flags.items() if name in kept and not agrees(kept[name], value)}


def differences(page, settings):
    """The programs of a picture whose settings no command of the page has, with what differs in the nearest one."""
    lines = "".join(code_blocks("sh", page)).replace("\\\n", " ")
    found = {}
    for program, kept in settings:
        commands = re.findall(rf"python scripts/{re.escape(program)} (.*)$", lines, re.MULTILINE)
        # An analysis does not keep the run that it examined, and a command may leave all that it keeps at defaults.
        differ = [differing(flags, kept) for flags in map(flags_of, commands) if flags.keys() & {"run", *kept}]
        if {} not in differ:
            found[program] = min(differ, key=len, default="no command")
    return found


def pages_with(picture):
    return {name: page for name, page in PAGES.items() if re.search(rf"\]\([^)]*images/{picture.name}\)", page)}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_has_the_settings_that_its_page_names(picture):
    settings, pages = recorded.recorded(picture), pages_with(picture)
    assert pages
    assert bool(settings) != (picture.stem in WITHOUT), "run python docs/ext/recorded.py, or take it from the list"
    for name, page in pages.items():
        assert differences(page, settings) == {}, name


def test_other_settings_are_found(tmp_path):
    flags = {"epochs": 8, "lr": 1e-3, "track": ["processing", "gradients"], "run": "/tmp/a/b", "logdir": "/tmp"}
    (tmp_path / "metrics.json").write_text(json.dumps({"flags": flags}))
    Image.new("RGB", (2, 2), "red").save(tmp_path / "a.png")
    recorded.record(tmp_path / "a.png", [tmp_path / "metrics.json"])
    settings = recorded.recorded(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpixel((1, 1)) == (255, 0, 0)
    kept = {"epochs": 8, "lr": 1e-3, "track": ["processing", "gradients"], "run": "a/b"}
    assert settings == [("train.py", kept)]
    command = (
        "```sh\npython scripts/train.py --epochs={} --lr=0.001 \\\n  --track=processing,gradients --run=runs/a/b\n```\n"
    )
    assert differences(command.format(8), settings) == {}
    assert differences(command.format(9), settings) == {"train.py": {"epochs": "9"}}
    assert differences(command.format(8) + command.format(9), settings) == {}
    assert differences("", settings) == {"train.py": "no command"}
    assert differences("```sh\npython scripts/train.py --lr_=1\n```", settings) == {"train.py": "no command"}
