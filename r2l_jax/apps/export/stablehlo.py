"""Parts of models as StableHLO, using `jax.export`: one file for CPUs, GPUs and TPUs, and for any number of images.

JAX guarantees that files can be loaded by releases up to six months newer than the one that exported them, and up to
three weeks older.
"""

import contextlib
import datetime
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r2l_jax.apps.export.parts import Part
from r2l_jax.errors import InputError, one_line, warn

# The description of an export, beside its files.
NAME = "model.json"

_BACKWARD = datetime.timedelta(days=182)


def write(part: Part, target: Path, gradient: bool) -> None:
    """Writes a function of the parameters, a dict by name, and of a batch, for `jax.export.deserialize`.

    With `gradient`, the file also has the reverse-mode derivative.
    """
    (batch,) = jax.export.symbolic_shape("B")
    parameters = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), part.parameters)
    inputs = jax.ShapeDtypeStruct((batch, *part.shape), jnp.float32)
    exported = jax.export.export(jax.jit(part.function), platforms=("cpu", "cuda", "tpu"))(parameters, inputs)
    target.write_bytes(exported.serialize(vjp_order=int(gradient)))


def guarantee() -> dict[str, str]:
    """Says which JAX exports today, and until when its files can be loaded at the latest.

    The last day is earlier if this JAX is old: JAX counts from its release, which an installation does not tell.
    """
    today = datetime.date.today()
    return {"jax": jax.__version__, "exported": str(today), "guaranteed_until": str(today + _BACKWARD)}


def load(file: str | os.PathLike) -> jax.export.Exported:
    """Loads a function, to be called with the parameters, a dict by name, and a batch.

    Warns if `model.json` beside the file says that JAX no longer guarantees this.

    Raises:
        InputError: the file cannot be loaded by this JAX.
    """
    file, about = Path(file), {}
    with contextlib.suppress(OSError, ValueError, LookupError):
        about = dict(json.loads((file.parent / NAME).read_text())["stablehlo"])
    reason = ""
    if about.get("guaranteed_until", "9") < str(datetime.date.today()):
        reason = f"its guarantee ended on {about['guaranteed_until']}"
    elif tuple(map(int, re.findall(r"\d+", about.get("jax", ""))[:3])) > jax.__version_info__:
        reason = f"it was exported with JAX {about['jax']}, newer than {jax.__version__} here"
    try:
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        exported.mlir_module()  # Else the program is read only when it is called.
    except Exception as error:  # Readers of damaged and foreign files raise many kinds.
        whole = f"{file} cannot be loaded by JAX {jax.__version__}: {reason or one_line(error)[:200]}"
        raise InputError(f"{whole}; export the model again, or use its ONNX file or model.safetensors") from None
    if reason:
        warn(f"{file}: {reason}; export the model again, or keep an ONNX file or model.safetensors")
    return exported


def run(part: Part, file: Path, inputs: np.ndarray) -> np.ndarray:
    """Computes a part's outputs from its file."""
    return np.asarray(load(file).call(part.parameters, inputs))
