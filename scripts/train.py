"""Trains a raw-to-logit model: raw mosaics through a (learnable) image signal processor and a task's network.

python scripts/train.py --flagfile=configs/quickstart.flags
"""

import dataclasses

from absl import flags

import isp
from r2l_jax import processing
from r2l_jax.config import ADV_DEFAULTS, AUX_LOSSES, CLASSIFIERS, ENCODERS, TrainConfig
from r2l_jax.data.sets.datasets import DATASETS, SYNTHETIC_IMAGES, SYNTHETIC_SIZE
from r2l_jax.data.sets.synthetic import INTENSITIES
from r2l_jax.model.augment import AUGMENTATIONS
from r2l_jax.runtime import startup
from r2l_jax.training import train

DEFAULT = TrainConfig()


def define_flags() -> None:
    """One flag for each field of TrainConfig, with its default."""
    flags.DEFINE_string("experiment_name", DEFAULT.experiment_name, "folder of runs that belong together")
    flags.DEFINE_string("run_name", DEFAULT.run_name, "folder of this run within the experiment's")
    flags.DEFINE_string("logdir", DEFAULT.logdir, "where experiments are written; what TensorBoard is given")
    flags.DEFINE_string(
        "data_dir", DEFAULT.data_dir, "where the data set is, or is written; default: a cache folder of the user's"
    )
    flags.DEFINE_boolean("download", DEFAULT.download, "get a published data set from Zenodo if it is not there")
    flags.DEFINE_boolean("overwrite", DEFAULT.overwrite, "start anew where a run of this name would be continued")
    flags.DEFINE_integer("seed", DEFAULT.seed, "of the splits, the initial weights, the order and the augmentation")

    flags.DEFINE_string("dataset", DEFAULT.dataset, f"one of {', '.join(DATASETS)}")
    flags.DEFINE_float("iso", DEFAULT.iso, f"the intensity to use, one of {', '.join(map('{:g}'.format, INTENSITIES))}")
    flags.DEFINE_string(
        "camera", DEFAULT.camera, "for Folder: drone, microscopy, a JSON file, or auto (the files' own)"
    )
    flags.DEFINE_integer(
        "tile_size",
        DEFAULT.tile_size,
        "for Folder: side of the tiles cut of frames, or of the middle taken of files to classify; default: 256, or "
        "the shortest side if that is less",
    )
    flags.DEFINE_integer(
        "synthetic_images", DEFAULT.synthetic_images, f"scenes in the synthetic data set; default: {SYNTHETIC_IMAGES}"
    )
    flags.DEFINE_integer(
        "synthetic_size", DEFAULT.synthetic_size, f"their height and width in pixels; default: {SYNTHETIC_SIZE}"
    )
    flags.DEFINE_integer("n_splits", DEFAULT.n_splits, "random splits to train on, each a fold of its own")
    flags.DEFINE_float("train_size", DEFAULT.train_size, "fraction of the samples to train on")
    flags.DEFINE_string("state_dict_uri", DEFAULT.state_dict_uri, "earlier run whose split to use again")
    flags.DEFINE_boolean("test_run", DEFAULT.test_run, "use one batch of training and validation samples only")

    flags.DEFINE_float("lr", DEFAULT.lr, "Adam's learning rate")
    flags.DEFINE_integer("epochs", DEFAULT.epochs, "passes over the training samples")
    flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "samples an update, over all devices")
    flags.DEFINE_enum(
        "augmentation",
        DEFAULT.augmentation,
        AUGMENTATIONS,
        "weak: flips and right-angle turns; strong: noise and smoothing besides",
    )
    flags.DEFINE_integer(
        "check_val_every_n_epoch", DEFAULT.check_val_every_n_epoch, "validate after every n-th epoch and the last"
    )

    processing.define_processing_flags(
        list(processing.PROCESSING_MODES),
        "parametrized: the learnable pipeline; static: classical algorithms; neural_network: a U-Net++ on half-size "
        "RGB from the mosaic; none: that RGB as it is",
    )
    flags.adopt_module_key_flags(processing)
    flags.DEFINE_string(
        "processor_uri", DEFAULT.processor_uri, "earlier run whose processor and normalisation to start from"
    )
    flags.DEFINE_boolean("freeze_processor", DEFAULT.freeze_processor, "keep the processor's parameters as they are")
    flags.DEFINE_enum(
        "classifier_network",
        DEFAULT.classifier_network,
        CLASSIFIERS,
        "for classification: the head",
        case_sensitive=False,
    )
    flags.DEFINE_string("classifier_uri", DEFAULT.classifier_uri, "earlier run whose head to start from")
    flags.DEFINE_boolean(
        "freeze_classifier", DEFAULT.freeze_classifier, "keep the head's parameters and batch statistics as they are"
    )

    flags.DEFINE_enum(
        "smp_encoder", DEFAULT.smp_encoder, ENCODERS, "for segmentation: the encoder of the U-Net++; default: resnet34"
    )
    flags.DEFINE_boolean(
        "classifier_pretrained",
        DEFAULT.classifier_pretrained,
        "start the head's ResNet from ImageNet weights, torchvision's from the Hugging Face hub; its last layer or its "
        "decoder stays random",
    )
    flags.DEFINE_string(
        "pretrained_weights",
        DEFAULT.pretrained_weights,
        "for --classifier_pretrained without the network: a safetensors file of them in torchvision's names",
    )

    flags.DEFINE_boolean(
        "adv_training",
        DEFAULT.adv_training,
        "search for the processing that breaks a model: only the processor is trained, uphill in the task loss, from "
        "the camera's or --processor_uri, --lr in natural ranges of its parameters. The head, of --classifier_uri, and "
        "all batch statistics are frozen, also without --freeze_classifier (the published program then stops). The "
        "best epoch is that of the lowest score",
    )
    flags.DEFINE_string(
        "adv_parameters",
        DEFAULT.adv_parameters,
        "with --adv_training, what may move: a list of all, additive_layer, and the pipeline's parameters, by default "
        f"{', '.join(isp.parametrized(isp.CAMERAS['drone']).facts)}; default: {ADV_DEFAULTS['adv_parameters']}",
    )
    flags.DEFINE_enum(
        "adv_aux_loss",
        DEFAULT.adv_aux_loss,
        AUX_LOSSES,
        "with --adv_training, how deviation from the default rendering is measured: ssim: 1 less the structural "
        "similarity (the published program lowers the similarity itself); l2: the mean square difference (there the "
        f"sum); default: {ADV_DEFAULTS['adv_aux_loss']}",
    )
    flags.DEFINE_float(
        "adv_aux_weight",
        DEFAULT.adv_aux_weight,
        f"with --adv_training, what deviation costs beside the task loss; default: {ADV_DEFAULTS['adv_aux_weight']:g}",
    )
    flags.DEFINE_boolean(
        "adv_noise_layer", DEFAULT.adv_noise_layer, "with --adv_training, also train an image that is added at the end"
    )
    flags.DEFINE_boolean(
        "adv_track_differences",
        DEFAULT.adv_track_differences,
        "with --adv_training, record pictures by default, as attacked, and their difference",
    )

    # Always takes a value, as in the published program: --log_model False and --log_model=False.
    flags.DEFINE(
        flags.BooleanParser(),
        "log_model",
        DEFAULT.log_model,
        "write checkpoints (true or false); without them a run cannot be continued",
        serializer=flags.ArgumentSerializer(),
    )
    flags.DEFINE_boolean("save_locally", DEFAULT.save_locally, "also write the final model as model.safetensors")
    flags.DEFINE_boolean("track_processing", DEFAULT.track_processing, "record the picture after every stage")
    flags.DEFINE_boolean(
        "track_processing_gradients", DEFAULT.track_processing_gradients, "record the loss's gradient for every stage"
    )
    flags.DEFINE_boolean("track_predictions", DEFAULT.track_predictions, "record targets and predictions")
    flags.DEFINE_boolean("track_save_tensors", DEFAULT.track_save_tensors, "write what is recorded as .npy, too")
    flags.DEFINE_boolean("track_every_epoch", DEFAULT.track_every_epoch, "record every epoch, not only at the end")
    flags.DEFINE_integer("track_n_images", DEFAULT.track_n_images, "how many of the data set's first samples to record")


def main() -> None:
    """Trains as the flags say."""
    fields = dataclasses.fields(TrainConfig)
    train.run(TrainConfig(**{field.name: flags.FLAGS[field.name].value for field in fields}))


if __name__ == "__main__":
    define_flags()
    startup.run(main)
