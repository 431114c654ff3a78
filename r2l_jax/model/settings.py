"""The settings of the processing and of the network."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r2l_jax import named_code
from r2l_jax.cli.flags import Settings, setting
from r2l_jax.errors import InputError
from r2l_jax.names import AUTO, DEMOSAICING, DENOISING, SHARPENING

if TYPE_CHECKING:
    from r2l_jax.pipelines import NamedPipeline
else:
    NamedPipeline = Any  # importing it would delay a program's help

# The modes whose images have one pixel for each 2x2 tile of the raw image.
HALF_SIZE_MODES = ("neural_network", "none")

# The flags of --processing_mode=static, named as in the published program, and the step whose algorithm each chooses.
STATIC_FLAGS = {"sp_debayer": "demosaic", "sp_sharpening": "sharpen", "sp_denoising": "denoise"}

PIPELINE_NAMES = (
    "parametrized, full, algorithms for demosaicing, sharpening and denoising such as "
    "bilinear.sharpening_filter.median_denoising, or a custom function make(camera) -> isp.Pipeline, my_isp.py:make"
)

SCORES = "accuracy, balanced_accuracy, macro_f1, mean_iou, iou:<class>, auroc:<class>"

CLASSIFIERS = ("ResNet18", "ResNet34", "Resnet50")


def _algorithm(step: str, default: str, choices: Sequence[str]) -> Any:
    flag = "processing_mode=static"
    return setting(f"{step} algorithm for --{flag}", default, choices=choices, rare=True, needs=flag)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessingChoice(Settings):
    """Processing."""

    processing_mode: str = setting(
        "parametrized: the learnable pipeline; static: classical algorithms; neural_network: a U-Net++ on half-size "
        "RGB from the raw image; none: half-size RGB without further processing",
        "parametrized",
        choices=("parametrized", "static", "neural_network", "none"),
    )
    sp_debayer: str = _algorithm("demosaicing", "bilinear", DEMOSAICING)
    sp_sharpening: str = _algorithm("sharpening", "sharpening_filter", SHARPENING)
    sp_denoising: str = _algorithm("denoising", "gaussian_denoising", DENOISING)
    pipeline: str | None = setting(f"pipeline by name, instead of --processing_mode and --sp_*: {PIPELINE_NAMES}", None)
    half_size: bool = setting(
        "demosaic and shrink in one step: one pixel per 2x2 sites of the raw image, or per 3x3 sites for X-Trans",
        False,
        rare=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.pipeline is not None and self.processing_mode != "parametrized":
            raise InputError(f"{self.flag} replaces `processing_mode={self.processing_mode}`: omit one of them")

    @property
    def flag(self) -> str:
        """The flag that chose the processing, with its value."""
        name = "processing_mode" if self.pipeline is None else "pipeline"
        return f"`{name}={getattr(self, name)}`"

    @functools.cached_property
    def named_pipeline(self) -> NamedPipeline | None:
        """The chosen pipeline, found once; None for a mode of `HALF_SIZE_MODES`."""
        from r2l_jax.pipelines import find_pipeline

        if self.processing_mode in HALF_SIZE_MODES:
            return None
        static = ".".join(getattr(self, name) for name in STATIC_FLAGS)
        found = find_pipeline(static if self.processing_mode == "static" else self.pipeline or "parametrized")
        return found.half_sized() if self.half_size else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessingSettings(ProcessingChoice):
    """Processing."""

    auto: tuple[str, ...] | None = setting(
        "metering of each raw image before the pipeline: exposure, white_balance, or none; see isp.metering; default: "
        "as in the run of --processor_uri or, for a frozen head, of --classifier_uri, otherwise both; none for another "
        "frozen head, without a pipeline, and for a pipeline that already meters",
        None,
        each=AUTO,
    )
    processor_uri: str | None = setting(
        "earlier run whose processor and normalization initialize this one", None, rare=True
    )
    freeze_processor: bool = setting("freeze the processor's parameters", False, rare=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.learns and self.processor_uri:
            raise InputError(f"{self.flag} has no learned parameters to initialize from `processor_uri`")

    @property
    def learns_pipeline(self) -> bool:
        """Whether the processor is a pipeline whose parameters can be trained."""
        return self.processing_mode == "parametrized"

    @property
    def learns(self) -> bool:
        """Whether the processor has parameters to train, and a batch norm after it."""
        return self.learns_pipeline or self.processing_mode == "neural_network"

    @property
    def is_frozen(self) -> bool:
        """Whether training leaves the processor unchanged."""
        return self.freeze_processor or not self.learns


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """Network."""

    classifier_network: str = setting(
        f"head for classification: {', '.join(CLASSIFIERS)}; or a custom head for any task: my_head.py:make, a "
        "function make(classes, rngs) that returns a flax.nnx.Module (trained) or a torch.nn.Module (frozen), or "
        "model.onnx (frozen, without gradients)",
        "ResNet18",
    )
    smp_encoder: str = setting(
        "encoder of the U-Net++, for segmentation", "resnet34", choices=("resnet18", "resnet34", "resnet50"), rare=True
    )
    precision: str = setting(
        "precision of the head; parameters, statistics, losses and the pipeline stay in float32",
        "float32",
        choices=("float32", "bfloat16"),
        rare=True,
    )
    classifier_pretrained: bool = setting(
        "initialize the head's ResNet with torchvision's ImageNet weights, downloaded from the Hugging Face hub; its "
        "last layer, or the decoder, is still initialized at random",
        False,
        rare=True,
    )
    pretrained_weights: str | None = setting(
        "safetensors file with the weights for --classifier_pretrained, under torchvision's names; needs no network "
        "access",
        None,
        rare=True,
        needs="classifier_pretrained",
    )
    task: str | None = setting(
        "your own task, my_task.py:make: a function make(classes) that returns a r2l_jax.model.tasks.Task; default: "
        "what the data set has targets for: classification, segmentation or detection",
        None,
        rare=True,
    )
    score: str | None = setting(
        f"score by which models are compared: {SCORES}, or your own, a function my_score.py:make that makes one; "
        "default: accuracy, or for masks the intersection over union (the object's, or the mean of the classes')",
        None,
        rare=True,
    )
    class_outputs: str | None = setting(
        "outputs of a custom head that stand for each class, counted from 0, or a detector's labels, such as "
        "cat:281+282,dog:207; default: output 0 is the first class, and so on",
        None,
        rare=True,
    )

    @property
    def has_custom_head(self) -> bool:
        """Whether the head comes from the user's file or from a package, see `model.heads`."""
        return self.classifier_network not in CLASSIFIERS

    def __post_init__(self):
        super().__post_init__()
        # One spelling, since equal runs must record equal settings.
        known = {each.lower(): each for each in CLASSIFIERS}
        name = known.get(self.classifier_network.lower(), self.classifier_network)
        object.__setattr__(self, "classifier_network", name)
        if self.has_custom_head:
            if not (named_code.is_file(name) or name.endswith(".onnx")):
                raise InputError(
                    f"`classifier_network` must be one of {', '.join(CLASSIFIERS)}, a function in a file such as "
                    f"my_head.py:make, or an ONNX file such as model.onnx, got {name!r}"
                )
            if self.classifier_pretrained:
                raise InputError(f"`classifier_pretrained` needs one of {', '.join(CLASSIFIERS)}, got the head {name}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(NetworkSettings):
    """Model."""

    classifier_uri: str | None = setting(
        "earlier run whose head initializes this one, except for the last layer if the classes differ", None, rare=True
    )
    freeze_classifier: bool = setting("freeze the parameters and batch statistics of a trained head", False, rare=True)

    def __post_init__(self):
        super().__post_init__()
        if self.classifier_pretrained and self.classifier_uri:
            raise InputError("`classifier_pretrained` and `classifier_uri` both initialize the head: omit one")
