"""The settings to save: the pipeline as a Python file that all programs read."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Array

import isp
from r2l_jax.errors import InputError
from r2l_jax.pipelines import NamedPipeline

Value = np.ndarray | Array

_FILE = '''"""A pipeline with values chosen on the page of lab.py.

python scripts/process.py --input=IMG_0001.dng --output=mine --pipeline=my_isp.py:make
"""

import isp
from r2l_jax.pipelines import find_pipeline


def make(camera: isp.Camera) -> isp.Pipeline:
    """Makes the pipeline with the values below, whatever the camera."""
    return {expression}(camera).with_values(VALUES)


VALUES = {{
{values}}}
'''


def pipeline_file(named: NamedPipeline, shot: isp.Camera, values: Mapping[str, Value]) -> str:
    """Writes a pipeline with other values as a Python file for `--pipeline=<file>:make` of all programs.

    The file of a user's pipeline must still exist when the saved one is used.

    Raises:
        InputError: some values belong to stages that the pipeline does not have for the shot's camera, such as an
            additive layer.
    """
    if more := sorted(values.keys() - named(shot).declarations.keys()):
        raise InputError(f"a settings file cannot hold these parameters of the pipeline: {', '.join(more)}")
    # Half-size classical pipelines are named after "binned", which cannot be chosen by name: any demosaicing will do.
    name = named.name.replace("binned.", "bilinear.")
    half, metered = ".half_sized()" * named.half_size, f".metered({named.auto!r})" if named.auto else ""
    lines = "".join(f'    "{name}": {_numbers(value)},\n' for name, value in values.items())
    return _FILE.format(expression=f"find_pipeline({name!r}){half}{metered}", values=lines)


def _numbers(value: Value) -> str:
    """Writes float32 numbers with the fewest digits that restore them exactly."""
    if value.ndim == 0:
        # Not str(), whose digits depend on the print options that other packages set.
        return np.format_float_positional(np.float32(value), unique=True, trim="0")
    inner = ", ".join(_numbers(np.asarray(each)) for each in value)
    return f"[{inner}]"
