"""A task and a score of one's own, from training to every control, as the tutorial defines them."""

import csv
import pathlib
import re

import custom_code
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from pages import PAGES, ROOT, code_blocks
from programs import call
from small_runs import metrics

import isp
import r2l_jax
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import folder
from r2l_jax.errors import InputError
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.results import result
from r2l_jax.training import train
from tasks.testing import check_task

PAGE = PAGES["docs/tutorial_own_task.md"]
COUNTING = next(block for block in code_blocks("python", PAGE) if "class Counting" in block)
SCORE = code_blocks("python", PAGE)[-1]
COUNTS = [0, 3, 1, 2, 5, 4, 0, 2, 3, 1, 4, 2]


@pytest.fixture
def fields(tmp_path, monkeypatch):
    """Twelve raw images, as much darker as more cells are counted; a camera, and the files of task and score."""
    monkeypatch.chdir(tmp_path)
    images = pathlib.Path("fields")
    images.mkdir()
    rng = np.random.default_rng(0)
    for number, count in enumerate(COUNTS):
        raw = 0.6 - 0.08 * count + rng.normal(0, 0.01, (32, 32))
        tifffile.imwrite(images / f"{number}.tiff", np.round(65535 * raw).astype(np.uint16))
    rows = [["name", "cells"], *([f"{number}.tiff", count] for number, count in enumerate(COUNTS))]
    with (images / "counts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    pathlib.Path("scope.json").write_text(isp.CAMERAS["microscopy"].to_json())
    pathlib.Path("counting.py").write_text(COUNTING)
    return images


def test_the_task_of_the_tutorial_is_short_and_keeps_the_laws(fields):
    assert len(COUNTING.splitlines()) <= 80
    task = make_task("numbers", ("cells",), NetworkSettings(task="counting.py:make"))
    assert task == make_task("numbers", ("cells",), NetworkSettings(task="counting.py:make"))
    rng = np.random.default_rng(0)
    batch = {"target": jnp.asarray(rng.poisson(4, (8, 1)), jnp.float32), "weight": jnp.ones(8)}
    logits = jnp.asarray(rng.normal(4, 2, (8, 1)), jnp.float32)
    check_task(task, logits, batch)
    np.testing.assert_allclose(task.logits_of(task.probabilities(logits, 0)), logits, rtol=1e-4)


TRAIN = (
    *("--dataset=Folder", "--data_dir=fields", "--annotations=fields/counts.csv", "--camera=scope.json"),
    *("--task=counting.py:make", "--logdir=runs", "--experiment_name=cells", "--run_name=counting", "--epochs=2"),
    *("--batch_size=4", "--warmup_epochs=0", "--test_size=4"),
)
CODE = ("--run=runs/cells/counting", "--code=counting.py:make")


@pytest.mark.shows("train --task")
def test_a_task_of_ones_own_has_every_control_and_needs_its_file(fields):
    ended = call("train.py", *TRAIN)
    assert "test rightly_counted:" in ended.stdout
    about = r2l_jax.load("runs/cells/counting", code="counting.py:make")
    (fold,) = about.folds
    raws, targets = fold.dataset.samples(fold.split.test)
    counted = about.predict(raws)[:, 0]
    expected = 1 - np.abs(counted - targets[:, 0]).sum() / targets.sum()
    call("evaluate.py", *CODE, "--against=sensor", "--sensor=defocus", "--severities=3")
    found = result.read(pathlib.Path("runs/cells/counting/evaluation"))
    clean, low, high = found.tables["drops"].rows[0][2]
    assert clean == pytest.approx(expected, rel=1e-5)
    # The interval is that of the score without each sample, with two added samples, see `statistics`.
    left = [1 - np.abs(counted - targets[:, 0])[kept].sum() / targets[kept].sum() for kept in ~np.eye(4, dtype=bool)]
    assert low < min(left) < max(left) < high
    call("predict.py", *CODE, "--input=fields", "--output=counts.csv")
    rows = [*csv.DictReader(pathlib.Path("counts.csv").read_text().splitlines())]
    assert [*rows[0]] == ["file", "cells"]
    by_file = {row["file"]: float(row["cells"]) for row in rows}
    names = [f"fields/{fold.dataset.names[index]}" for index in fold.split.test]
    np.testing.assert_allclose([by_file[name] for name in names], counted, rtol=1e-4)
    assert call("report.py", "--run=runs/cells/counting").returncode == 0
    assert "rightly_counted" in pathlib.Path("runs/cells/counting/report.html").read_text()
    with pytest.raises(InputError, match=r"runs only if you name it: .* pass `code=.*counting.py:make`"):
        r2l_jax.load("runs/cells/counting")
    pathlib.Path("counting.py").write_text(COUNTING.replace("softplus", "relu"))
    with pytest.raises(InputError, match="has different content"):
        r2l_jax.load("runs/cells/counting", code="counting.py:make")


@pytest.mark.shows("train --score")
def test_several_scores_of_one_training(base, tmp_path):
    """The score of validation chooses the checkpoint, and is recorded under its name."""
    own = custom_code.write(tmp_path / "my_score.py", SCORE)
    for name, said in (("balanced_accuracy", "balanced_accuracy"), ("auroc:BAS", "auroc:BAS"), (own, "my_score.make")):
        config = replace(base, run_name=said.replace(":", "_"), epochs=3, score=name)
        summary, content = train.run(config), metrics(config)
        assert next(iter(summary)) == f"val_{said}"
        values = [row[f"val_{said}"] for row in content["history"]]
        losses = [row["val_loss"] for row in content["history"]]
        assert content["best_epoch"] == max(range(3), key=lambda epoch: (values[epoch], -losses[epoch], -epoch))
        confusion = np.array(content["val_confusion_matrix"])
        if name == "balanced_accuracy":
            present = confusion.sum(1) > 0
            assert values[-1] == pytest.approx((np.diag(confusion) / confusion.sum(1).clip(1))[present].mean())
        if name == own:
            missed = confusion[1:, 0].sum()
            assert values[-1] == pytest.approx(1 - missed / confusion.sum())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(classes):\n    return 3\n", "must return a r2l_jax.model.tasks.Task, got int"),
        ("def make(classes):\n    return classes['x']\n", "raised TypeError: .* (line 2)"),
    ],
)
def test_a_wrong_task_is_one_line(tmp_path, code, message):
    file = custom_code.write(tmp_path / "wrong.py", code)
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        make_task("numbers", ("cells",), NetworkSettings(task=file))


def test_numbers_need_a_task_and_a_task_without_probabilities_predicts_nothing(fields):
    with pytest.raises(InputError, match="targets that are numbers need a task of your own"):
        make_task("numbers", ("cells",), NetworkSettings())
    task = make_task("numbers", ("cells",), NetworkSettings(task="counting.py:make"))
    bare = type("Bare", (type(task).__bases__[0],), {})()
    assert (task.can_average, bare.can_average, bare.has_distributions) == (True, False, False)
    with pytest.raises(InputError, match="the task bare has no method probabilities, and predictions need it"):
        bare.probabilities(jnp.zeros((1, 1)), 0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name\n0.tiff\n", "must have the column name and at least one of numbers, got name"),
        ("name,cells\n0.tiff,1\n0.tiff,2\n", "names 0.tiff twice"),
        ("name,cells\n0.tiff,1\nx.tiff,2\n", "names x.tiff, which is not a file in fields"),
        ("name,cells\n0.tiff,many\n", "must have a finite number for cells of 0.tiff, got 'many'"),
        ("name,cells\n0.tiff,nan\n", "must have a finite number for cells of 0.tiff, got 'nan'"),
        ("name,cells\ncounts.csv,1\n", "names counts.csv, which is not a raw file"),
        ("name,cells\n", "must name at least one raw file"),
    ],
)
def test_wrong_numbers_are_named(fields, table, message):
    (fields / "counts.csv").write_text(table)
    with pytest.raises(InputError, match=f"counts.csv.*{re.escape(message)}"):
        folder.load("fields", "scope.json", None, annotations="fields/counts.csv")


def test_numbers_are_read_in_the_order_of_their_file_and_are_part_of_the_content(fields):
    (fields / "counts.csv").write_text("name,cells,area\n2.tiff,1,0.25\n1.tiff,3,7\n")
    dataset = folder.load("fields", "scope.json", None, annotations="fields/counts.csv")
    assert (dataset.task, dataset.classes, dataset.names) == ("numbers", ("cells", "area"), ("2.tiff", "1.tiff"))
    np.testing.assert_array_equal(dataset.samples(np.arange(2))[1], np.float32([[1, 0.25], [3, 7]]))
    content = dataset.content_of(np.arange(2))
    (fields / "counts.csv").write_text("name,cells,area\n2.tiff,1,0.25\n1.tiff,3,8\n")
    changed = folder.load("fields", "scope.json", None, annotations="fields/counts.csv")
    assert changed.content_of(np.arange(2)) != content


def test_nobody_but_tasks_asks_for_the_kind_of_a_task():
    """What differs between tasks is an attribute of the task."""
    asks = re.compile(r"""(==|!=| in) \(?["'](classification|segmentation|detection|numbers)|isinstance\([^)]*task""")
    for file in (ROOT / "r2l_jax").rglob("*.py"):
        # The example reads the description of an exported model.
        if "model/tasks" not in file.as_posix() and file.name != "_example.py":
            assert not asks.findall(file.read_text()), file
