"""`tests/oracles` computes what train.py and evaluate.py print, write and draw, from raw files and weights alone."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
from oracles import isp, network, scores, sensor, tables
from programs import call

PIPELINES = ("bilinear.sharpening_filter.gaussian_denoising", "malvar2004.unsharp_masking.median_denoising")
LIGHT, READ_OUT = ("overexposure",), ("black_level", "bits", "pattern_shift")
CORRUPTIONS = ("contrast", "brightness")
FLAGS = (
    *("--against=pipelines,sensor,corruptions", "--severities=3,5", f"--pipelines={','.join(PIPELINES)}"),
    *(f"--sensor={','.join(LIGHT + READ_OUT)}", f"--corruptions={','.join(CORRUPTIONS)}"),
)


def of_kinds(*kinds):
    return tuple(f"{kind}.{severity}" for kind in kinds for severity in (3, 5))


# The rows of the tables of drops, each with the cases over which it is the mean.
GROUPS = {"pipelines": PIPELINES, "sensor": of_kinds(*LIGHT, *READ_OUT), "corruptions": of_kinds(*CORRUPTIONS)}
ROWS = {
    **GROUPS,
    **{"light": of_kinds(*LIGHT), "read-out": of_kinds(*READ_OUT), "tone and color": of_kinds(*CORRUPTIONS)},
    **{name: (name,) for name in PIPELINES},
    **{f"{kind} (mean of 2 severities)": of_kinds(kind) for kind in (*LIGHT, *READ_OUT, *CORRUPTIONS)},
}
CASES = sum(GROUPS.values(), ())


def interval(row, name):
    return [row[each] for each in (name, f"{name} low", f"{name} high")]


def near(expected):
    return pytest.approx(expected, abs=1e-9)


class Judged:
    """The logits of each seed's test images by the names of the cases, and how their outcomes differ."""

    def __init__(self, trained):
        camera = json.loads(trained.camera.read_text())
        tested = trained.tested(1)
        assert tested == trained.tested(2)
        self.labels, self.groups, self.logits = trained.labels[tested], trained.groups[tested], []
        for seed in (1, 2):
            values, raws = trained.values(trained.run(seed)), trained.raws[tested]
            images = {"clean": network.rendered(values, raws)}
            images |= {name: isp.static(raws, camera, *name.split(".")) for name in PIPELINES}
            for name in GROUPS["sensor"]:
                kind, severity = name.split(".")
                images[name] = network.rendered(values, sensor.drifted(raws, kind, int(severity), camera))
            for name in GROUPS["corruptions"]:
                kind, severity = name.split(".")
                images[name] = sensor.corrupted(images["clean"], kind, int(severity))
            self.logits.append({name: network.logits(values, each) for name, each in images.items()})
        self.right = {name: self.of([seed[name] for seed in self.logits]) for name in self.logits[0]}

    def of(self, logits):
        """Which samples are classified correctly."""
        return (np.argmax(logits, -1) == self.labels) * 1.0

    def lost(self, cases):
        """The loss of each seed in each sample, a mean over cases."""
        return self.right["clean"] - np.mean([self.right[case] for case in cases], 0)

    def by_group(self, outcomes):
        return scores.means_of_groups(outcomes, self.groups)

    def drop(self, cases, seed=None):
        """The drop with its interval: about the model of a seed, or about the recipe of both."""
        lost = self.by_group(self.lost(cases))
        return scores.interval(*((lost.mean(0), lost) if seed is None else (lost[seed - 1],)), bounds=(-1, 1))


@pytest.fixture(scope="module")
def judged(_trained):
    return Judged(_trained)


@pytest.mark.shows("train --logdir --experiment_name --run_name")
def test_a_training_reports_the_losses_and_scores_of_its_best_models(trained, judged):
    best, last = [], []
    for seed in (1, 2):
        metrics, values = trained.metrics(seed), trained.values(trained.run(seed))
        parts = [metrics[f"{name}_indices"] for name in ("train", "valid", "test")]
        assert sorted(parts[0] + parts[1] + parts[2]) == [*range(96)]
        patients = [set(trained.groups[part]) for part in parts]
        assert [len(patients[2]), sum(map(len, patients)), len(set.union(*patients))] == [8, 16, 16]
        labels = trained.labels[parts[1]]
        logits = network.logits(values, network.rendered(values, trained.raws[parts[1]]))
        matrix, loss = scores.confusion(logits.argmax(-1), labels, 3), network.cross_entropy(logits, labels).mean()
        best.append(np.trace(matrix) / len(labels))
        assert (metrics["best_val_accuracy"], metrics["best_val_loss"]) == pytest.approx((best[-1], loss), rel=1e-5)
        found = tables.stored(trained.run(seed) / "fold_0/training", "")
        epoch = found["epochs"][metrics["best_epoch"]]
        assert (epoch["val accuracy"], epoch["val loss"]) == pytest.approx((best[-1], loss), rel=1e-5)
        last.append(found["epochs"][-1]["val accuracy"])
        if metrics["best_epoch"] < 3:
            continue  # These are of the last epoch, which rounding decides whether it is the best.
        assert metrics["val_confusion_matrix"] == matrix.tolist()
        for name, expected in zip(("precision", "recall", "f1"), scores.by_class(matrix), strict=True):
            assert [*metrics[f"val_{name}"].values()] == near(expected)
            assert [row[name] for row in found["classes"]] == near(expected)
    shown = [
        tuple(map(tables.points, each)) for each in zip((*last, np.mean(last)), (*best, np.mean(best)), strict=True)
    ]
    lines = re.findall(r"^(?:seed_1|seed_2|mean) +([\d.]+) +([\d.]+)$", trained.output, re.MULTILINE)
    assert lines == shown
    clean = judged.by_group(judged.right["clean"])
    expected = scores.interval(clean.mean(0), clean, (0, 1))
    stored = json.loads((trained.folder / "test.json").read_text())
    assert [stored[name] for name in ("value", "low", "high")] == near(expected)
    assert [stored[name] for name in ("name", "samples", "groups", "seeds")] == ["accuracy", 48, 8, 2]
    mean, low, high = map(tables.points, expected)
    assert f"{mean} (95% confidence interval: {low} to {high}; mean of 2 seeds, 48 test samples of 8" in trained.output


@pytest.mark.shows("evaluate --pipelines", "synthesis.summary cases.csv: drop, drop high, drop low, test")
def test_an_evaluation_of_a_model_reports_its_drops(trained, judged, drawn):
    done = call("evaluate.py", f"--run={trained.run(2)}", *FLAGS)
    assert done.returncode == 0, done.stderr
    folder, right = trained.run(2) / "evaluation", {name: each[1] for name, each in judged.right.items()}
    for group in ("clean", *GROUPS):
        for row in tables.read(folder / group / "models.csv"):
            score, loss = right[row["case"]].mean(), network.cross_entropy(judged.logits[1][row["case"]], judged.labels)
            assert (row["accuracy"], row["loss"]) == pytest.approx((score, loss.mean()), rel=1e-5), row
            assert row["drop"] == near(right["clean"].mean() - score)
    found = tables.stored(folder, done.stdout)
    clean, *rows = found["drops"]
    assert interval(clean, "accuracy") == near(scores.interval(judged.by_group(right["clean"]), bounds=(0, 1)))
    assert [row["test"] for row in rows] == [*ROWS]
    for row in rows:
        assert interval(row, "drop") == near(judged.drop(ROWS[row["test"]], 2)), row
        assert row["accuracy"] == near(clean["accuracy"] - row["drop"])
    assert {row["test"]: interval(row, "drop") for row in found["cases"]} == {
        case: near(judged.drop([case], 2)) for case in CASES[len(PIPELINES) :]
    }
    for number, row in enumerate(found["by_class"]):
        of_class = judged.labels == number
        lost = {case: judged.lost([case])[1][of_class].mean() for case in CASES}
        assert (row["samples"], row["clean accuracy"]) == (of_class.sum(), right["clean"][of_class].mean())
        assert (row["mean drop"], row["largest drop"]) == near((np.mean([*lost.values()]), max(lost.values())))
        assert row["in"] == max(lost, key=lost.get)
    _, *said = json.loads((folder / "result.json").read_text())["metadata"]["verdict"]
    for sentence, cases in zip(said, GROUPS.values(), strict=True):
        corrected = scores.holm([scores.p_value(judged.by_group(judged.lost([case]))[1]) for case in cases])
        count = np.count_nonzero((corrected < 0.05) & (np.array([judged.drop([case], 2)[0] for case in cases]) > 0))
        counted = f"; of {len(cases)} cases, {count or 'none'} {'lose' if count > 1 else 'loses'} significantly (Holm)"
        assert counted in sentence
    axes = drawn["Drops: a line at the mean, a bar for its 95% confidence interval"]
    shown = [100 * np.array(judged.drop(ROWS[row], 2)) for row in ("pipelines", "light", "read-out", "tone and color")]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"] == near([each[0] for each in shown])
    assert [bar.get_x() for bar in axes.patches] == near([each[1] for each in shown])
    assert [bar.get_width() for bar in axes.patches] == near([each[2] - each[1] for each in shown])


@pytest.mark.shows(
    "evaluate --about",
    "synthesis.summary drops.csv: *, * high, * low, drop, drop high, drop low, test",
    "synthesis.summary members.csv: clean {}, run, *, cameras, corruptions, exposures, pipelines, sensor",
    "synthesis.summary keys: members, members_needed, shares",
)
def test_an_evaluation_of_seeds_reports_what_their_recipe_loses(trained, judged):
    against, *others = FLAGS
    (trained.camera.parent / "other.json").write_text(
        json.dumps(json.loads(trained.camera.read_text()) | {"white_balance": [1.5, 1.0, 2.2]})
    )
    more = (f"{against},exposures,cameras", "--exposures=0.5", f"--cameras={trained.camera.parent}/other.json")
    done = call("evaluate.py", f"--run={trained.folder}", *others, *more)
    assert done.returncode == 0, done.stderr
    folder = trained.folder / "evaluation"
    found, metadata = tables.stored(folder, done.stdout), json.loads((folder / "result.json").read_text())["metadata"]
    rows = {row["test"]: interval(row, "drop") for row in found["drops"]}
    assert {name: rows[name] for name in ROWS} == {name: near(judged.drop(cases)) for name, cases in ROWS.items()}
    assert metadata["members"] == ["two/seed_1", "two/seed_2"]
    # The ensemble averages the probabilities.
    means = {case: np.mean([network.probabilities(seed[case]) for seed in judged.logits], 0) for case in judged.right}
    right = [*np.moveaxis([*judged.right.values()], 1, 0), [judged.of(each) for each in means.values()]]
    right = [dict(zip(judged.right, each, strict=True)) for each in right]
    # The oracles cannot draw the noise of these cases, so their outcomes are read from the stored file.
    for group in ("exposures", "cameras"):
        stored = safetensors.numpy.load_file(folder / group / "outcomes.safetensors")
        counted = stored["0/outcome/predicted"] == stored["0/outcome/target"]
        for member, (outcome,) in zip(right, counted, strict=True):
            member[group] = outcome * 1.0
    assert [row["run"] for row in found["members"]] == [*metadata["members"], "two (ensemble)"]
    for row, member in zip(found["members"], right, strict=True):
        assert row["clean accuracy"] == near(member["clean"].mean())
        for group, cases in (GROUPS | {"exposures": ("exposures",), "cameras": ("cameras",)}).items():
            assert row[group] == near(member["clean"].mean() - np.mean([member[case] for case in cases])), group
    *seeds, _ = right
    lost = {name: judged.by_group([seed["clean"] - seed[name] for seed in seeds]) for name in seeds[0]}
    shares = scores.variance_shares(np.array([each for name, each in lost.items() if name != "clean"]))
    assert {name: metadata["shares"][name] for name in shares} == near(shares)
    of_groups = {group: np.mean([lost[case] for case in cases], 0) for group, cases in GROUPS.items()}
    of_groups |= {group: lost[group] for group in ("exposures", "cameras")}
    assert metadata["members_needed"] == {group: scores.members_needed(each, 0.02) for group, each in of_groups.items()}
    # About these models, the mean over the seeds counts.
    done = call("evaluate.py", f"--run={trained.folder}", *others, *more, "--about=model")
    found = tables.stored(folder, done.stdout)
    for row in found["drops"][1 : len(ROWS)]:
        if row["test"] in ROWS:
            lost = judged.by_group(judged.lost(ROWS[row["test"]])).mean(0)
            assert interval(row, "drop") == near(scores.interval(lost, bounds=(-1, 1))), row


@pytest.mark.shows(
    "synthesis.comparison differences.csv: test, runs, difference of drops",
    "synthesis.comparison differences.csv: difference of drops low, difference of drops high, probability",
    "synthesis.comparison sensor.csv: *, trained",
    "synthesis.comparison figures: sensor",
    "evaluate --output",
)
def test_a_comparison_reports_paired_differences(trained, judged, tmp_path, drawn):
    done = call("evaluate.py", f"--run={trained.run(2)},{trained.run(1)}", *FLAGS, f"--output={tmp_path}/both")
    assert done.returncode == 0, done.stderr
    found = tables.stored(tmp_path / "both", done.stdout)
    assert [row["test"] for row in found["differences"]] == [*ROWS]
    for row in found["differences"]:
        lost = judged.by_group(judged.lost(ROWS[row["test"]]))
        apart = lost[1] - lost[0]
        assert interval(row, "difference of drops") == near(scores.interval(apart)), row
        # Of Student's t of the interval, as the p-value.
        tail = scores.p_value(apart) / 2
        assert row["probability"] == pytest.approx(1 - tail if apart.mean() > 0 else tail, abs=1e-6)
    captions = (
        "Other pipelines",
        "Sensor drift; means over the severities",
        "Common corruptions; means over the severities",
    )
    kinds = {"pipelines": PIPELINES, "sensor": LIGHT + READ_OUT, "corruptions": CORRUPTIONS}
    for (group, columns), caption in zip(kinds.items(), captions, strict=True):
        expected = []
        for seed in (1, 0):
            means = [
                np.mean([each[seed].mean() for case, each in judged.right.items() if case.startswith(kind)])
                for kind in ("clean", *columns)
            ]
            expected.append(means)
        assert [row["trained"] for row in found[group]] == ["seed_2", "seed_1"]
        np.testing.assert_allclose([[row[name] for name in ("clean", *columns)] for row in found[group]], expected)
        np.testing.assert_allclose(drawn[caption].images[0].get_array(), expected)
        assert [text.get_text() for text in drawn[caption].get_yticklabels()] == ["seed_2", "seed_1"]
        shown = [text.get_text().replace("\n", ".") for text in drawn[caption].get_xticklabels()]
        assert shown == ["clean", *columns]
