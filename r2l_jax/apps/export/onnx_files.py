"""Parts of models as ONNX, using jax2onnx: for any number of images, with the learned parameters as constants."""

import importlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from r2l_jax.apps.export.folding import folded
from r2l_jax.apps.export.parts import Part
from r2l_jax.runtime.errors import InputError, errors_only

# How often a file is run; the median time counts.
_RUNS = 5

_ONLY_ERRORS = 3


def check_installed() -> None:
    """Raises an InputError unless the packages of the extra are installed."""
    for name in ("jax2onnx", "onnx", "onnxruntime"):
        _package(name)


def _package(name: str) -> Any:
    """Imports a package of the extra."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"--formats=onnx needs the package {name}: pip install 'r2l_jax[onnx]', or choose other formats"
        ) from None


def write(part: Part, target: Path) -> None:
    """Writes a function of a batch as ONNX.

    onnxruntime simplifies the graph, which has only standard operators.
    """
    jax2onnx, onnx, onnxruntime = map(_package, ("jax2onnx", "onnx", "onnxruntime"))
    (batch,) = jax.export.symbolic_shape("B")
    inputs = jax.ShapeDtypeStruct((batch, *part.shape), jnp.float32)
    function = core.jaxpr_as_fun(folded(part, inputs))
    # The package would warn about missing types, which readers infer.
    with errors_only("onnx_ir"):
        model: Any = jax2onnx.to_onnx(
            lambda batch: function(batch)[0],
            [inputs],
            model_name=part.name,
            return_mode="proto",
            input_names=[part.input],
            output_names=[part.output],
        )
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    # onnxruntime also lists all other sets of operators that it knows.
    used = {node.domain for node in _nodes(model.graph)}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, target)


def run(_: Part, file: Path, inputs: np.ndarray) -> np.ndarray:
    """Computes a part's outputs from its file."""
    session = _session(file)
    return session.run(None, _feed(session, inputs))[0]


def measured(file: Path, inputs: np.ndarray) -> dict[str, Any]:
    """Counts the nodes of a file, and measures the time that onnxruntime takes for a batch, per image."""
    session, seconds = _session(file), []
    feed = _feed(session, inputs)
    for _ in range(_RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    nodes = sum(1 for _ in _nodes(_package("onnx").load(file).graph))
    return {"nodes": nodes, "milliseconds_per_image": 1000 * float(np.median(seconds)) / len(inputs)}


def _session(file: Path) -> Any:
    return _package("onnxruntime").InferenceSession(file, _options(), providers=["CPUExecutionProvider"])


def _feed(session: Any, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {session.get_inputs()[0].name: inputs}


def _options() -> Any:
    options = _package("onnxruntime").SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    return options


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph and of its loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
