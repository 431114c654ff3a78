import json

import numpy as np
import pytest
from outcomes import of_counts

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import PIPELINES, runs_of
from r2l_jax.cli.flags import build, flat
from r2l_jax.drift.measure import packed_blocks
from r2l_jax.results import result
from r2l_jax.results.result import Column, Result, Table

# The samples that each fold measures.
SAMPLES = 50


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A study of two folds with few cases and searches."""
    return build(
        StudyConfig,
        output=str(tmp_path_factory.mktemp("here") / "study"),
        n_splits=2,
        epochs=3,
        lr=1e-3,
        batch_size=8,
        corruptions=["contrast", "gaussian_noise"],
        severities=[2, 3],
        adv_parameters=["all", "black_level"],
        adv_aux_weight=[1e-4, 1e-2],
    )


@pytest.fixture(scope="module")
def finished(config):
    """The study with files as its jobs leave them, with made-up numbers."""
    for number, (name, run) in enumerate(runs_of(config, "synthesis").items()):
        groups = {"clean": ["clean"], "pipelines": [each for trained, each in PIPELINES.items() if trained != name]}
        groups["corruptions"] = [f"{kind}.{severity}" for kind in ("contrast", "gaussian_noise") for severity in (2, 3)]
        for group, cases in groups.items():
            blocks = packed_blocks([evaluated(cases, fold, {0: 2, 11: -2}.get(number, 0)) for fold in range(2)])
            result.write(run.run_dir / "evaluation" / group, Result({}, outcomes=blocks))
    (model,) = runs_of(config, "forensics").values()
    for fold in range(2):
        rows = [
            [f"{group}, weight {weight:g}", 0.9 - drop - 0.1 * fold]
            for group in config.choice.adv_parameters
            for weight, drop in ((1e-4, 0.5), (1e-2, 0.1))
        ]
        worst = {"worst_case": Table("worst cases", [Column("worst case"), Column("accuracy")], rows)}
        result.write(model.run_dir / "forensics" / f"fold_{fold}" / "worst_case", Result({"score": 0.9}, worst))
    for name, run in runs_of(config, "adjustment").items():
        slope = 0.2 if name == "learned" else 0.1
        for fold in range(2):
            history = [{"epoch": epoch, "val_accuracy": slope * (epoch + 1 + fold)} for epoch in range(3)]
            about = {
                "task": "classification",
                "scored_by": "accuracy",
                "has_masks": False,
                "code": {},
                "classes": ["a", "b"],
                "shape": [64, 32],
                "white_level": None,
            }
            indices = {"train_indices": list(range(80)), "valid_indices": list(range(80, 100))}
            content = {"complete": True, "flags": flat(run), "history": history, "fingerprint": "", "camera": None}
            file = run.run_dir / f"fold_{fold}" / "metrics.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({**content, **about, **indices}))
    return config


# What corruptions cost; other pipelines cost 5 samples.
LOST = {"clean": 0, "contrast.2": 12, "contrast.3": 32, "gaussian_noise.2": 8, "gaussian_noise.3": 28}


def evaluated(cases, fold, more):
    """Returns outcomes of a model: of 50 samples on its clean images, 45 and `more` are correct, one more in fold 1."""
    lost = np.array([LOST.get(case, 5) for case in cases])
    counted = (np.arange(SAMPLES) < 45 + fold + more - lost[:, None]).astype(np.float32)[None]
    return of_counts([f"fold_{fold}"], cases, np.arange(SAMPLES) + SAMPLES * fold, counted)
