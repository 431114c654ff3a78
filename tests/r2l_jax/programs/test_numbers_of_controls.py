"""What forensics, adjust, monitor and report say is what `tests/oracles` computes from the raw files and weights."""

import json

import numpy as np
import pytest
import safetensors.numpy
import sketches
import tifffile
from oracles import adaptation, isp, monitor, network, scores, sensor, tables
from programs import call
from report_pages import Page

from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring import monitor as monitoring

# How much a black level rises, in digital numbers of 12 bits.
RAISED = 320.0


def judged(values, raws, labels, parameters=None):
    """The images of a model, the losses, and which are right; of the processing with other parameters if given."""
    images = isp.parametrized(raws, parameters or network.part(values, "processor"))["gamma_correct"]
    logits = network.logits(values, images)
    return images, network.cross_entropy(logits, labels), (logits.argmax(-1) == labels) * 1.0


@pytest.mark.shows(
    "forensics.worst_case worst_case.csv: *, drop, loss, SSIM, largest change, CIEDE2000, CIEDE2000,95%",
    "forensics.worst_case values.csv: all, default, value",
    "forensics.forensics keys: parameters",
)
def test_worst_cases_have_the_numbers_of_their_parameters(trained):
    flags = ("--adv_parameters=white_balance,all", "--steps=2", "--adv_aux_weight=1", "--starts=1")
    done = call("forensics.py", f"--run={trained.run()}", "--analyses=worst_case", *flags)
    assert done.returncode == 0, done.stderr
    folder, tested = trained.run() / "forensics/fold_0/worst_case", trained.tested()
    found, values = tables.stored(folder, done.stdout), trained.values()
    metadata = json.loads((folder / "result.json").read_text())["metadata"]
    raws, labels = trained.raws[tested], trained.labels[tested]
    default, _, right = judged(values, raws, labels)
    for row in found["worst_case"]:
        images, losses, worst = judged(values, raws, labels, metadata["parameters"][row["worst case"]])
        assert (row["accuracy"], row["drop"]) == pytest.approx((worst.mean(), right.mean() - worst.mean()))
        assert row["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        # Variances, which are differences of squares of up to 1, are divided by 0.03**2 or more: single pixels round by
        # up to 2**-24 / 0.03**2 or 7e-5, and their mean by a tenth of that.
        assert row["SSIM"] == pytest.approx(isp.ssim(default, images).mean(), abs=7e-6)
        assert row["largest change"] == pytest.approx(abs(images - default).max(), abs=2e-6)
        # Means over the images, of their pixels' mean and 95% quantile.
        away = isp.ciede2000(isp.lab(default), isp.lab(images))
        expected = away.mean(), np.quantile(away, 0.95, (1, 2)).mean()
        # Lab is sums and differences of up to 500, which round by 500 * 2**-24, of differences of 1 or more.
        assert (row["CIEDE2000"], row["CIEDE2000, 95%"]) == pytest.approx(expected, rel=3e-5)
    assert len(found["worst_case"]) == 2
    learned = network.part(values, "processor")
    for column, parameters in (
        ("default", learned),
        *((group, metadata["parameters"][f"{group}, weight 1"]) for group in ("white_balance", "all")),
    ):
        cells = {row["value"]: row[column] for row in found["values"]}
        gains = [cells[f"white_balance.{name}"] for name in ("red", "green", "blue")]
        assert gains == pytest.approx(np.asarray(parameters["white_balance"]))
        matrix = [value for name, value in cells.items() if name.startswith("colour_correction")]
        assert matrix == pytest.approx(np.ravel(parameters["colour_correction"]))
        assert cells["gamma_correct"] == pytest.approx(float(parameters["gamma_correct"]))


def test_sensitivities_are_the_derivatives_of_the_losses(trained):
    done = call("forensics.py", f"--run={trained.run(2)}", "--analyses=sensitivity")
    assert done.returncode == 0, done.stderr
    found = tables.stored(trained.run(2) / "forensics/fold_0/sensitivity", done.stdout)
    values, tested = trained.values(trained.run(2)), trained.tested()
    raws, labels, learned = trained.raws[tested], trained.labels[tested], network.part(values, "processor")

    def moved(name, index, step):
        changed = learned | {name: learned[name].copy()}
        changed[name][index] += step
        return judged(values, raws, labels, changed)[1]

    elements = []
    rows = {row["parameters"]: row for row in found["parameters"]}
    for name in ("black_level", "white_balance", "gamma_correct"):
        row, changes = rows[name], []
        for index in np.ndindex(learned[name].shape):
            width = learned[name][index] if row["natural range"] == "its value" else float(row["natural range"])
            # The slope where values move by 1%, from steps that move no pixel across the clipping at 1e-5.
            step = 1e-7 * width
            changes.append((moved(name, index, step) - moved(name, index, -step)) / 2e-7 / 100)
        elements += changes
        of_sample = np.abs(changes).sum(0)
        expected = [of_sample.mean(), *(of_sample[labels == number].mean() for number in range(3))]
        shown = [row[column] for column in ("worst", "worst, blue", "worst, green", "worst, red")]
        assert shown == pytest.approx(expected, rel=1e-3)
        # Slopes of opposite signs cancel in a sum, but their rounding does not.
        assert row["together"] == pytest.approx(np.sum(changes, 0).mean(), abs=1e-3 * of_sample.mean())
    for row, element in zip(found["values"][:7], elements[:7], strict=True):
        magnitude = np.abs(element).mean()
        assert row["mean"] == pytest.approx(element.mean(), abs=1e-3 * magnitude)
        assert row["mean of absolute values"] == pytest.approx(magnitude, rel=1e-3)


def test_adapting_has_the_scores_of_the_models_before_and_after(trained):
    flags = ("--sensor=black_level", "--severities=5", "--force", "--unlabeled=8", "--method=statistics")
    done = call("adjust.py", f"--run={trained.run()}", *flags)
    assert done.returncode == 0, done.stderr
    folder, tested = trained.run() / "adjustment", trained.tested()
    drifted = sensor.drifted(trained.raws[tested], "black_level", 5, trained.calibration)
    right = {}
    for name, values, raws in (
        ("clean", trained.values(), trained.raws[tested]),
        ("nothing", trained.values(), drifted),
        ("mixed statistics", trained.values(folder / "black_level.5"), drifted),
    ):
        each = judged(values, raws, trained.labels[tested])[2]
        right[name] = scores.means_of_groups(each, trained.groups[tested])
    rows = {row["method"]: row for row in tables.stored(folder, done.stdout)["adjustment"]}
    expected = {name: scores.interval(each, bounds=(0, 1)) for name, each in right.items()}
    expected["recovered"] = scores.interval(right["mixed statistics"] - right["nothing"])
    for name, each in expected.items():
        cells = [rows[name][f"black_level.5{end}"] for end in ("", " low", " high")]
        assert cells == pytest.approx(each, abs=1e-9), name
    methods = tables.read(folder / "fold_0/black_level.5/methods.csv")
    assert methods[-1]["accuracy"] == pytest.approx(right["mixed statistics"].mean())


@pytest.mark.shows(
    "adjustment.methods starts.csv: feature distance, mutual information", "adjustment.adjustment figures: curves"
)
def test_a_search_by_features_has_the_distances_and_the_information_of_its_ends(trained, tmp_path, monkeypatch):
    """Each step takes all images, so that no step depends on the order in which they are drawn."""
    drawn = sketches.recorded(monkeypatch)
    flags = ("--sensor=black_level", "--severities=5", "--force", "--unlabeled=64", "--batch_size=64", "--steps=3")
    done = call(
        *("adjust.py", f"--run={trained.run()}", "--method=processing", "--parameters=white_balance", *flags),
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    found = tables.stored(tmp_path / "fold_0/black_level.5", done.stdout)["starts"]
    seen = trained.raws[trained.metrics()["train_indices"]]
    raws = sensor.drifted(seen, "black_level", 5, trained.calibration)
    expected = adaptation.searched(trained.values(), raws, 3)
    nearer = [name for name, (_, distance, _) in expected.items() if distance <= expected["no search"][1]]
    best = max(nearer, key=lambda name: expected[name][2])
    assert [row["start"] for row in found] == [f"{name} *" if name == best else name for name in expected]
    for row, (_, distance, information) in zip(found, expected.values(), strict=True):
        assert (row["feature distance"], row["mutual information"]) == pytest.approx((distance, information), rel=1e-3)
    axes = drawn["objective of the searches"]
    curves = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert curves.keys() == expected.keys() - {"no search"}
    for name, curve in curves.items():
        assert curve == pytest.approx(expected[name][0], rel=1e-3)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step", "feature distance", "log")


@pytest.fixture(scope="module")
def windows(_trained, tmp_path_factory):
    """Cells that no seed was tested on, in three folders: as they are, with less light, with a raised black level."""
    folder, camera = tmp_path_factory.mktemp("windows"), _trained.calibration
    rest = np.setdiff1d(np.arange(96), _trained.tested())
    black = isp.black_levels(camera["black_level"], 32, 32)
    a, b, c = (_trained.raws[part] for part in rest.reshape(-1, 3).T)
    found = {}
    for name, raws in {"a": a, "b": black + 0.92 * (b - black), "c": c + RAISED / 4095}.items():
        (folder / name).mkdir()
        found[f"{folder}/{name} 1"] = stored = np.round(65535 * np.clip(raws, 0, 1)).astype(np.uint16)
        for number, raw in enumerate(stored):
            tifffile.imwrite(folder / name / f"{number:02d}.tiff", raw)
    return folder, {name: stored / 65535 for name, stored in found.items()}


@pytest.mark.shows("monitor --run --input --by", "monitoring.monitor tests.csv: images")
def test_a_monitor_finds_the_distances_from_its_reference(trained, windows, monkeypatch):
    # All permutations at once, and all statistics in the table.
    monkeypatch.setattr(alarm, "_FIRST", 19_999)
    monkeypatch.setattr(monitoring, "_LISTED", 1000)
    # The oracle compares images; of groups, test_alarm.py compares the tests with Student's t.
    monkeypatch.setattr(alarm, "is_grouped", lambda *_: False)
    folder, of_windows = windows
    done = call("monitor.py", f"--run={trained.folder}", f"--input={folder}", "--by=folder")
    assert done.returncode == 2, done.stderr
    found = tables.stored(trained.folder / "monitor", done.stdout)
    metadata = json.loads((trained.folder / "monitor/result.json").read_text())["metadata"]
    stored = safetensors.numpy.load_file(trained.folder / "monitor/reference.safetensors")
    # These are test samples, in 16 bits.
    known = stored["mosaics"] / 65535
    tested = trained.raws[trained.tested()]
    places = np.concatenate([np.flatnonzero((abs(tested - raw) < 1e-9).all((1, 2))) for raw in known])
    assert len(set(places.tolist())) == len(known) == 48
    models = [trained.values(trained.run(seed)) for seed in (1, 2)]
    reference, *seen = (
        monitor.Seen(raws, trained.calibration["black_level"], models, ("blue", "green", "red"))
        for raws in (known, *of_windows.values())
    )
    assert [row["window"] for row in found["windows"]] == [row["window"] for row in found["tests"]] == [*of_windows]
    random, level = np.random.default_rng(0), 0.05 / 3
    for row, alone, new in zip(found["windows"], found["tests"], seen, strict=True):
        together, of_tests = monitor.p_values(reference, new, 19_999, random)
        for shown, expected in ((row["p-value"], together), *((alone[name], each) for name, each in of_tests.items())):
            # Both draw 19,999 permutations. Their mean tells the error also where one is 1, as on some processors.
            middle = (shown + expected) / 2
            error = (2 * middle * (1 - middle) / 20_000) ** 0.5
            assert shown == pytest.approx(expected, abs=4 * error + 1e-9)
        assert alone.keys() == {"window", *of_tests, "confidence"}
        assert alone["confidence"] == pytest.approx(new.statistics["confidence"].mean(), rel=1e-5)
        assert (row["images"], row["alarm"]) == (16, str(row["p-value"] <= level))
    extreme = min(range(3), key=lambda place: found["windows"][place]["p-value"])
    of_statistics = monitor.of_statistics(reference, seen[extreme])
    names = ("reference", "new", "distance", "p-value")
    shown = {row["statistic"]: [row[name] for name in names] for row in found["statistics"]}
    assert shown.keys() == of_statistics.keys()
    for name, expected in of_statistics.items():
        assert shown[name] == pytest.approx(expected, rel=1e-4, abs=1e-5), name
    low, high = monitor.rates_of_one_reference(level, 16, 48)
    rates = f"for 95% of references of 48 images, {3 * low:.1%} to {3 * high:.1%}"
    assert f"false alarms: at most 5% of calls on average; {rates}" in metadata["notes"]
    assert metadata["p_value"] == 3 * min(row["p-value"] for row in found["windows"])
    # The models predict together, by the mean of their probabilities.
    right = reference.probabilities.mean(0).argmax(-1) == stored["targets"]
    expected = scores.interval(scores.means_of_groups(right, trained.groups[trained.tested()][places]), bounds=(0, 1))
    (shown,) = found["expected"]
    assert [shown[f"accuracy{end}"] for end in ("", " low", " high")] == pytest.approx(expected)


def test_a_report_has_the_numbers_of_all_results(trained, tmp_path):
    done = call("evaluate.py", f"--run={trained.run()}", "--against=pipelines", f"--output={trained.run()}/evaluation")
    assert done.returncode == 0, done.stderr
    done = call("report.py", f"--run={trained.run()}", f"--output={tmp_path}/report.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "report.html").read_text())
    # Tables have twelve digits, and the page has all.
    shown = {round(float(cell["data-value"]), 9) for _, cell in page.tags if "data-value" in cell}
    for folder in ("evaluation", "fold_0/training"):
        for rows in tables.stored(trained.run() / folder).values():
            assert rows
            # An interval is behind its estimate.
            ends = {f"{name} {end}" for row in rows for name in row for end in ("low", "high")}
            numbers = {value for row in rows for name, value in row.items() if name not in ends}
            assert {round(value, 9) for value in numbers if isinstance(value, float)} <= shown
