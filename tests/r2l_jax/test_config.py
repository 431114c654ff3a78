import pathlib

import pytest
from absl import flags

import isp
from r2l_jax.config import PARAMETERS, PUBLISHED_OPTIMIZATION, TrainConfig
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.watch.config import MonitorConfig
from r2l_jax.programs.export import ExportConfig
from r2l_jax.programs.lab import LabConfig
from r2l_jax.programs.predict import PredictionConfig
from r2l_jax.programs.process import RenderConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, define, flat, parse, read, replace
from r2l_jax.training.record import changed_flags


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "--epochs must not be negative, got -1"),
        ({"epochs": 0}, "--epochs=0 measures a trained head: name one by --classifier_network=<file>.py:<function> or"),
        ({"epochs": 0, "classifier_uri": "x", "adv_training": True}, "--adv_training is a training: give it --epochs"),
        ({"classes": "a:1"}, "--classes is for a head of your own, got --classifier_network=ResNet18"),
        ({"iso": (0.1, 1.0, 0.1)}, "--iso must be one or several intensities, each once, got 0.1,0.1,1"),
        ({"iso": ()}, "--iso must be one or several intensities, each once, got none"),
        ({"train_size": 1.0}, "--train_size must be between 0 and 1, got 1.0"),
        ({"freeze_processor": True, "freeze_classifier": True}, "--freeze_processor and --freeze_classifier together"),
        ({"processing_mode": "none", "freeze_classifier": True}, "--processing_mode=none learns nothing: with"),
        (
            {"processing_mode": "static", "processor_uri": "x"},
            "--processing_mode=static has no learned parameters that",
        ),
        (
            {"sp_debayer": "malvar2004"},
            "--sp_debayer is for --processing_mode=static, got --processing_mode=parametrized",
        ),
        (
            {"processing_mode": "static", "sp_denoising": "nlm"},
            "--sp_denoising must be one of none, gaussian_denoising, .* got 'nlm'",
        ),
        (
            {"classifier_pretrained": True, "classifier_uri": "runs/x"},
            "--classifier_pretrained and --classifier_uri both set the head's start",
        ),
        (
            {"classifier_pretrained": True, "freeze_classifier": True},
            "--freeze_classifier would freeze the layers that --classifier_pretrained leaves random",
        ),
        ({"pretrained_weights": "x"}, "--pretrained_weights is for --classifier_pretrained: give"),
        ({"adv_aux_weight": 0.0}, "--adv_aux_weight is for --adv_training: give --adv_training as well"),
        (
            {"adv_training": True, "processing_mode": "static"},
            "--adv_training needs --processing_mode=parametrized or a --pipeline, got static",
        ),
        (
            {"adv_training": True, "freeze_processor": True},
            "--adv_training moves the processor's parameters, which --freeze_processor keeps",
        ),
        (
            {"pipeline": "parametrized", "processing_mode": "static", "sp_debayer": "bilinear"},
            "--pipeline=parametrized is the processing: leave --processing_mode and --sp_debayer out",
        ),
        ({"adv_training": True, "adv_aux_weight": -1.0}, "--adv_aux_weight must not be negative, got -1.0"),
        (
            {"weight_decay": 0.1, "optimizer": "adam"},
            "--weight_decay is for --optimizer=adamw or sgd, got --optimizer=adam",
        ),
        ({"warmup_epochs": 9.0, "epochs": 2}, "--warmup_epochs=9 is more than --epochs=2"),
        ({"ema": 1.0}, "--ema must be below 1, got 1"),
        ({"label_smoothing": 1.5}, "--label_smoothing must be below 1, got 1.5"),
        ({"adv_training": True, "ema": 0.5}, "--ema=0.5 is for training; --adv_training has an"),
        ({"run_name": "/tmp/run"}, "--run_name must be a folder's name, got '/tmp/run'"),
        ({"experiment_name": "../run"}, "--experiment_name must be a folder's name, got '../run'"),
        ({"seed": -1}, "--seed must not be negative, got -1"),
        ({"test_size": 2.5}, "--test_size must be a share below 1 or a whole number, got 2.5"),
        ({"test_size": 0.2, "state_dict_uri": "runs/x"}, "--state_dict_uri gives the splits, with the test samples"),
        ({"split": "x.json", "test_size": 0.2}, "--split gives the test samples: leave --test_size out"),
        ({"split": "x.json", "state_dict_uri": "runs/x"}, "--split and --state_dict_uri both give the splits"),
        (
            {"track": ("every_epoch",)},
            "--track=every_epoch records nothing: add processing, gradients or predictions, or",
        ),
    ],
)
def test_refuses_contradictions(change, message):
    with pytest.raises(InputError, match=message):
        build(TrainConfig, **change)


def test_a_static_run_names_its_algorithms():
    given = build(TrainConfig, processing_mode="static", sp_debayer="bilinear")
    assert given == build(TrainConfig, processing_mode="static")
    assert given.processing.sp_denoising == "gaussian_denoising"


def test_an_attack_names_its_settings_and_may_freeze_the_head_as_published():
    attack = build(TrainConfig, adv_training=True, classifier_pretrained=True, freeze_classifier=True)
    assert (attack.attack.adv_parameters, attack.attack.adv_aux_loss, attack.attack.adv_aux_weight) == (
        "all",
        "ssim",
        1.0,
    )
    tracked = replace(attack, adv_track_differences=True)
    assert changed_flags(flat(tracked), flat(attack)) == []
    other = replace(attack, adv_parameters="gamma_correct")
    assert changed_flags(flat(other), flat(attack)) == ["adv_parameters was 'all', is 'gamma_correct'"]


def test_a_run_can_be_continued_longer_and_tracked_otherwise_but_not_with_other_settings():
    earlier = flat(build(TrainConfig, schedule="constant"))
    longer = build(TrainConfig, schedule="constant", epochs=90, track=("processing",), data_dir="elsewhere")
    assert changed_flags(flat(longer), earlier) == []
    assert changed_flags(flat(build(TrainConfig, schedule="constant", lr=0.1, seed=2)), earlier) == [
        "lr was 0.001, is 0.1",
        "seed was 1, is 2",
    ]
    # A cosine of another length has other learning rates from the first epoch on.
    (reason,) = changed_flags(flat(build(TrainConfig, epochs=90)), flat(TrainConfig()))
    assert reason.startswith("epochs was 30, is 90; for more epochs, a run needs --schedule=constant and")


def test_a_flagfile_has_the_optimization_of_the_published_program():
    values = flags.FlagValues()
    define(TrainConfig, values)
    values(["train.py", f"--flagfile={pathlib.Path(__file__).parents[2] / 'configs/published.flags'}"])
    config = read(TrainConfig, values)
    assert flat(config).items() >= PUBLISHED_OPTIMIZATION.items()
    assert config.processing.auto == ()


def test_the_help_names_the_parameters_of_the_parametrized_pipeline():
    assert tuple(isp.parametrized(isp.CAMERAS["drone"]).facts) == PARAMETERS


def test_a_single_intensity_is_a_number_and_several_are_in_order():
    for given, iso, isos in (
        ([], 1.0, (1.0,)),
        (["--iso=0.05"], 0.05, (0.05,)),
        (["--iso=1,0.05,0.1"], (0.05, 0.1, 1.0), (0.05, 0.1, 1.0)),
    ):
        values = flags.FlagValues()
        define(TrainConfig, values)
        parse(TrainConfig, "", ["train.py", *given], values)
        data = read(TrainConfig, values).data
        assert (data.iso, data.isos) == (iso, isos)
    # As runs record it.
    assert build(TrainConfig, iso=[0.05, 1]).data.iso == (0.05, 1.0)
    assert build(TrainConfig, iso=1).data.iso == 1.0
    assert replace(build(TrainConfig, iso=(0.05, 1.0)), lr=0.1).data.iso == (0.05, 1.0)


def given(settings, *arguments):
    """Returns the settings that flags make."""
    values = flags.FlagValues()
    define(settings, values)
    parse(settings, "", ["program.py", *arguments], values)
    return read(settings, values)


OF_A_RUN = {
    AdaptationConfig: ["--run=run", "--exposures=0.5"],
    EvaluationConfig: ["--run=run"],
    ExportConfig: ["--run=run", "--output=out"],
    ForensicsConfig: ["--run=run"],
    LabConfig: ["--run=run"],
    MonitorConfig: ["--run=run"],
    PredictionConfig: ["--run=run", "--input=raw", "--output=out"],
    RenderConfig: ["--run=run", "--input=raw", "--output=out"],
}


@pytest.mark.parametrize("settings", OF_A_RUN, ids=lambda settings: settings.__name__)
def test_the_code_of_a_run(settings):
    config = given(settings, *OF_A_RUN[settings], "--code=my_isp.py:make,my_head.py:make")
    assert config.code == ("my_isp.py:make", "my_head.py:make")


def test_a_run_is_the_processing():
    with pytest.raises(InputError, match="is the processing: leave --pipeline out"):
        given(RenderConfig, *OF_A_RUN[RenderConfig], "--pipeline=full")
