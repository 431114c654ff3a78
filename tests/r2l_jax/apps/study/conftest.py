import json

import numpy as np
import pytest

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import make_jobs, trainings_of
from r2l_jax.runtime.flags import build, flat


@pytest.fixture
def config(tmp_path):
    """A study of two folds with few cases and searches."""
    return build(
        StudyConfig, output=str(tmp_path / "study"), folds=2, epochs=3, corruptions=["contrast", "gaussian_noise"],
        severities=[3], adv_parameters=["all", "black_level"], adv_aux_weight=[1e-2, 1e-4],
    )  # fmt: skip


def score(model, case, fold):
    """A made-up score: 0.9 on own images, 0.1 less under other pipelines, 0.4 less under corruption; 0.02 by fold."""
    drop = 0.4 if case.endswith(".3") else 0.0 if case in ("own", model) else 0.1
    return 0.9 - drop + 0.02 * fold


@pytest.fixture
def results(config):
    """Files as the jobs of the study leave them, with made-up numbers."""
    pipelines = list(config.pipelines.values())
    cases = ["own", *pipelines, "contrast.3", "gaussian_noise.3"]
    for training in trainings_of(config, "synthesis").values():
        name = training.run_dir.name
        folds = {str(fold): {case: {"accuracy": score(name, case, fold)} for case in cases} for fold in range(2)}
        write(training.run_dir / "evaluation" / "evaluation.json", {"runs": {name: {"folds": folds}}})
    model = trainings_of(config, "forensics")["model"]
    for group in config.choice.adv_parameters:
        for fold in range(2):
            rows = [
                {"group": group, "aux_weight": weight, "score": 0.9 - drop, "ssim": 1 - drop, "parameters": {}}
                for weight, drop in ((1e-4, 0.5), (1e-2, 0.1))
            ]
            file = config.search_of(model, group).output_dir / f"fold_{fold}" / "worst_case" / "worst_case.json"
            write(file, {"score": "accuracy", "default": {"score": 0.9, "loss": 0.1}, "rows": rows})
    write(model.run_dir / "fold_0" / "metrics.json", {"shape": [64, 32]})
    for name, training in trainings_of(config, "adjustment").items():
        for fold in range(2):
            # The frozen processing is trained longer in the first fold than in the second.
            epochs, slope = (3, 0.2) if name == "learned" else (4 - fold, 0.1)
            history = [{"epoch": epoch, "val_accuracy": slope * (epoch + 1 + fold)} for epoch in range(epochs)]
            content = {"complete": True, "flags": flat(training), "history": history, "fingerprint": "", "made_by": []}
            about = {"task": "classification", "classes": ["a", "b"], "shape": [64, 32], "white_level": None}
            indices = {"train_indices": list(range(80)), "valid_indices": list(range(80, 100))}
            write(training.run_dir / f"fold_{fold}" / "metrics.json", {**content, **about, "camera": None, **indices})
    return make_jobs(config, by_fold=False)


def write(file, content):
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content, default=np.ndarray.tolist))
