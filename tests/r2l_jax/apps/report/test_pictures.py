import re
from xml.etree import ElementTree

import pytest

from r2l_jax.apps.report.pictures import plot
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.result import Figure, Result


@pytest.mark.usefixtures("rendered_figures")
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
        with pytest.raises(InputError, match=r"a\.svg cannot be shown as a plot"):
            plot(tmp_path / "a.svg", "p", "a")
