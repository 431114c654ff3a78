import dataclasses

import brightness
import numpy as np
import pytest
from matplotlib.figure import Figure
from oracles import scores, tables
from outcomes import of_counts

from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.drift import cases
from r2l_jax.drift.synthesis.comparison import compare
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.measured import Measured
from r2l_jax.drift.synthesis.summary import summarize

PIPELINE, OTHER = "bilinear.none.none", "malvar2004.none.none"
CASES = [
    cases.CLEAN,
    *cases.pipelines([PIPELINE, OTHER]),
    *cases.corruptions(["identity", "contrast", "gaussian_noise"], [1, 5]),
]
# The share of the samples that are right in each case but the own pipeline, which is not measured.
RIGHT = {"clean": 0.9, OTHER: 0.8, "identity.1": 0.9, "identity.5": 0.9}
RIGHT |= {"contrast.1": 0.8, "contrast.5": 0.6, "gaussian_noise.1": 0.7, "gaussian_noise.5": 0.3}
STATIC = {"processing_mode": "static", "sp_sharpening": "none", "sp_denoising": "none"}


def fold(demosaic="bilinear"):
    config = build(TrainConfig, **STATIC, sp_debayer=demosaic)
    return brightness.fold(brightness.images([0.3, 0.7], [0, 1]), (), (0, 1), config=config)


def measured(label="group", count=3, first=0, demosaic="bilinear", of=None, **right):
    """A group of seeds of two folds, in which the same samples are hard in all cases, or a run alone."""
    shares = RIGHT | {name.replace("__", "."): share for name, share in right.items()}
    hard = np.random.default_rng(0).permutation(np.linspace(0, 1, 400)).reshape(2, 1, 1, 200)
    noise = 0.02 * np.random.default_rng(count).normal(size=(2, count, 1, 200))
    counted = (hard + noise < np.array([*shares.values()])[:, None]).astype(np.float32)
    blocks = []
    for number, of_fold in enumerate(counted):
        names = [f"seed_{seed}/fold_{number}" if count > 1 else f"fold_{number}" for seed in range(count)]
        blocks.append(of_counts(names, shares, first + 200 * number + np.arange(200), of_fold))
    return Measured.of(label, fold(demosaic), of or CASES, blocks, None)[0]


def summary(of, **flags):
    return summarize(build(EvaluationConfig, run=("run",), **flags), of, None, {}, {})


def rows(table):
    return {row[0]: row[1:] for row in table.rows}


def test_a_paired_drop_has_a_narrower_interval_than_its_scores():
    found = summary(measured())
    assert (found.metadata["about"], found.metadata["samples"], found.metadata["clean"]) == ("recipe", 400, [PIPELINE])
    (clean, low, high), drops = found.tables["drops"].rows[0][2], rows(found.tables["drops"])
    drop = drops[OTHER][0]
    assert drop[1] < 0.1 < drop[2]
    assert drop[2] - drop[1] < 0.9 * np.sqrt(2) * (high - low)
    assert drops[OTHER][1] == clean - drop[0]
    assert drops["tone and color"][0][0] == pytest.approx(0.2, abs=0.03)
    assert drops["corruptions"][0][0] == pytest.approx(0.3, abs=0.03)
    assert PIPELINE not in drops
    # Members differ little; what changes nothing is no case that drops differ in.
    assert found.metadata["shares"]["member"] < 0.05 < found.metadata["shares"]["case"]
    without = measured(of=[case for case in CASES if case.kind != "identity"])
    assert found.metadata["shares"] == summary(without).metadata["shares"]
    assert found.metadata["members_needed"].keys() == {"pipelines", "corruptions"}


def test_the_tables_of_a_run_alone_say_what_intervals_are_about():
    alone = summary(measured("alone", count=1))
    lines = [line.strip() for line in alone.text().splitlines()]
    kinds = ["contrast (mean of 2 severities)", "gaussian_noise (mean of 2 severities)"]
    titles = ["clean", "pipelines", "corruptions", "tone and color", "noise", OTHER, *kinds]
    assert [line.split("  ")[0] for line in lines[3:11]] == titles
    clean, pipelines = lines[3].split(), lines[4].split()
    assert clean[1] == "-"
    assert float(clean[2]) - float(pipelines[1]) == pytest.approx(float(pipelines[-1]), abs=0.11)
    assert lines[-1] == "95% confidence intervals about the model (400 validation samples)"
    assert (alone.metadata["shares"], alone.metadata["members_needed"], "members" in alone.tables) == (None, {}, False)
    assert [*rows(alone.tables["cases"])] == [name for name in RIGHT if name not in ("clean", OTHER)]


@pytest.mark.shows("synthesis.summary keys: verdict")
def test_the_verdict_names_a_loss_that_other_drifts_outweigh():
    """One corruption loses 14 points, and five gain so much that the mean shows no loss."""
    names = ["contrast", "gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "brightness"]
    few = dict.fromkeys(("clean", OTHER, *(f"{name}.3" for name in names)), 0.73)
    shares = few | {"clean": 0.7, OTHER: 0.7, "contrast.3": 0.56}
    of = [cases.CLEAN, *cases.pipelines([OTHER]), *cases.corruptions(names, [3])]
    found = summary(
        measured("alone", count=1, of=of, **{name.replace(".", "__"): each for name, each in shares.items()})
    )
    _, _, said = found.metadata["verdict"]
    _, low, high = rows(found.tables["drops"])["contrast.3"][0]
    assert said.startswith("Shows no loss under common corruptions on average (")
    points = f"{round(100 * low)} to {round(100 * high)} points"
    assert said.endswith(f"; of 6 cases, 1 loses significantly (Holm): contrast of severity 3 ({points}).")


@pytest.mark.parametrize(("about", "said"), [("recipe", "none alone loses"), ("model", "1 loses")])
def test_a_loss_of_one_seed_alone_is_significant_for_the_models_but_not_for_their_recipe(about, said):
    of = [cases.CLEAN, *cases.corruptions(["contrast", "fog"], [3])]
    counted = np.ones((3, len(of), 200), np.float32)
    counted[0, 1, :120] = 0
    names = [f"seed_{seed}/fold_0" for seed in range(3)]
    blocks = [of_counts(names, [case.name for case in of], np.arange(200), counted)]
    group, _ = Measured.of("group", fold(), of, blocks, about)
    (sentence,) = [each for each in summary(group).metadata["verdict"] if "corruptions" in each]
    assert f"; of 2 cases, {said} significantly (Holm)" in sentence


def test_the_verdict_says_that_a_few_groups_tell_little():
    few = measured("alone", count=1)
    (folds,) = few.members.values()
    grouped = [(name, outcomes._replace(groups=np.arange(len(outcomes.samples)) % 9)) for name, outcomes in folds]
    said = summary(dataclasses.replace(few, members={"alone": grouped})).metadata["verdict"][0]
    assert said.endswith(" Intervals of only 9 groups are uncertain.")
    assert "uncertain" not in summary(few).metadata["verdict"][0]


@pytest.mark.shows("evaluate --as_published", "synthesis.summary keys: log_ratio, notes")
def test_the_log_ratio_is_there_if_asked_for_and_known():
    assert summary(measured()).metadata["log_ratio"] is None
    of = measured()
    found = summary(of, as_published=True)
    assert found.metadata["log_ratio"].low < np.log(0.3 / 0.1) < found.metadata["log_ratio"].high
    # To first order, each outcome adds its share of the mean.
    above, below = of.groups["corruptions"], of.groups["pipelines"]
    parts = np.log(above.mean() / below.mean()) + above / above.mean() - below / below.mean()
    assert found.metadata["log_ratio"] == pytest.approx(scores.interval(parts.mean(0), parts))
    assert "log ratio of the drops under corruptions and pipelines: 1." in found.metadata["notes"][1]
    assert summary(measured(malvar2004__none__none=0.9), as_published=True).metadata["log_ratio"] is None


def test_the_first_group_is_compared_with_each_other_one_of_the_same_samples():
    worse = measured("worse", malvar2004__none__none=0.7)
    groups = [worse, measured(), measured("alone", count=1), measured("elsewhere", first=1000)]
    found = compare(groups, {}).tables["differences"]
    differences = {(test, of): (interval, probability) for test, of, interval, probability in found.rows}
    assert {of for _, of in differences} == {"worse - group (recipe)", "worse - alone (model)"}
    (estimate, low, high), probability = differences["pipelines", "worse - group (recipe)"]
    assert estimate == pytest.approx(0.1, abs=0.02)
    assert probability > 0.99
    # The same corruptions cost both the same.
    interval, _ = differences["contrast (mean of 2 severities)", "worse - group (recipe)"]
    assert interval[1] < 0 < interval[2]
    unpaired = [each.intervals(each.groups)["pipelines"] for each in groups[:2]]
    assert high - low < np.hypot(*(each[2] - each[1] for each in unpaired))


@pytest.mark.shows("synthesis.comparison drops.csv: (clean {})")
def test_each_of_many_runs_has_its_clean_score_and_its_drops_in_a_row():
    """The scores are text, since the other numbers of their row are drops."""
    runs = [measured(f"run {n}", count=1, clean=0.95 - 0.1 * n, contrast__5=0.6 + 0.05 * n) for n in range(4)]
    found = compare(runs, {}).tables["drops"].records()
    assert [row.pop("drop, points") for row in found] == [each.label for each in runs]
    for row, of_run in zip(found, runs, strict=True):
        (folds,) = of_run.members.values()
        right = {
            case: np.concatenate([outcomes.at(name, case)["confusion"][:, 1, 1] for name, outcomes in folds])
            for case in RIGHT
        }
        assert row["(clean accuracy)"] == tables.interval(*scores.interval(right["clean"], bounds=(0, 1)))
        lost = right["clean"] - np.mean([right["contrast.1"], right["contrast.5"]], 0)
        cells = [row[f"tone and color{end}"] for end in ("", " low", " high")]
        assert cells == pytest.approx(scores.interval(lost, bounds=(-1, 1)))
    assert len({row["(clean accuracy)"] for row in found}) == 4


@pytest.mark.shows("synthesis.summary members.csv: intensities")
def test_each_member_has_its_mean_drop_over_the_intensities():
    of = [cases.CLEAN, *cases.intensities([0.5, 0.05])]
    half, low = (case.name for case in of[1:])
    group = measured(of=of, **{half: 0.8, low: 0.3})
    for row, folds in zip(summary(group).tables["members"].records(), group.members.values(), strict=True):
        clean, *others = (
            np.mean([outcomes.at(name, case)["confusion"][:, 1, 1] for name, outcomes in folds])
            for case in ("clean", half, low)
        )
        assert row["intensities"] == pytest.approx(clean - np.mean(others))
    assert len({row["intensities"] for row in summary(group).tables["members"].records()}) > 1


def drawn(figure):
    axes = Figure(figure.size).subplots()
    figure.draw(axes)
    return axes


@pytest.mark.shows(
    "synthesis.comparison pipelines.csv: *, trained",
    "synthesis.comparison corruptions.csv: *, trained",
    "synthesis.comparison figures: pipelines, corruptions",
)
def test_matrices_have_the_runs_near_what_they_were_trained_with():
    second = measured("second", count=1, demosaic="malvar2004", bilinear__none__none=0.5)
    learned = measured("learned", count=1, demosaic="menon2007", bilinear__none__none=0.6)
    first = measured("first", count=1)
    found = compare([second, first], {})
    matrix = rows(found.tables["pipelines"])
    assert [column.name for column in found.tables["pipelines"].columns] == ["trained", PIPELINE, OTHER]
    assert [*matrix] == ["first", "second"]
    assert matrix["second"] == pytest.approx([0.5, 0.9], abs=0.02)
    # A run of another pipeline has its clean images in a column of their own.
    other = compare([first, learned], {})
    assert [column.name for column in other.tables["pipelines"].columns] == ["trained", "clean", PIPELINE, OTHER]
    for name in ("pipelines", "corruptions"):
        cells = [row[1:] for row in found.tables[name].rows]
        np.testing.assert_allclose(drawn(found.figures[name]).images[0].get_array(), cells)
    for each in (found, other):
        (frames,) = drawn(each.figures["pipelines"]).collections
        # Each of the two frames has four sides, with two ends each.
        centers = np.reshape(frames.get_segments(), (2, 8, 2)).mean(1)
        assert sorted(centers.tolist()) == [[0, 0], [1, 1]]
        # Whatever the order of the runs, the figure has the rows and the scores of the table.
        axes, (_, *columns) = drawn(each.figures["pipelines"]), each.tables["pipelines"].columns
        assert [text.get_text() for text in axes.get_yticklabels()] == [*rows(each.tables["pipelines"])]
        names = [text.get_text().replace("\n", ".") for text in axes.get_xticklabels()]
        assert names == [column.name for column in columns]
        texts = [f"{score:.3f}" for row in rows(each.tables["pipelines"]).values() for score in row]
        assert [text.get_text() for text in axes.texts] == texts
    assert [*rows(other.tables["pipelines"])] == ["learned", "first"]
    kinds = rows(found.tables["corruptions"])["first"]
    assert kinds == pytest.approx([0.9, 0.9, 0.7, 0.5], abs=0.02)


@pytest.mark.shows("synthesis.comparison exposures.csv: *, trained", "synthesis.comparison figures: exposures")
def test_a_matrix_of_exposures_has_each_run_at_each_amount_of_light():
    of = [cases.CLEAN, *cases.exposures([0.5, 0.125])]
    half, eighth = (case.name for case in of[1:])
    runs = [
        measured("first", 1, of=of, **{half: 0.8, eighth: 0.4}),
        measured("second", 1, of=of, **{half: 0.7, eighth: 0.6}),
    ]
    found = compare(runs, {})
    axes, names = drawn(found.figures["exposures"]), [column.name for column in found.tables["exposures"].columns]
    assert names == ["trained", "clean", half, eighth]
    assert [text.get_text() for text in axes.get_xticklabels()] == names[1:]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    for shown in ([row[1:] for row in found.tables["exposures"].rows], axes.images[0].get_array()):
        np.testing.assert_allclose(shown, [[0.9, 0.8, 0.4], [0.9, 0.7, 0.6]], atol=0.02)


@pytest.mark.shows("synthesis.summary figures: dots", "synthesis.comparison figures: dots")
def test_dots_are_the_drops_of_the_seeds_and_bars_their_intervals():
    axes = drawn(summary(measured()).figures["dots"])
    titles = ["other pipelines", "corruptions: tone and color", "corruptions: noise"]
    assert [label.get_text() for label in axes.get_yticklabels()] == titles
    group = measured()
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots[1], 100 * group.groups["tone and color"].mean(-1))
    _, low, high = group.intervals(group.groups)["tone and color"]
    bar = axes.patches[1]
    assert (bar.get_x(), bar.get_width()) == pytest.approx((100 * low, 100 * (high - low)))
    # A bar that begins left of all else is not cut off.
    alone = drawn(summary(measured(count=1, malvar2004__none__none=0.9)).figures["dots"])
    assert alone.get_xlim()[0] < min(each.get_x() for each in alone.patches) < 0
    both = drawn(compare([group, measured("other", count=2)], {}).figures["dots"])
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["group", "other"]


def test_each_camera_state_has_a_row_of_dots():
    states = cases.sensor(["exposure=-1,defocus=1", "red_gain=0.5"], [3])
    dark, red = (case.name for case in states)
    group = measured(of=[cases.CLEAN, *states], **{dark: 0.4, red: 0.6})
    axes = drawn(summary(group).figures["dots"])
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"sensor: {dark}", f"sensor: {red}"]
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [100 * group.drops[name].mean(-1) for name in (dark, red)])


def test_each_of_many_runs_has_its_color_in_the_legend():
    """Each run has an entry with the color of its dots, also if the run lacks the first row of the figure."""
    names = [f"run {number}" for number in range(5)]
    lacking = measured(names[2], of=[cases.CLEAN, *cases.corruptions(["contrast"], [1, 5])])
    runs = [lacking if name == names[2] else measured(name) for name in names]
    axes = drawn(compare(runs, {}).figures["dots"])
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == names
    colors = [line.get_color() for line in legend.get_lines()]
    assert colors == [f"C{number}" for number in range(5)]
    # Dots within a row are below each other in the order of the runs.
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    row = sorted(
        (line for line in dots if 0.5 < np.mean(line.get_ydata()) < 1.5), key=lambda line: np.mean(line.get_ydata())
    )
    assert [line.get_color() for line in row] == colors
