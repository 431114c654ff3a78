"""Which cameras and which parameters a model tolerates is what `tests/oracles` computes from raw files and weights."""

import json

import numpy as np
import pytest
from oracles import envelope, isp, network, scores, tables
from programs import call

from r2l_jax.apps.lab.engine import Engine
from r2l_jax.training.run import load

LIMITS = {"black_level": [-40, 160], "saturation": [0.25, 1.0]}


def right(values, raws, labels, parameters=None):
    """Which samples a model classifies correctly, with other parameters of the processing if given."""
    images = isp.parametrized(raws, parameters or network.part(values, "processor"))["gamma_correct"]
    return (network.logits(values, images).argmax(-1) == labels) * 1.0


def taken(raws, camera):
    """Raw images as a camera takes them that differs in black level and saturation, in this order of the read-out."""
    return np.minimum(np.clip(raws + camera["black_level"] / 4095, 0, 1), camera["saturation"])


@pytest.mark.shows(
    "synthesis.envelope cameras.csv: *, camera, loss, upper limit, fails",
    "synthesis.envelope limits.csv: limit, unit, low, high, rank correlation,{}",
    "synthesis.envelope tests.csv: limits, cameras, failures, fraction at least",
    "synthesis.envelope keys: about, groups, samples, verdict",
)
def test_an_envelope_counts_the_cameras_that_fail(trained, tmp_path, drawn):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    flags = (f"--envelope={tmp_path}/limits.json", "--proposals=0", "--draws=40", "--tolerance=85", "--fraction=0.5")
    done = call("evaluate.py", f"--run={trained.folder}", *flags, f"--output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    found = tables.stored(tmp_path / "out", done.stdout)
    tested = trained.tested()
    raws, labels, groups = trained.raws[tested], trained.labels[tested], trained.groups[tested]
    models = [trained.values(trained.run(seed)) for seed in (1, 2)]
    clean = np.array([right(values, raws, labels) for values in models])
    lost = [clean - [right(values, taken(raws, camera), labels) for values in models] for camera in found["cameras"]]
    lost = scores.means_of_groups(lost, groups)
    # The error of 5% is divided: 4% for the images, and 1% for the cameras. The worse of two seeds counts.
    upper = envelope.upper_limit(lost, 0.04)
    worse = upper.argmax(1)
    losses = np.round(np.take_along_axis(lost.mean(-1), worse[:, None], 1)[:, 0], 9)  # Equal losses are ties.
    failing = upper.max(1) > 0.85
    assert [row["camera"] for row in found["cameras"]] == [*range(40)]
    assert [row["loss"] for row in found["cameras"]] == pytest.approx(losses, abs=1e-9)
    assert [row["upper limit"] for row in found["cameras"]] == pytest.approx(upper.max(1), abs=1e-9)
    assert [row["fails"] == "True" for row in found["cameras"]] == failing.tolist()
    bound = envelope.fraction_bound(failing.sum(), 40, 0.01)
    (row,) = found["tests"]
    assert (row["limits"], row["cameras"], row["failures"]) == ("given", 40, failing.sum())
    assert row["fraction at least"] == pytest.approx(bound, abs=1e-9)
    shown = iter(drawn["A dot for each camera, within the limits"].lines)
    for row, (name, (low, high)), neutral in zip(found["limits"], LIMITS.items(), (0, 1), strict=True):
        assert (row["limit"], row["low"], row["high"]) == (name, low, high)
        values = np.array([camera[name] for camera in found["cameras"]])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
        for side, away in (("low", neutral - values), ("high", values - neutral)):
            cells = [row[f"rank correlation, {side}{end}"] for end in ("", " low", " high")]
            away = np.maximum(away, 0)
            assert cells == ([None] * 3 if not away.any() else pytest.approx(envelope.rank_correlation(away, losses)))
        scale = np.log if name == "saturation" else np.array
        shares = (scale(values) - scale(low)) / (scale(high) - scale(low))
        for chosen in (~failing, failing):
            assert next(shown).get_xdata() == pytest.approx(shares[chosen])
    stated = json.loads((tmp_path / "out/envelope.json").read_text())
    assert (stated["draws"], stated["failures"], stated["holds"]) == (40, failing.sum(), bool(bound >= 0.5))
    assert (stated["samples"], stated["groups"], stated["about"]) == (48, 8, "recipe")
    # If the limits do not hold, the loss is stated that half of the cameras are shown to stay below.
    most = max(count for count in range(40) if envelope.fraction_bound(count, 40, 0.01) >= 0.5)
    loss_shown = np.sort(upper.max(1))[-1 - most]
    assert stated["loss_shown"] == pytest.approx(loss_shown, abs=1e-9)
    points, share = (85, bound) if bound >= 0.5 else (np.ceil(1000 * loss_shown - 1e-6) / 10, 0.5)
    said = (
        f"each of 2 models loses at most {points:g} points of accuracy on images like these 48 test samples of 8 groups"
    )
    assert said in done.stdout
    assert f"at least {np.floor(1000 * share + 1e-6) / 10:g}% of the cameras" in done.stdout
    assert f"({failing.sum()} of 40 cameras failed): black_level -40 to 160 digital numbers of 12 bits, " in done.stdout


def test_tolerances_end_where_the_score_falls_too_far(trained):
    done = call("forensics.py", f"--run={trained.run(2)}", "--analyses=tolerances", "--tolerance=20")
    assert done.returncode == 0, done.stderr
    found = tables.stored(trained.run(2) / "forensics/fold_0/tolerances", done.stdout)
    values, tested = trained.values(trained.run(2)), trained.tested()
    learned, raws, labels = network.part(values, "processor"), trained.raws[tested], trained.labels[tested]
    rows, units = ({row["knob"]: row for row in found[name]} for name in ("distances", "tolerances"))

    def score(moved, position):
        gains = learned["white_balance"] * np.exp(position * np.array(moved))
        return right(values, raws, labels, learned | {"white_balance": gains}).mean()

    # All gains together, and two of them alone, by at most a factor of 100.
    for knob, moved, default in (
        ("white_balance", [1, 1, 1], 1),
        ("white_balance.red", [1, 0, 0], learned["white_balance"][0]),
        ("white_balance.blue", [0, 0, 1], learned["white_balance"][2]),
    ):
        for end, limit in (("low", -np.log(100)), ("high", np.log(100))):
            expected = envelope.tolerated(lambda place, moved=moved: score(moved, place), limit, 0.2)
            assert rows[knob][end] == pytest.approx(expected, abs=1e-5), (knob, end)
            assert (rows[knob][f"{end} is the limit"] == "True") == (expected == limit)
            assert units[knob][end] == pytest.approx(default * np.exp(expected), rel=1e-5)
    at_limit = [row[f"{end} is the limit"] for row in rows.values() for end in ("low", "high")]
    assert {*at_limit} == {"True", "False"}


def test_the_lab_shows_the_images_and_the_judgement_of_the_values_on_its_sliders(trained):
    model, (first, *_) = load(str(trained.run())), trained.tested()
    engine, raw, label = Engine(model.pipeline, model), trained.raws[first].astype(np.float32), trained.labels[first]
    names, set_to = [*engine.knobs], {"gamma_correct": 2.8, "white_balance.red": 2.6, "black_level": 0.03}
    positions = engine.start.copy()
    arrays = trained.values()
    for name, value in set_to.items():
        positions[names.index(name)] = engine.knobs[name].position(value)

    def judged(gamma):
        values = network.part(arrays, "processor")
        values["gamma_correct"] = np.full_like(values["gamma_correct"], gamma)
        values["white_balance"] = np.array([2.6, *values["white_balance"][1:]])
        values["black_level"] += 0.03  # The slider of all levels is a shift.
        stages = isp.parametrized(raw, values)
        return stages, network.logits(arrays, stages["gamma_correct"][None])

    stages, logits = judged(2.8)
    *_, shown = engine.images(positions, raw).values()
    np.testing.assert_allclose(shown.astype(int), 255 * stages["gamma_correct"], atol=1)
    judgement = engine.judge(positions, raw, np.asarray(label))
    np.testing.assert_allclose(judgement.probabilities, network.probabilities(logits)[0], atol=1e-4)
    assert judgement.loss == pytest.approx(network.cross_entropy(logits, [label])[0], rel=1e-3)
    place = names.index("gamma_correct")
    above, below = (engine.knobs["gamma_correct"].value(float(positions[place]) + step) for step in (0.01, -0.01))
    losses = [network.cross_entropy(judged(gamma)[1], [label])[0] for gamma in (above, below)]
    assert judgement.slope[place] == pytest.approx((losses[0] - losses[1]) / 0.02, rel=0.02)
