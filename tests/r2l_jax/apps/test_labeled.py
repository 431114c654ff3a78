import numpy as np
import programs
import pytest
import tifffile

from r2l_jax.apps.labeled import scored
from r2l_jax.drift.statistics import bounded
from r2l_jax.results.result import points


def test_the_score_of_labeled_files_is_counted_by_class(tmp_path):
    predicted = {"a/1": "a", "a/2": "a", "a/3": "c", "b/1": "c", "b/2": "a", "b/3": "c", "b/4": "b", "other/1": "a"}
    table = "".join(f"{file},{name},0,0,0\n" for file, name in predicted.items())
    (tmp_path / "p.csv").write_text(f"file,class,a,b,c\n{table}")
    # A file that could not be read has no row.
    labels = {file: file[0] for file in [*predicted, "c/1"] if file != "other/1"}
    _, low, high = map(points, bounded(np.array([[1, 1, 0, 0, 0, 0, 1]], float), "model"))
    assert scored(tmp_path / "p.csv", labels) == [
        f"accuracy with 95% confidence interval: 42.9 ({low} to {high}); 3 of 7 files correct",
        "a: 2 of 3 correct, 1 as c",
        "b: 1 of 4 correct, 2 as c, 1 as a",
    ]


@pytest.fixture
def cells(one_epoch, tmp_path):
    for number in range(6):
        file = tmp_path / "cells" / ("EOS", "LYT")[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, np.random.default_rng(number).integers(20000, 60000, (32, 32), np.uint16))
    return tmp_path / "cells"


def predict(one_epoch, tmp_path, *folders):
    inputs = ",".join(map(str, folders))
    flags = f"--run={one_epoch.run_dir}", f"--input={inputs}", f"--output={tmp_path}/p.csv", "--labels=folder"
    return programs.call("predict.py", *flags)


@pytest.mark.shows("predict --labels")
def test_predict_scores_files_in_folders_of_classes(one_epoch, cells, tmp_path, monkeypatch):
    monkeypatch.chdir(cells / "LYT")
    done = predict(one_epoch, tmp_path, cells / "EOS", ".")
    assert done.returncode == 0, done.stderr
    *_, counted, score, first, second = done.stdout.splitlines()
    assert counted == "6 predicted, 0 failed"
    labels = {f"{cells}/EOS/{number}.tif": "EOS" for number in (0, 2, 4)}
    labels |= {f"{number}.tif": "LYT" for number in (1, 3, 5)}
    assert [score, first, second] == scored(tmp_path / "p.csv", labels)
    assert (first[:5], second[:5]) == ("EOS: ", "LYT: ")
    # Another call predicts nothing, and says the same of what is there.
    again = predict(one_epoch, tmp_path, cells / "EOS", ".")
    assert again.stdout.splitlines()[-3:] == [score, first, second]


def test_files_that_failed_do_not_count_and_links_have_the_class_of_their_own_folder(one_epoch, cells, tmp_path):
    (cells / "EOS" / "broken.tif").write_bytes(b"II*")
    (tmp_path / "scans").mkdir()
    (cells / "LYT" / "1.tif").rename(tmp_path / "scans" / "1.tif")
    (cells / "LYT" / "1.tif").symlink_to(tmp_path / "scans" / "1.tif")
    done = predict(one_epoch, tmp_path, cells)
    assert (done.returncode, "6 predicted, 1 failed" in done.stdout) == (1, True), done.stderr
    labels = {f"{cells}/EOS/{number}.tif": "EOS" for number in (0, 2, 4)}
    labels |= {f"{cells}/LYT/{number}.tif": "LYT" for number in (1, 3, 5)}
    assert done.stdout.splitlines()[-3:] == scored(tmp_path / "p.csv", labels)


def test_predict_refuses_folders_that_are_no_classes_before_it_predicts(one_epoch, cells, tmp_path):
    (cells / "LYT").rename(cells / "Lymphs")
    done = predict(one_epoch, tmp_path, cells / "EOS", cells / "Lymphs")
    expected = f"--labels=folder: {cells}/Lymphs is not named after a class of the model (BAS, EOS, LYT, MON, NGS)"
    assert expected in done.stderr
    assert (done.returncode, done.stderr.count("\n"), (tmp_path / "p.csv").exists()) == (1, 1, False)
