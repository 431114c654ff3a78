import json
import shutil

import jax.numpy as jnp
import numpy as np
import own_code
import pytest
import tifffile
from small_runs import metrics, model

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift.adjustment.config import AdaptationConfig, LearningConfig
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, leaves, replace
from r2l_jax.training import train, trained


def test_a_finished_run_comes_back_as_it_was_trained(one_epoch):
    ((fold,),) = trained.load_runs([str(one_epoch.run_dir)])
    assert fold.config == one_epoch
    assert fold.fold.valid_indices.tolist() == metrics(one_epoch)["valid_indices"]
    saved = model(one_epoch)
    np.testing.assert_array_equal(fold.model.head.conv1.kernel[...], saved["head.conv1.kernel"])
    np.testing.assert_array_equal(fold.model.processor.white_balance[...], saved["processor.white_balance"])
    raws, targets = zip(*(fold.dataset[index] for index in fold.fold.valid_indices.tolist()), strict=True)
    index, weight = jnp.arange(len(raws)), jnp.ones(len(raws))
    batch = {"raw": jnp.stack(raws), "target": jnp.stack(targets), "index": index, "weight": weight}
    sums = fold.task.sums(fold.model(batch["raw"]), batch)
    assert float(sums["loss"]) / len(raws) == pytest.approx(metrics(one_epoch)["val_loss"], rel=1e-4)


def test_which_checkpoint_is_loaded_is_printed(one_epoch, capsys):
    trained.load_runs([str(one_epoch.run_dir)])
    trained.load_runs([str(one_epoch.run_dir)], checkpoint="last")
    folder = one_epoch.run_dir / "fold_0"
    assert capsys.readouterr().out == f"{folder}: the best checkpoint\n{folder}: the last checkpoint\n"


@pytest.mark.parametrize("settings", [AdaptationConfig, LearningConfig, ForensicsConfig, EvaluationConfig])
def test_every_program_takes_the_best_checkpoint_by_default(settings):
    (flag,) = (leaf for leaf in leaves(settings) if leaf.name == "checkpoint")
    assert (flag.default, flag.declared.choices) == ("best", ("best", "last"))


def test_runs_of_the_same_data_share_it(one_epoch):
    runs = trained.load_runs([str(one_epoch.run_dir), str(one_epoch.run_dir / "fold_0")])
    assert runs[0][0].dataset is runs[1][0].dataset


def test_runs_of_data_in_two_places_share_nothing(one_epoch, tmp_path):
    shutil.copytree(one_epoch.data.data_dir, tmp_path / "data")
    shutil.copytree(one_epoch.run_dir, tmp_path / "run")
    content = metrics(one_epoch)
    content["flags"]["data_dir"] = str(tmp_path / "data")
    (tmp_path / "run/fold_0/metrics.json").write_text(json.dumps(content))
    ((here,), (there,)) = trained.load_runs([str(one_epoch.run_dir), str(tmp_path / "run")])
    assert here.dataset is not there.dataset
    assert there.dataset.files[0][0].is_relative_to(tmp_path)


def test_a_link_to_a_fold_stands_for_it(one_epoch, tmp_path):
    (tmp_path / "link").symlink_to(one_epoch.run_dir / "fold_0")
    ((fold,),) = trained.load_runs([str(tmp_path / "link")])
    assert fold.fold.number == 0


def test_the_fingerprint_has_the_content_of_the_pipeline_s_file(one_epoch, tmp_path):
    ((fold,),), fingerprints = trained.load_runs([str(one_epoch.run_dir)]), []
    for name, comment in (("a.py", ""), ("b.py", ""), ("c.py", "# another")):
        code = f"import isp\nmake = isp.parametrized\n{comment}"
        config = build(TrainConfig, pipeline=own_code.write(tmp_path / name, code))
        fingerprints.append(fold._replace(config=config).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert len({fold.fingerprint, *fingerprints}) == 3


def test_a_folder_that_is_no_finished_run_is_named(one_epoch, tmp_path):
    with pytest.raises(InputError, match=r"--run=nowhere is no run's folder: not found"):
        trained.load_runs(["nowhere"])
    with pytest.raises(InputError, match=r"is no run's folder: it has no fold_0"):
        trained.load_runs([str(tmp_path)])
    run = tmp_path / "run"
    shutil.copytree(one_epoch.run_dir, run)
    content = metrics(one_epoch)
    for change, message in (
        ({"complete": False}, r"fold_0 is not trained to its end"),
        ({"fingerprint": "another"}, r"was trained on other data: the samples or classes of Synthetic in .* are not"),
        ({"flags": {**content["flags"], "new": 1}}, r"trained by another version: it has the flags new"),
    ):
        (run / "fold_0/metrics.json").write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=message):
            trained.load_runs([str(run)])


def test_data_that_has_moved_is_found_by_its_new_place(one_epoch, tmp_path):
    datasets.load("Synthetic", **replace(one_epoch, data_dir=str(tmp_path)).data.source)
    ((fold,),) = trained.load_runs([str(one_epoch.run_dir)], data_dir=str(tmp_path))
    assert fold.config.data.data_dir == str(tmp_path)


def test_a_run_on_own_files_is_loaded_after_all_has_moved(base, tmp_path, monkeypatch):
    """The data, the camera's file in its folder, the run, and the current directory."""
    rng, here = np.random.default_rng(0), tmp_path / "here"
    for label in ("a", "b"):
        (here / "cells" / label).mkdir(parents=True)
        for number in range(4):
            samples = rng.integers(0, 2**16, (32, 32), dtype=np.uint16)
            tifffile.imwrite(here / "cells" / label / f"{number}.tiff", samples)
    (here / "cells" / "my_camera.json").write_text(isp.CAMERAS["drone"].to_json())
    monkeypatch.chdir(here)
    config = replace(
        base, logdir="runs", run_name="moved", epochs=1, dataset="Folder", data_dir="cells", batch_size=2,
        camera="cells/my_camera.json", synthetic_images=None, synthetic_size=None, train_size=0.5,
    )  # fmt: skip
    train.run(config)
    there, elsewhere = here.rename(tmp_path / "there"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    uri, data = "../there/runs/test/moved", "../there/cells"
    ((fold,),) = trained.load_runs([uri], data_dir=data)
    assert fold.dataset.camera == isp.CAMERAS["drone"]
    (there / "cells" / "my_camera.json").unlink()
    message = (
        rf"--run={uri}/fold_0 was trained with --camera=cells/my_camera.json, which is not found here: put it at "
        rf"{data}/my_camera.json"
    )
    with pytest.raises(InputError, match=message):
        trained.load_runs([uri], data_dir=data)
