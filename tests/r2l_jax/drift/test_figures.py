import numpy as np
import pytest

from r2l_jax.drift import figures


def draw(values, **options):
    rows, columns = ([f"number {number}" for number in range(size)] for size in values.shape)
    return figures.heat_map(values, rows, columns, title="title", label="label", **options)


def drawn(figure):
    axes, _ = figure.axes
    return axes, [text.get_text() for text in axes.texts], axes.images[0].norm


@pytest.mark.parametrize("logarithmic", [False, True])
def test_colors_go_from_the_least_value_to_the_greatest(logarithmic):
    values = np.array([[1e-4, 1e-2], [1e-3, 1.0]])
    _, texts, norm = drawn(draw(values, number=".1g", logarithmic=logarithmic))
    assert texts == ["0.0001", "0.01", "0.001", "1"]
    expected = [[0, 0.5], [0.25, 1]] if logarithmic else (values - 1e-4) / (1 - 1e-4)
    np.testing.assert_allclose(norm(values), expected, atol=1e-12)
    _, texts, norm = drawn(draw(np.full((1, 2), 0.3), logarithmic=logarithmic))
    assert texts == ["0.300"] * 2
    # One value has the middle of the colors.
    assert float(norm(0.3)) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[[0.0, 1e-3, 1e-2]], [[0.0, 0.0, 0.0]]])
def test_zeros_have_no_color_among_orders_of_magnitude(tmp_path, values):
    figure = draw(np.array(values), number=".2g", logarithmic=True)
    figures.write(tmp_path, {"map": figure})
    axes, texts, norm = drawn(figure)
    assert texts[0] == "0"
    assert np.ma.getmaskarray(norm(np.array(values)))[0].tolist() == [value == 0 for value in values[0]]
    assert axes.texts[0].get_color() == "black"
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_are_written_as_asked_with_their_deviations():
    _, texts, _ = drawn(draw(np.array([[0.5, 0.25]]), number=".1f", deviations=np.array([[0.125, 0.0]])))
    assert texts == ["0.5\n±0.1", "0.2\n±0.0"]
    # Two digits of whole numbers end in no point.
    _, texts, _ = drawn(draw(np.array([[19.8, 6.56, 0.02]]), number="#.2g"))
    assert texts == ["20", "6.6", "0.020"]
