import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from r2l_jax.apps.report.pictures import plot, without_paper
from r2l_jax.runtime import result
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.result import Figure, Result


def test_paper_is_transparent_text_gray_and_images_stay():
    rng = np.random.default_rng(0)
    images = {f"{number} name": rng.uniform(0, 0.9, (30, 40, 3)) for number in range(4)}
    sheet = contact_sheet(images, columns=2, panel=160)
    found = np.asarray(without_paper(sheet))
    is_ink, is_shown = (found[..., :3] == 117).all(-1), found[..., 3] > 0
    is_image = (found[..., 3] == 255) & ~is_ink
    # Four images of 160 x 120 pixels, in two rows below their names.
    assert is_image.sum() == 4 * 160 * 120
    np.testing.assert_array_equal(found[is_image][:, :3], np.asarray(sheet)[is_image])
    assert (is_shown & ~is_image).any()
    assert is_ink[is_shown & ~is_image].all()
    assert not is_shown[0].any()


def test_colored_text_keeps_its_hue():
    pixels = np.full((100, 50, 3), 255, np.uint8)
    pixels[4:12, 10:20] = (0, 128, 0)
    pixels[20:96, 4:46] = 90
    found = np.asarray(without_paper(Image.fromarray(pixels)))
    # Its contrast to white and to the darkest page is at least 4.
    red, green, blue, alpha = found[5, 15]
    assert alpha == 255
    assert max(red, blue) < 10
    luminance = 0.7152 * (green / 255) ** 2.2
    assert 1.05 / (luminance + 0.05) > 4
    assert (luminance + 0.05) / (0.008 + 0.05) > 3.9
    assert found[14, 15, 3] == 0
    assert (found[30, 20] == (90, 90, 90, 255)).all()


def test_a_plot_has_the_color_of_the_page_and_ids_of_its_own(tmp_path):
    figure = Figure(lambda axes: axes.plot([0, 5], [0, 9]), (3, 2))
    result.write(tmp_path, Result({}, figures={"a": figure}))
    found = str(plot(tmp_path / "a.svg", "p7-", 'a "plot"'))
    root = ElementTree.fromstring(found)
    assert (root.attrib["viewBox"], root.attrib["aria-label"]) == ("0 0 216 144", 'a "plot"')
    assert result.INK not in found
    assert "currentColor" in found
    ids = {each.attrib["id"] for each in root.iter() if "id" in each.attrib}
    assert all(each.startswith("p7-") for each in ids)
    clips = {*re.findall(r"url\(#([^)]*)\)", found)}
    assert clips
    assert clips | {each.attrib["href"][1:] for each in root.iter("use")} <= ids


def test_of_a_plot_of_others_only_shapes_are_taken(tmp_path):
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="a()">'
        "<script>alert(1)</script><style>*{}</style><a x:href='http://b'><text>c</text></a><foreignObject/>"
        "<g onclick='d()'><image x:href='http://e'/><use x:href='f.svg#g'/><image x:href='data:image/png;base64,AA=='/>"
        "<text>&lt;b&gt;</text></g></svg>"
    )
    found = str(plot(tmp_path / "a.svg", "p", "a"))
    assert re.findall(r"<(\w+)", found) == ["svg", "g", "image", "use", "image", "text"]
    assert not re.search("on[a-z]+=|http|alert|f.svg", found)
    assert "&lt;b&gt;" in found
    assert "data:image/png;base64,AA==" in found
    for content in ("<svg/>", "no plot", "<svg viewBox='a b'/>"):
        (tmp_path / "a.svg").write_text(content)
        with pytest.raises(InputError, match=r"a\.svg is not a plot that can be shown"):
            plot(tmp_path / "a.svg", "p", "a")
