"""Drifts as MAITE augmentations and as image transforms, and MAITE data sets as raw images."""

from r2l_jax.apps.share.maite import Augmentation, dataset

__all__ = ["Augmentation", "dataset"]
