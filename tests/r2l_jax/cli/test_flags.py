import contextlib
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys

import programs
import pytest
from absl import flags as absl_flags

from r2l_jax.cli import flags
from r2l_jax.cli.flags import FRACTION, NOT_NEGATIVE, POSITIVE, Settings, build, flat, leaves, replace, setting
from r2l_jax.config import TrainConfig
from r2l_jax.errors import InputError

INT32 = "at least -2147483648 and below 2147483648"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps(Settings):
    """Steps."""

    steps: int = setting("how many", 3, bound=POSITIVE)
    weights: tuple[float, ...] = setting("of the loss", (1.0, 2.5), bound=POSITIVE)
    sizes: tuple[int, ...] = setting("in pixels", (), rare=True, needs="weights=3.0|4.0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(Settings):
    """Kind."""

    kind: str = setting("of ice", "cream", choices=("cream", "cube"))
    melted: bool = setting("too late", False, needs="kind=cream")
    spoons: int = setting("to eat", 1, needs="melted|sizes !crushed")
    crushed: bool = setting("by a hammer", False)
    logged: bool = setting("in a book", True, kind="value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """A program."""

    input: tuple[str, ...] = setting("files", kind="repeated")
    drift: tuple[str, ...] = setting("of the lens", ("blur",), kind="states")
    kind: Kind = Kind()
    steps: Steps = Steps()


def parse(*arguments, settings=Config):
    values = absl_flags.FlagValues()
    flags.define(settings, values)
    assert values(["program.py", *arguments]) == ["program.py"]
    return flags.read(settings, values)


def test_flags_become_a_tree_of_settings():
    config = parse(
        *("--input=a,b", "--input=a", "--kind=cube", "--crushed", "--weights=4,5e-1", "--sizes=7", "--logged", "False")
    )
    assert config == Config(
        input=("a", "b", "a"),
        kind=Kind(kind="cube", crushed=True, logged=False),
        steps=Steps(weights=(4.0, 0.5), sizes=(7,)),
    )
    assert parse("--input=a", "--nomelted") == Config(input=("a",))


def test_a_camera_state_stays_whole_in_a_list_and_in_the_command_that_gives_it_again():
    given = ["--input=a=1,b", "--drift=x=1,y=-0.5", "--drift=blur,haze", "--drift=z=2"]
    config = parse(*given)
    assert (config.input, config.drift) == (("a=1", "b"), ("x=1,y=-0.5", "blur", "haze", "z=2"))
    assert parse(*shlex.split(" ".join(flags.arguments(Config, flat(config))))) == config
    of_kinds = Config(input=("a",), drift=("blur", "haze"))
    assert flags.arguments(Config, flat(of_kinds)) == ["--input=a", "--drift=blur,haze"]


def test_a_command_gives_every_digit_of_a_number():
    weights = (0.1 + 0.2, 1e-7 / 3, 123456789.0)
    config = Config(input=("a",), steps=Steps(weights=weights))
    assert parse(*shlex.split(" ".join(flags.arguments(Config, flat(config))))) == config
    for lr in weights:
        (argument,) = flags.arguments(TrainConfig, {"lr": lr})
        assert parse(argument, settings=TrainConfig).optimization.lr == lr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`input` is required: files"),
        (["--input=a", "--weights=1,-2"], "`weights` must be above 0, got -2.0"),
        (["--input=a", "--weights=nan"], "`weights` must be above 0, got nan"),
        (["--input=a", "--steps=2147483648"], f"`steps` must be {INT32}, got 2147483648"),
        (["--input=a", "--sizes=7,99999999999"], f"`sizes` must be {INT32}, got 99999999999"),
        (["--input=a", "--sizes=1.5"], "`sizes` must be whole numbers, separated by commas, got 1.5"),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(InputError) as error:
        parse(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kind=cube --melted", "`melted` has no effect without `kind=cream`"),
        ("--kind=cube --nomelted", None),
        ("--sizes=7", "`sizes` has no effect without `weights=3.0|4.0`"),
        ("--sizes=7 --weights=1,4", None),
        ("--spoons=1", "`spoons` has no effect without `melted` or `sizes`"),
        ("--spoons=2 --weights=3 --sizes=7", None),
        ("--spoons=2 --melted --crushed", "`spoons` has no effect with `crushed`"),
    ],
)
def test_a_flag_that_was_given_and_has_no_effect_is_refused(tmp_path, arguments, message):
    (tmp_path / "program.flags").write_text("\n".join(arguments.split()))
    expected = (
        contextlib.nullcontext() if message is None else pytest.raises(InputError, match=f"^{re.escape(message)}$")
    )
    with expected:
        parse("--input=a", f"--flagfile={tmp_path}/program.flags")


def test_settings_made_without_flags_are_checked_as_well():
    with pytest.raises(InputError, match=r"^`kind` must be one of cream, cube, got 'berg'$"):
        Kind(kind="berg")
    with pytest.raises(TypeError, match="Config has no settings color"):
        build(Config, input=("a",), color="red")


def test_settings_are_recorded_flat_and_come_back():
    config = Config(input=("a",), steps=Steps(steps=9))
    recorded = flat(config)
    assert list(recorded) == [
        "input",
        "drift",
        "kind",
        "melted",
        "spoons",
        "crushed",
        "logged",
        "steps",
        "weights",
        "sizes",
    ]
    as_json = {name: list(value) if isinstance(value, tuple) else value for name, value in recorded.items()}
    assert build(Config, as_json) == config
    assert replace(config, steps=4, kind="cube") == Config(input=("a",), kind=Kind(kind="cube"), steps=Steps(steps=4))


def test_help_has_all_of_the_programs_flags_in_groups_and_no_others():
    text = flags.help_text(Config, "A title.")
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups == ["A program:", "Kind:", "Steps:"]
    assert "\n  --[no]melted: too late (default: false)\n" in text
    assert "\n  --kind: <cream|cube>: of ice (default: cream)\n" in text
    assert "\n  --weights: of the loss (default: 1, 2.5)\n" in text
    assert "\n  --input: files (required)\n" in text
    assert text.endswith(" --helpfull lists 1 more flags.")
    assert "\n  --sizes: in pixels\n" in flags.help_text(Config, "A title.", full=True)


def test_train_has_a_flag_for_each_setting():
    names = [leaf.name for leaf in leaves(TrainConfig)]
    assert len(names) == len(set(names)) == len(flat(TrainConfig()))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--step=2", "Unknown command line flag 'step'. Did you mean: steps ?"),
        ("words", "unexpected arguments ['words']; options have the form --name=value; quote values with spaces"),
    ],
)
def test_a_wrong_flag_is_one_line(argument, message):
    flags.define(Config, values := absl_flags.FlagValues())
    with pytest.raises(SystemExit, match=f"^program.py: error: {re.escape(message)}$"):
        flags.parse(Config, "", ["program.py", argument], values)


@pytest.mark.parametrize(
    ("given", "track"),
    [
        ("--track_processing --track_predictions --track_every_epoch", ("processing", "predictions", "every_epoch")),
        ("--track=processing --track_processing --track_processing_gradients", ("processing", "gradients")),
        ("--track=processing,predictions --notrack_processing", ("predictions",)),
    ],
)
def test_switches_of_the_published_program_are_elements_of_a_list(given, track):
    assert parse(*given.split(), settings=TrainConfig).tracking.track == track


def test_a_reader_who_has_seen_enough_ends_a_program_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(programs.SCRIPTS / "unprocess.py"), "--help"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(("bound", "held"), [(POSITIVE, "..11."), (NOT_NEGATIVE, ".111."), (FRACTION, "..1..")])
def test_bounds_hold_up_to_their_ends(bound, held):
    settings = dataclasses.make_dataclass(
        "One", [("value", float, setting("a number", bound=bound))], bases=(Settings,), frozen=True
    )

    def holds(value):
        try:
            return bool(settings(value))
        except InputError:
            return False

    assert "".join(".1"[holds(value)] for value in (-1e-9, 0.0, 1e-9, 1.0, float("inf"))) == held
