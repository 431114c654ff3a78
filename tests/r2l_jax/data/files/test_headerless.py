import numpy as np
import pytest
import tifffile

import isp
from r2l_jax.data.files.decoding import opened
from r2l_jax.data.files.headerless import Layout
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError

COLORS = {"black_level": [64] * 4, "white_balance": [2.0, 1.0, 1.5], "color_matrix": np.eye(3).tolist()}


def read(layout, path):
    with opened(path, layout.open) as stored:
        return stored.read()


def packed(samples, packing, bits):
    """Packs samples bit by bit, as the standards draw it; rows of "mipi" are by themselves, others one stream."""
    if packing == "unpacked":
        return samples.astype("<u2" if bits > 8 else np.uint8).tobytes()
    if packing == "pfnc":
        stream = samples.reshape(-1, 1) >> np.arange(bits) & 1
        return np.packbits(stream.astype(np.uint8), bitorder="little").tobytes()
    low = bits - 8
    if packing == "gige":
        data = []
        for first, second in samples.reshape(-1, 2).tolist():
            data += [first >> low, first % 2**low | second % 2**low << 4, second >> low]
        return bytes(data)
    groups = samples.reshape(-1, {10: 4, 12: 2, 14: 4}[bits])
    rest = (groups[..., None] >> np.arange(low) & 1).reshape(len(groups), -1).astype(np.uint8)
    return np.hstack([(groups >> low).astype(np.uint8), np.packbits(rest, axis=1, bitorder="little")]).tobytes()


def samples(bits, shape=(6, 8)):
    values = np.random.default_rng(bits).integers(0, 2**bits, shape, np.uint16)
    values.ravel()[:2] = 0, 2**bits - 1
    return values


@pytest.mark.parametrize(
    ("packing", "bits"),
    [
        *(("unpacked", bits) for bits in (8, 10, 16)),
        *(("mipi", bits) for bits in (10, 12, 14)),
        *(("pfnc", bits) for bits in (8, 10, 12, 14)),
        *(("gige", bits) for bits in (10, 12)),
    ],
)
def test_every_packing_gives_the_same_samples(tmp_path, packing, bits):
    values = samples(bits)
    (tmp_path / "a.raw").write_bytes(b"header" + packed(values, packing, bits))
    layout = Layout(width=8, height=6, bits=bits, packing=packing, offset=6)
    np.testing.assert_array_equal(read(layout, tmp_path / "a.raw"), values)


@pytest.mark.parametrize(("packing", "bits"), [("mipi", 10), ("gige", 12), ("pfnc", 10), ("pfnc", 12)])
@pytest.mark.parametrize(("gap", "ending"), [(0, 0), (3, 0), (3, 3)])
def test_each_row_of_a_stride_starts_at_a_whole_byte(tmp_path, packing, bits, gap, ending):
    """Though six samples fill neither a group of MIPI nor the bytes of 10 bits; the last gap may be missing."""
    values = samples(bits, (4, 6))
    filled = np.pad(values, ((0, 0), (0, 2))) if packing == "mipi" else values
    rows = [packed(row, packing, bits) for row in filled]
    layout = Layout(width=6, height=4, bits=bits, packing=packing, stride=len(rows[0]) + gap)
    (tmp_path / "a.raw").write_bytes((b"\xff" * gap).join(rows) + b"\xff" * ending)
    np.testing.assert_array_equal(read(layout, tmp_path / "a.raw"), values)


def test_words_may_be_big_endian_and_aligned_high(tmp_path):
    values = samples(12)
    (tmp_path / "a.raw").write_bytes((values << 4).astype(">u2").tobytes())
    layout = Layout(width=8, height=6, bits=12, byte_order="big", align="high")
    np.testing.assert_array_equal(read(layout, tmp_path / "a.raw"), values)
    with pytest.raises(InputError, match=r"the value \d+ does not fit in 12 bits: check bits, byte_order"):
        read(Layout(width=8, height=6, bits=12), tmp_path / "a.raw")
    values = samples(6)
    (tmp_path / "a.raw").write_bytes((values << 2).astype(np.uint8).tobytes())
    np.testing.assert_array_equal(read(Layout(width=8, height=6, bits=6, align="high"), tmp_path / "a.raw"), values)


@pytest.mark.parametrize(("packing", "bits"), [("unpacked", 10), ("mipi", 12), ("pfnc", 10), ("gige", 10)])
@pytest.mark.parametrize("missing", [-1, 1])
def test_a_file_of_another_length_is_refused(tmp_path, packing, bits, missing):
    data = packed(samples(bits), packing, bits)
    (tmp_path / "a.raw").write_bytes((data + b"\0")[: len(data) - missing])
    layout = Layout(width=8, height=6, bits=bits, packing=packing)
    with pytest.raises(InputError, match=rf"expected {len(data)} bytes for 6 rows .*, found {len(data) - missing}$"):
        read(layout, tmp_path / "a.raw")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 7, "height": 6, "bits": 8}, "multiple of 2 - at `.*width`"),
        ({"width": 8, "height": 6, "bits": 11, "packing": "mipi"}, "bits must be one of 10, 12, 14 for the packing m"),
        ({"width": 8, "height": 6, "bits": 10, "packing": "mipi", "align": "high"}, "need the packing unpacked"),
        ({"width": 8, "height": 6, "bits": 10, "stride": 15}, "stride must be at least the 16 bytes of a row, got 15"),
    ],
)
def test_a_layout_that_cannot_be(stated, fields, message):
    with pytest.raises(InputError, match=rf"camera\.json: raw: .*{message}"):
        stated(raw=fields)


def test_levels_are_digital_numbers(tmp_path, stated):
    values, name = samples(10), "a"
    (tmp_path / name).write_bytes(packed(values, "mipi", 10))
    raw = {"width": 8, "height": 6, "bits": 10, "packing": "mipi"}
    mosaic, camera = read_raw(tmp_path / name, stated(**COLORS, white_level=1000, raw=raw))
    np.testing.assert_allclose(mosaic, np.minimum(values / 1000, 1), rtol=1e-6)
    assert camera.black_level == (0.064,) * 4
    # Without a stated level, white is the largest value of the bits. Files that have a header are read as always.
    colors = COLORS | {"black_level": [0.0625] * 4}
    mosaic, _ = read_raw(tmp_path / name, stated(**colors, raw=raw))
    np.testing.assert_allclose(mosaic, values / 1023, rtol=1e-6)
    tifffile.imwrite(tmp_path / "a.tiff", values)
    known = stated(**COLORS, white_level=65535, raw=raw)
    np.testing.assert_allclose(read_raw(tmp_path / "a.tiff", known)[0], values / 65535, rtol=1e-6)


def test_a_missing_layout_or_figure_is_named(tmp_path, stated):
    (tmp_path / "a.bin").write_bytes(bytes(4))
    expected = r'a\.bin: .*if the file has no header, describe its layout in .*"raw": \{"width"'
    with pytest.raises(InputError, match=expected):
        read_raw(tmp_path / "a.bin", isp.CAMERAS["drone"])
    camera = stated(black_level=[0] * 4, raw={"width": 2, "height": 2, "bits": 8})
    with pytest.raises(InputError, match=r"a\.bin: .* that also has white_balance, color_matrix;"):
        read_raw(tmp_path / "a.bin", camera)
