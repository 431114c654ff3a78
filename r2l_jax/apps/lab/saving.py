"""Files to download: the camera and the pipeline, in the form that other programs read."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array

import isp
from r2l_jax.names import AUTO
from r2l_jax.pipelines import NamedPipeline, camera_with
from r2l_jax.runtime.errors import InputError

Value = np.ndarray | Array

_FILE = '''"""A pipeline with the values that were chosen on the page of lab.py.

python scripts/process.py --input=IMG_0001.dng --output=mine --pipeline=my_isp.py:make
"""

import isp
{imports}

def make(camera: isp.Camera) -> isp.Pipeline:
    """Makes the pipeline with the values below, whatever the camera."""
    return {expression}.with_values(VALUES)


VALUES = {{
{values}}}
'''


def camera(shot: isp.Camera, pipeline: isp.Pipeline, values: Mapping[str, Value]) -> str:
    """Writes a camera with the values of a pipeline as JSON for `--camera` of all programs.

    Args:
        shot: the camera of the frame; fields that no parameter of the pipeline starts from are kept.
        pipeline: declares which parameters start from the camera.
        values: the values of the parameters.

    Raises:
        InputError: a value is not valid for a camera.
    """
    try:
        return camera_with(shot, pipeline, values).to_json()
    except ValueError as error:
        raise InputError(f"no camera has these values: {error}") from None


def pipeline_file(named: NamedPipeline, shot: isp.Camera, values: Mapping[str, Value]) -> str:
    """Writes a pipeline as a Python file for `--pipeline=<file>:make` of all programs.

    Args:
        named: the pipeline, with the values that a camera gives it.
        shot: a camera for which it is made.
        values: the values of the parameters.

    Raises:
        InputError: there are values for further stages, such as an additive layer.
    """
    if more := sorted(values.keys() - named(shot).facts.keys()):
        raise InputError(f"the pipeline has parameters that a file cannot make: {', '.join(more)}")
    lines = "".join(f'    "{name}": {_numbers(value)},\n' for name, value in values.items())
    imports, expression = _expression(named)
    return _FILE.format(imports=imports, expression=expression, values=lines)


def _expression(named: NamedPipeline) -> tuple[str, str]:
    """Returns the import that a pipeline's expression needs besides `isp`, and the expression."""
    if auto := named.auto:
        imports, expression = _expression(dataclasses.replace(named, auto=()))
        kinds = ", ".join(f"{kind}={kind in auto}" for kind in AUTO)
        return imports, f"isp.metered({expression}, camera, {kinds})"
    half = ", half_size=True" * named.half_size
    if named.source is not None:
        # This is the file that the program was started with, which must still exist.
        call = f"find_pipeline({named.name!r}){'.half_sized()' * named.half_size}(camera)"
        return "from r2l_jax.pipelines import find_pipeline\n", call
    if named.name in ("parametrized", "full"):
        return "", f"isp.{named.name}(camera{half})"
    demosaic, sharpen, denoise = named.name.split(".")
    return "", f"isp.static(camera, {demosaic!r}, {sharpen!r}, {denoise!r})".replace("'", '"')


def _numbers(value: Value) -> str:
    """Writes float32 numbers with the fewest digits that restore them exactly."""
    if value.ndim == 0:
        # Not str(), whose digits depend on the print options that other packages set.
        return np.format_float_positional(np.float32(value), unique=True, trim="0")
    inner = ", ".join(_numbers(np.asarray(each)) for each in value)
    return f"[{inner}]"
