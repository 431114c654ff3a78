import overview

import isp


def test_the_picture_shows_the_pipeline():
    drawn = overview.draw()
    assert overview.PICTURE.read_text() == drawn, "run python docs/ext/overview.py"
    stages = isp.parametrized(isp.CAMERAS["drone"]).stages
    for name in (*(stage.name for stage in stages), *(name for stage in stages for name in stage.parameters)):
        assert f">{name}</text>" in drawn


def test_the_gradient_reaches_the_stages_with_parameters():
    assert overview.draw().count('class="back-head"') == 5
