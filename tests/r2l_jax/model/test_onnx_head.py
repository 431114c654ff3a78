"""Networks in ONNX files as heads, without gradients."""

import jax
import numpy as np
import onnx
import pytest

import r2l_jax
from r2l_jax import from_onnx
from r2l_jax.cli.flags import replace
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.errors import InputError
from r2l_jax.training import train

IMAGES = np.random.default_rng(0).random((5, 8, 10, 3), np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)


def write(file, shape, last=False):
    """Writes a network that multiplies the means of an image's channels by the weights."""
    axes = onnx.numpy_helper.from_array(np.array([1, 2] if last else [2, 3], np.int64), "axes")
    weights = onnx.numpy_helper.from_array(WEIGHTS, "weights")
    nodes = [
        onnx.helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
        onnx.helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    given = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)
    made = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [shape[0], 5])
    graph = onnx.helper.make_graph(nodes, "network", [given], [made], [axes, weights])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), file)
    return str(file)


@pytest.mark.shows("r2l_jax.from_onnx(file, mean, std)")
@pytest.mark.parametrize(
    ("shape", "last"), [(["B", 3, "H", "W"], False), (["B", 8, 10, 3], True), ([2, 3, "H", "W"], False)]
)
def test_logits_whatever_the_layout_and_the_batch_of_the_file(tmp_path, shape, last):
    head = from_onnx(write(tmp_path / "net.onnx", shape, last), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    wanted = ((IMAGES.mean((1, 2)) - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 1.0, 2.0])) @ WEIGHTS
    np.testing.assert_allclose(jax.jit(head)(IMAGES), wanted, atol=1e-5)
    together = jax.jit(jax.vmap(head))(np.stack([IMAGES, IMAGES[::-1]]))
    np.testing.assert_allclose(together, [wanted, wanted[::-1]], atol=1e-5)


@pytest.mark.shows("r2l_jax.from_onnx(size)")
def test_images_are_resized_to_the_size_of_the_file(tmp_path):
    head = from_onnx(write(tmp_path / "net.onnx", ["B", 3, 4, 5]))
    assert head.core.size == (4, 5)
    free, checked = from_onnx(write(tmp_path / "free.onnx", ["B", 3, "H", "W"]), size=(4, 6)), IMAGES.copy()
    checked[:, ::2, ::2] = 3
    wanted = jax.image.resize(checked, (len(checked), 4, 6, 3), "linear").mean((1, 2)) @ WEIGHTS
    np.testing.assert_allclose(free(checked), wanted, rtol=1e-5)
    assert np.abs(checked.mean((1, 2)) @ WEIGHTS - wanted).max() > 1e-3
    # Halving both sides keeps the means of an image that is constant.
    constant = np.ones((2, 8, 10, 3), np.float32)
    np.testing.assert_allclose(head(constant), np.tile(WEIGHTS.sum(0), (2, 1)), rtol=1e-5)


def test_a_gradient_is_refused_in_one_line(tmp_path):
    head = from_onnx(write(tmp_path / "net.onnx", ["B", 3, "H", "W"]))
    with pytest.raises(InputError, match="the head must have gradients, got an ONNX network, which has none"):
        jax.jit(jax.grad(lambda images: head(images).sum()))(IMAGES)


def test_files_that_do_not_fit(tmp_path):
    file = tmp_path / "net.onnx"
    with pytest.raises(InputError, match=r"one float32 batch .*, got tensor\(float\) \['B', 'C', 'H', 'W'\]$"):
        from_onnx(write(file, ["B", "C", "H", "W"]))
    file.write_bytes(b"no network")
    with pytest.raises(InputError, match=r"net.onnx cannot be read as ONNX[^\n]*$"):
        from_onnx(str(file))


def test_a_file_is_measured_and_predicts(base, tmp_path, capsys):
    file = write(tmp_path / "net.onnx", ["B", 3, "H", "W"])
    config = replace(base, run_name="onnx", epochs=0, classifier_network=file)
    train.run(config)
    assert f"python scripts/forensics.py --run={config.run_dir} --analyses=tolerances\n" in capsys.readouterr().out
    run = r2l_jax.load(config.run_dir)
    raws, _ = run.dataset.samples(np.arange(4))
    logits = run.render(raws).mean((1, 2)) @ WEIGHTS
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(run.predict(raws), odds / odds.sum(1, keepdims=True), atol=1e-5)
    forensic = ForensicsConfig(run=str(config.run_dir), output=str(tmp_path / "forensics"), analyses=("sensitivity",))
    with pytest.raises(InputError, match=r"^`analyses=sensitivity` needs the gradient of the head, .* works without"):
        forensics.run(forensic)
    with pytest.raises(InputError, match="the head must have gradients"):
        train.run(replace(config, run_name="learned", epochs=1, freeze_classifier=True))
    write(tmp_path / "net.onnx", ["B", 3, "H", 32])
    with pytest.raises(InputError, match=r"the weights or code of `class.*net.onnx` have changed since training"):
        r2l_jax.load(config.run_dir)
