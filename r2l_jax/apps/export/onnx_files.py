"""Parts of models as ONNX, using jax2onnx: for any number of images, with the learned parameters as constants."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from r2l_jax.apps.export.folding import folded
from r2l_jax.apps.export.parts import Part
from r2l_jax.errors import errors_only


def missing() -> str | None:
    """Returns a package of the extra `onnx` that is not installed, or None."""
    return next((name for name in ("jax2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None), None)


def write(part: Part, target: Path) -> None:
    """Writes a function of a batch as ONNX with only standard operators; runtimes simplify it when they open it."""
    import jax2onnx  # pyright: ignore[reportMissingImports]  # a package of the extra
    import onnx

    (batch,) = jax.export.symbolic_shape("B")
    inputs = jax.ShapeDtypeStruct((batch, *part.shape), jnp.float32)
    function = core.jaxpr_as_fun(folded(part, inputs))
    # jax2onnx would warn about missing types, which readers infer.
    with errors_only("onnx_ir"):
        model: Any = jax2onnx.to_onnx(
            lambda batch: function(batch)[0],
            [inputs],
            model_name=part.name,
            return_mode="proto",
            input_names=[part.input],
            output_names=[part.output],
        )
    onnx.save(model, target)


def run(part: Part, file: Path, inputs: np.ndarray) -> np.ndarray:
    """Computes a part's outputs from its file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([part.output], {part.input: inputs})[0])
