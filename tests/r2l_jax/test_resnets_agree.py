"""A ResNet-18 of torchvision, frozen in PyTorch, and the same one in JAX: every program finds the same."""

import numpy as np
import own_code
import pytest
from small_runs import metrics

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.flags import build
from r2l_jax.training import train

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from safetensors.torch import save_file  # noqa: E402

pytestmark = pytest.mark.slow

CODE = """
import torchvision
from flax import nnx
from safetensors.numpy import load_file as arrays
from safetensors.torch import load_file

import r2l_jax
import tasks

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

def in_torch():
    module = torchvision.models.resnet18(num_classes=5)
    module.load_state_dict(load_file({file!r}))
    return r2l_jax.from_torch(module.eval(), MEAN, STD)

def in_jax():
    head = tasks.resnet("resnet18", num_classes=5, rngs=nnx.Rngs(0))
    tasks.load_torch_state(head, arrays({file!r}))
    return r2l_jax.from_flax(head, MEAN, STD)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory, data_dir):
    """The runs of a network that was trained for a few steps, so that its classes differ."""
    folder = tmp_path_factory.mktemp("resnets")
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=5).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    dataset = datasets.load("Synthetic", data_dir=data_dir, synthetic_images=40, synthetic_size=32)
    raws, labels = dataset.samples(np.arange(40))
    images = torch.tensor(np.array(isp.parametrized(dataset.camera)(raws))).permute(0, 3, 1, 2)
    targets = torch.tensor(np.array(labels, np.int64))
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(4 * images - 2), targets).backward()
        optimizer.step()
    save_file(module.state_dict(), folder / "weights.safetensors")
    code, runs = CODE.format(file=str(folder / "weights.safetensors")), []
    for name in ("in_torch", "in_jax"):
        config = build(
            TrainConfig,
            logdir=str(folder),
            experiment_name="resnets",
            run_name=name,
            data_dir=data_dir,
            synthetic_images=40,
            synthetic_size=32,
            batch_size=8,
            epochs=0,
            classifier_network=own_code.write(folder / "my_resnet.py", code, name),
        )
        train.run(config)
        runs.append(config)
    return runs


def test_scores_and_tables_of_evaluations_are_equal(both, tmp_path):
    settings = {"pipelines": ("bilinear.none.none",), "corruptions": ("contrast",), "severities": (3,)}
    found = [
        evaluation.run(
            EvaluationConfig(
                run=(str(each.run_dir),),
                output=str(tmp_path / each.tracking.run_name),
                code=(each.model.classifier_network,),
                **settings,
            )
        )
        for each in both
    ]
    there, ours = ({name: matrix["mean"] for name, matrix in each["matrices"].items()} for each in found)
    assert there == ours
    assert metrics(both[0])["val_loss"] == pytest.approx(metrics(both[1])["val_loss"], rel=1e-4)
    assert len(np.unique(np.concatenate([np.ravel(each) for each in there.values()]))) > 1


# A search over all parameters amplifies rounding: after 20 steps, losses that agreed within 1e-7 are up to 5% apart.
@pytest.mark.parametrize(("group", "steps"), [("white_balance", 20), ("all", 1)])
def test_worst_cases_end_at_the_same_loss(both, tmp_path, group, steps):
    settings = {"adv_parameters": (group,), "adv_aux_weight": (10.0,), "starts": 1, "steps": steps, "batch_size": 8}
    there, ours = (
        forensics.run(
            build(
                ForensicsConfig,
                run=str(each.run_dir),
                code=(each.model.classifier_network,),
                output=str(tmp_path / each.tracking.run_name),
                analyses=("sensitivity", "worst_case"),
                **settings,
            )
        )[0]
        for each in both
    )
    (worst,), (our_worst,) = there["worst_case"]["rows"], ours["worst_case"]["rows"]
    assert worst["loss"] > 1.05 * metrics(both[0])["val_loss"]
    assert worst["loss"] == pytest.approx(our_worst["loss"], rel=1e-4)
    for name, each in ours["sensitivity"]["overall"]["parameters"].items():
        assert there["sensitivity"]["overall"]["parameters"][name]["worst"] == pytest.approx(each["worst"], rel=0.01)
