import pathlib

import pytest
from absl import flags

import isp
from r2l_jax.cli.flags import build, define, flat, parse, read
from r2l_jax.config import TrainConfig
from r2l_jax.errors import InputError
from r2l_jax.programs.lab import LabConfig
from r2l_jax.programs.process import RenderConfig
from r2l_jax.training.settings import PARAMETERS, PUBLISHED_OPTIMIZATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs=0` needs a trained head: name one with `classifier_network=<file>.py:<function>` or"),
        ({"n_splits": "frames"}, "`n_splits` must be a positive number or groups, got frames"),
        ({"n_splits": 0}, "`n_splits` must be a positive number or groups, got 0"),
        ({"n_splits": "groups", "state_dict_uri": "x"}, "`n_splits` must be a number with `state_dict_uri`"),
        ({"iso": (0.1, 1.0, 0.1)}, "`iso` must be one or more distinct intensities, got 0.1,0.1,1"),
        ({"freeze_processor": True, "freeze_classifier": True}, "`freeze_processor` and `freeze_classifier` together"),
        ({"processing_mode": "none", "freeze_classifier": True}, "`processing_mode=none` has no learned parameters"),
        ({"processing_mode": "static", "processor_uri": "x"}, "`processing_mode=static` has no learned parameters"),
        ({"classifier_pretrained": True, "freeze_classifier": True}, "`freeze_classifier` needs a trained head"),
        ({"adv_training": True, "processing_mode": "static"}, "`adv_training` needs `processing_mode=parametrized`"),
        ({"adv_training": True, "freeze_processor": True}, "`adv_training` trains the processor's parameters"),
        ({"pipeline": "full", "processing_mode": "static"}, "`pipeline=full` replaces `processing_mode=static`"),
        ({"auto": ("blur",)}, r"`auto` must be one of exposure, white_balance, none, got 'blur'$"),
        ({"warmup_epochs": 9.0, "epochs": 2}, "`warmup_epochs` must be at most `epochs=2`, got 9"),
        ({"run_name": "/tmp/run"}, "`run_name` must be a relative folder name, got '/tmp/run'"),
        ({"ema": 1.0}, "`ema` must be below 1, got 1"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be below 1, got 1"),
        ({"classifier_pretrained": True, "classifier_uri": "x"}, "`classifier_pretrained` and `classifier_uri` both"),
        ({"epochs": 0, "classifier_uri": "x", "adv_training": True}, "`adv_training` needs `epochs` of at least 1, "),
        ({"test_size": 2.5}, "`test_size` must be a fraction below 1 or a whole number, got 2.5"),
    ],
)
def test_refuses_contradictions(change, message):
    with pytest.raises(InputError, match=message):
        build(TrainConfig, **change)


def test_an_attack_may_freeze_the_head_as_published():
    build(TrainConfig, adv_training=True, classifier_pretrained=True, freeze_classifier=True)


def given(settings, *arguments):
    """Returns the settings that flags make."""
    values = flags.FlagValues()
    define(settings, values)
    parse(settings, "", ["program.py", *arguments], values)
    return read(settings, values)


def test_a_flagfile_has_the_optimization_of_the_published_program():
    config = given(TrainConfig, f"--flagfile={pathlib.Path(__file__).parents[2] / 'configs/published.flags'}")
    assert flat(config).items() >= PUBLISHED_OPTIMIZATION.items()
    assert config.processing.auto == ()


def test_the_help_names_the_parameters_of_the_parametrized_pipeline():
    assert tuple(isp.parametrized(isp.CAMERAS["drone"]).declarations) == PARAMETERS


def test_intensities_are_in_order():
    data = given(TrainConfig, "--iso=1,0.05,0.1").data
    assert data.iso == data.source["iso"] == (0.05, 0.1, 1.0)


@pytest.mark.parametrize(("settings", "needed"), [(LabConfig, []), (RenderConfig, ["--input=raw", "--output=out"])])
def test_without_a_run_there_is_a_processing(settings, needed):
    assert given(settings, *needed, "--pipeline=full").pipeline == "full"
    assert given(settings, *needed, "--run=run", "--code=my_isp.py:make").code == ("my_isp.py:make",)
