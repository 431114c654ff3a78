import re

import rooms


def texts(file):
    return re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text())


def test_the_picture_shows_the_rooms_of_the_contracts(tmp_path):
    rooms.save(rooms.draw(rooms.read_layers()), tmp_path / "rooms.svg")
    assert texts(rooms.PICTURE) == texts(tmp_path / "rooms.svg"), "run python docs/ext/rooms.py"
    assert {"isp", "tasks", "r2l_jax", "drift", "search"} <= set(texts(rooms.PICTURE))


def test_a_room_is_above_those_that_it_may_import(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["house", "garden | street"]\n'
        '[[tool.importlinter.contracts]]\ntype = "layers"\ncontainers = ["house"]\nlayers = ["roof", "cellar"]\n'
        '[[tool.importlinter.contracts]]\ntype = "forbidden"\nsource_modules = ["street"]\n'
    )
    layers = rooms.read_layers(tmp_path / "pyproject.toml")
    assert layers == {"": [["house"], ["garden", "street"]], "house": [["roof"], ["cellar"]]}
    (axes,) = rooms.draw(layers).axes
    names = {text.get_text(): text.get_position() for text in axes.texts}
    heights = [names[name][1] for name in ("house", "roof", "cellar", "garden")]
    assert heights == sorted(set(heights))
    assert names["garden"][1] == names["street"][1]
    assert names["garden"][0] < names["street"][0]
