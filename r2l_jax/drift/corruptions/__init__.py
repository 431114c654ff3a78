"""Common corruptions of finished images at five severities, which most tests of robustness use.

The corruptions are the nineteen of D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common
corruptions and perturbations, ICLR (2019). They have the strengths of CIFAR-10-C, as in the program of the study, and
match the functions of scikit-image, SciPy, OpenCV and Pillow that its published code calls. Sizes are in pixels of the
image, unless a corruption says otherwise. They ignore the raw data and the processing, and serve as the baseline for
drift in both.

Each corruption is a function of images `(..., H, W, 3)` in [0, 1], which may be a NumPy array, a key and a severity
from 1 to 5. It returns images in [0, 1]. The same key gives the same noise, which differs between the images of a
batch; corruptions without noise ignore the key. The severity is an int or a traced whole number: all five share one
compiled function.
"""

from collections.abc import Mapping

from r2l_jax import names
from r2l_jax.drift.corruptions import blur, digital, droplets, noise, values, weather
from r2l_jax.drift.corruptions.declare import DECLARED, GROUPS, Corruption

__all__ = ["CORRUPTIONS", "GROUPS", "blur", "digital", "droplets", "noise", "values", "weather"]

CORRUPTIONS: Mapping[str, Corruption] = {name: DECLARED[name] for name in names.CORRUPTIONS}
