"""Networks of timm and segmentation_models_pytorch, trained a little, in all that examines a model."""

import json

import numpy as np
import own_code
import pytest
from small_runs import metrics

import isp
import r2l_jax
from r2l_jax.apps.lab.engine import Engine, Search
from r2l_jax.apps.report.page import write_report
from r2l_jax.data.sets import datasets
from r2l_jax.drift.adjustment import adaptation
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

pytestmark = pytest.mark.slow


def of_timm(name, folder, base):
    timm = pytest.importorskip("timm")
    module = timm.create_model(name, num_classes=5)
    about = timm.data.resolve_model_data_config(module)
    train_a_little(module, base, about["mean"], about["std"], about["input_size"][1:])
    save_file(module.state_dict(), folder / "weights.safetensors")
    return {"classifier_network": f"timm:{name}", "pretrained_weights": str(folder / "weights.safetensors")}


UNET = """
import segmentation_models_pytorch as smp
from safetensors.torch import load_file
import r2l_jax

def module():
    return smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(32, 16, 8))

def make():
    net = module()
    net.load_state_dict(load_file({file!r}))
    return r2l_jax.from_torch(net.eval(), (0.5,) * 3, (0.25,) * 3)
"""


def unet_of_smp(_, folder, base):
    pytest.importorskip("segmentation_models_pytorch")
    code, made = UNET.format(file=str(folder / "weights.safetensors")), {}
    exec(code, made)
    module = made["module"]()
    train_a_little(module, base, (0.5,) * 3, (0.25,) * 3)
    save_file(module.state_dict(), folder / "weights.safetensors")
    return {"classifier_network": own_code.write(folder / "my_unet.py", code), "dataset": "SyntheticSegmentation"}


def train_a_little(module, base, mean, std, size=None):
    """Trains on the embedded data set, by eight steps."""
    segments = not hasattr(module, "num_classes")
    dataset = datasets.load("SyntheticSegmentation" if segments else "Synthetic", **base.data.source)
    raws, targets = dataset.samples(np.arange(16))
    images = torch.tensor((np.asarray(isp.parametrized(dataset.camera)(raws)) - mean) / std, dtype=torch.float32)
    images, targets = images.permute(0, 3, 1, 2), torch.tensor(targets)
    if size is not None:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for _ in range(8):
        logits = module(images)
        if segments:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
        else:
            loss = torch.nn.functional.cross_entropy(logits, targets.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()


@pytest.mark.parametrize(
    ("made_by", "name"), [(of_timm, "test_convnext"), (of_timm, "test_vit"), (unet_of_smp, "unet_of_smp")]
)
def test_everything_that_examines_a_model(made_by, name, base, tmp_path):
    torch.manual_seed(0)
    config = replace(
        base, run_name=name, logdir=str(tmp_path), epochs=0, augmentation="none", **made_by(name, tmp_path, base)
    )
    train.run(config)
    head = config.model.classifier_network
    code = (head,) if head.endswith(":make") else ()
    run, score = r2l_jax.load(config.run_dir, code=code), "iou" if "smp" in name else "accuracy"
    place = {"run": str(config.run_dir), "batch_size": 8, "code": code}

    cases = {"pipelines": ("bilinear.none.none",), "corruptions": ("contrast",), "severities": (3,)}
    found = evaluation.run(EvaluationConfig(run=(str(config.run_dir),), code=code, **cases))
    (tests,) = (each["tests"] for each in found["runs"].values())
    assert tests["own"][score]["mean"] == pytest.approx(metrics(config)[f"val_{score}"], abs=1e-6)

    searches = {
        "adv_parameters": ("black_level",),
        "adv_aux_weight": (1.0,),
        "starts": 1,
        "steps": 4,
        "step_size": 0.05,
    }
    # Tolerances need no gradient, and many images.
    analyses = ("sensitivity", "worst_case", *(["tolerances"] if score == "iou" else []))
    found = forensics.run(build(ForensicsConfig, analyses=analyses, **place, **searches))[0]
    gradients = found["sensitivity"]["overall"]["parameters"]
    assert all(np.isfinite(each["worst"]) for each in gradients.values())
    assert max(each["worst"] for each in gradients.values()) > 0
    (worst,) = found["worst_case"]["rows"]
    assert np.isfinite(worst["loss"])
    assert np.abs(np.array(worst["parameters"]["black_level"]) - np.asarray(run.pipeline.black_level[...])).max() > 0.01
    assert "tolerances" not in found or len(found["tolerances"]["table"]) > 0

    methods = {"unlabeled": 8, "labeled": 8, "method": "all", "starts": 1, "steps": 2, "force": True}
    found = adaptation.run(build(AdaptationConfig, **place, **methods, intensities=(0.25,)))
    assert set(found["drifts"]["iso=0.25"]["methods"]) >= {"statistics", "processing", "labels"}
    adapted = r2l_jax.load(config.run_dir / "adjustment/iso=0.25", code=code)
    assert adapted.predict(np.zeros((1, 32, 32), np.float32)).shape[0] == 1

    assert write_report([str(config.run_dir)], tmp_path / "report.html") > 10_000

    engine = Engine(run.pipeline, run)
    raw, target = run.folds[0].dataset[int(run.folds[0].valid_indices[0])]
    judgement, slope = engine.slope(engine.start, raw, np.asarray(target))
    probabilities = run.predict(raw[None])[0]
    np.testing.assert_allclose(judgement.probabilities, probabilities, atol=1e-4)
    moved = Search(engine, "worst").step(engine.start, slope)
    assert engine.judge(moved, raw, np.asarray(target)).loss > judgement.loss
    assert json.loads((config.run_dir / "fold_0/metrics.json").read_text())["weights"] == run.about.weights
