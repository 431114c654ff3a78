"""What forensics, adjust, monitor and report say is what `tests/oracles` computes from the raw files and weights."""

import json

import numpy as np
import pytest
import safetensors.numpy
from oracles import isp, network, scores, sensor, tables
from programs import call
from report_pages import Page
from scipy import stats


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
        assert row["SSIM"] == pytest.approx(isp.ssim(default, images).mean(), abs=2e-6)
        assert row["largest change"] == pytest.approx(abs(images - default).max(), abs=2e-6)
        # Means over the images, of their pixels' mean and 95% quantile.
        away = isp.ciede2000(isp.lab(default), isp.lab(images))
        expected = away.mean(), np.quantile(away, 0.95, (1, 2)).mean()
        assert (row["CIEDE2000"], row["CIEDE2000, 95%"]) == pytest.approx(expected, rel=1e-5)
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
            # The slope where values move by 1%, from much smaller steps.
            step = 1e-5 * width
            changes.append((moved(name, index, step) - moved(name, index, -step)) / 2e-5 / 100)
        elements += changes
        of_sample = np.abs(changes).sum(0)
        expected = [of_sample.mean(), *(of_sample[labels == number].mean() for number in range(3))]
        shown = [row[column] for column in ("worst", "worst, blue", "worst, green", "worst, red")]
        assert shown == pytest.approx(expected, rel=1e-3)
        assert row["together"] == pytest.approx(np.sum(changes, 0).mean(), rel=1e-3)
    rows = found["values"][:7]
    assert [row["mean"] for row in rows] == pytest.approx(np.mean(elements[:7], 1), rel=1e-3, abs=1e-7)
    assert [row["mean of absolute values"] for row in rows] == pytest.approx(np.abs(elements[:7]).mean(1), rel=1e-3)


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


@pytest.mark.shows("monitor --run --input --by")
def test_a_monitor_finds_the_distances_from_its_reference(trained):
    done = call("monitor.py", f"--run={trained.run()}", f"--input={trained.data}", "--by=folder")
    assert done.returncode == 2, done.stderr
    folder, values = trained.run() / "monitor", trained.values()
    found = tables.stored(folder, done.stdout)
    stored = safetensors.numpy.load_file(folder / "reference.safetensors")
    # These are test samples, in 16 bits.
    known = stored["mosaics"] / 65535
    tested = trained.raws[trained.tested()]
    places = [np.flatnonzero((abs(tested - raw) < 1e-9).all((1, 2))) for raw in known]
    assert len(set(np.concatenate(places).tolist())) == len(known) == 32
    probabilities = [
        network.probabilities(network.logits(values, network.rendered(values, raws)))
        for raws in (known, *np.split(trained.raws, 3))
    ]
    names = [f"{trained.data}/{name} 1" for name in ("blue", "green", "red")]
    assert [row["window"] for row in found["windows"]] == [row["window"] for row in found["tests"]] == names
    confidences = [each.max(-1).mean() for each in probabilities[1:]]
    assert [row["confidence"] for row in found["tests"]] == pytest.approx(confidences, rel=1e-5)
    # The p-value of a window is that of its strongest test, of which no permutation of 2,000 is stronger.
    assert [row["p-value"] for row in found["windows"]] == [1 / 2000] * 3
    statistics = {
        "confidence": lambda each: each.max(-1),
        "entropy": lambda each: -(each * np.log(each)).sum(-1),
        "probability of blue": lambda each: each[:, 0],
    }
    rows = [row for row in found["statistics"] if row["statistic"] in statistics]
    assert rows
    for row in rows:
        before, after = map(statistics[row["statistic"]], probabilities[:2])
        test = stats.ks_2samp(before, after)
        assert (row["reference"], row["new"]) == pytest.approx((np.median(before), np.median(after)), rel=1e-5)
        assert row["distance"] == pytest.approx(test.statistic)
        # By Holm, the smallest of the p-values is multiplied by the number of statistics.
        count = row["p-value"] / test.pvalue
        assert count == pytest.approx(round(count), rel=1e-6)
        assert 40 < count < 80
    (expected,) = found["expected"]
    assert expected["accuracy"] == (probabilities[0].argmax(-1) == stored["targets"]).mean()


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
