import numpy as np

from r2l_jax.runtime.pictures import contact_sheet


def test_a_contact_sheet_has_the_given_number_of_columns():
    mosaic, image = np.full((20, 30), 0.5), np.full((20, 30, 3), 0.5)
    three, four = (contact_sheet({"a": mosaic, "b": image, "c": image, "d": image}, columns) for columns in (3, 4))
    assert three.size == (3 * (480 + 8) + 8, 2 * (320 + 28) + 8)
    assert four.size == (4 * (480 + 8) + 8, 320 + 28 + 8)
    np.testing.assert_array_equal(np.unique(np.asarray(four)[300]), [128, 255])
