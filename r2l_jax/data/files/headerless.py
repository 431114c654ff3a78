"""Raw files without a header: samples whose layout the camera's JSON file describes.

The packings:

- MIPI CSI-2 (RAW10, RAW12 and RAW14 of the specification, and of Linux's V4L2): the upper eight bits of two or four
  samples, then the lower bits of all of them;
- GenICam PFNC ("10p", "12p", ...): a stream of bits that starts with the least significant bit of the first sample;
- GigE Vision ("10Packed", "12Packed"): three bytes for two samples, whose lower bits share the middle byte.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from jaxtyping import UInt8, UInt16, UInt32

from r2l_jax.data.files.decoding import Stored
from r2l_jax.errors import InputError

Packing = Literal["unpacked", "mipi", "pfnc", "gige"]

# The number of samples that share bytes, and the number of these bytes.
_GROUPS = {("mipi", 10): (4, 5), ("mipi", 12): (2, 3), ("mipi", 14): (4, 7), ("gige", 10): (2, 3), ("gige", 12): (2, 3)}

EXAMPLE = '"raw": {"width": 1920, "height": 1080, "bits": 10, "packing": "unpacked"}'

_Side = Annotated[int, msgspec.Meta(ge=2, le=2**20, multiple_of=2)]


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Describes the layout of the samples in a file without a header.

    Width and height, in samples, are even.

    Attributes:
        packing: "unpacked" (words of 8 bits, or of 16 for samples of more than 8), "mipi", "pfnc" or "gige".
        byte_order: the order of the bytes in unpacked words of 16 bits.
        align: whether samples are the low or the high bits of unpacked words.
        offset: the bytes before the first sample.
        stride: the bytes from the start of one row to the start of the next. None means no gap: rows of "pfnc" and
            "gige" may then share a byte.
    """

    width: _Side
    height: _Side
    bits: Annotated[int, msgspec.Meta(ge=1, le=16)]
    packing: Packing = "unpacked"
    byte_order: Literal["little", "big"] = "little"
    align: Literal["low", "high"] = "low"
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    stride: Annotated[int, msgspec.Meta(le=2**24)] | None = None

    def __post_init__(self):
        if self.packing in ("mipi", "gige") and (self.packing, self.bits) not in _GROUPS:
            known = ", ".join(str(bits) for packing, bits in _GROUPS if packing == self.packing)
            raise InputError(f"bits must be one of {known} for the packing {self.packing}, got {self.bits}")
        if self.packing != "unpacked" and (self.byte_order, self.align) != ("little", "low"):
            raise InputError(f"byte_order and align need the packing unpacked, got {self.packing}")
        least, _ = self._row_bytes(self.width)
        if self.stride is not None and self.stride < least:
            raise InputError(f"stride must be at least the {least} bytes of a row, got {self.stride}")

    @property
    def largest(self) -> int:
        """The largest value that fits in the bits of a sample."""
        return 2**self.bits - 1

    @property
    def _group(self) -> tuple[int, int]:
        """The number of samples that share bytes, and the number of these bytes."""
        if self.packing == "unpacked":
            return 1, 1 if self.bits <= 8 else 2
        return _GROUPS.get((self.packing, self.bits), (8, self.bits))

    @property
    def _rows(self) -> tuple[int, int]:
        """The number of rows that start at a whole byte, and of samples in each; a bit stream is one row."""
        is_stream = self.stride is None and self.packing in ("pfnc", "gige")
        return (1, self.width * self.height) if is_stream else (self.height, self.width)

    def _row_bytes(self, samples: int) -> tuple[int, int]:
        """Returns the number of sample bytes in a row, without and with the rest of their last group."""
        in_group, size = self._group
        whole = -(-samples // in_group) * size
        return (-(-samples * self.bits // 8) if self.packing == "pfnc" else whole), whole

    @property
    def file_bytes(self) -> tuple[int, int]:
        """The lengths of a complete file, without and with the gap after the last row."""
        rows, samples = self._rows
        least, whole = self._row_bytes(samples)
        stride = self.stride or whole
        return self.offset + (rows - 1) * stride + least, self.offset + rows * stride

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[Stored]:
        """Opens the samples of a file, which may omit the gap after the last row."""
        found, lengths = path.stat().st_size, self.file_bytes
        if found not in lengths:
            gap = f" or {lengths[1]}" if lengths[0] != lengths[1] else ""
            raise InputError(
                f"expected {lengths[0]}{gap} bytes for {self.height} rows of {self.width} samples of {self.bits} bits "
                f"({self.packing}), found {found}"
            )
        yield Stored((self.height, self.width), lengths[0] - self.offset, lambda: self._read(path))

    def _read(self, path: Path) -> UInt16[np.ndarray, "height width"]:
        rows, samples = self._rows
        data = np.fromfile(path, np.uint8, offset=self.offset)
        data = np.pad(data, (0, self.file_bytes[1] - self.offset - len(data)))
        unpacked = [self._unpacked(row, samples) for row in data.reshape(rows, -1)]
        return np.concatenate(unpacked).reshape(self.height, self.width)

    def _unpacked(self, data: UInt8[np.ndarray, " bytes"], count: int) -> UInt16[np.ndarray, " count"]:
        """Unpacks samples from the bytes of a row, which may end with a gap."""
        _, whole = self._row_bytes(count)
        data = data[:whole]
        if self.packing == "unpacked":
            return self._words(data)
        in_group, size = self._group
        groups = np.zeros((whole // size, size), np.uint8)
        groups.ravel()[: len(data)] = data
        samples, low = np.empty((len(groups), in_group), np.uint16), self.bits - 8
        for place in range(in_group):
            if self.packing == "pfnc":
                samples[:, place] = _bits(groups, place * self.bits, self.bits)
            else:
                is_mipi = self.packing == "mipi"
                high, rest = (8 * place, 8 * in_group + low * place) if is_mipi else (16 * place, 8 + 4 * place)
                samples[:, place] = _bits(groups, high, 8) << low | _bits(groups, rest, low)
        return samples.ravel()[:count]

    def _words(self, data: UInt8[np.ndarray, " bytes"]) -> UInt16[np.ndarray, " count"]:
        words = data.view({"little": "<u2", "big": ">u2"}[self.byte_order]) if self.bits > 8 else data
        if self.align == "high":
            return (words >> (8 * words.itemsize - self.bits)).astype(np.uint16)
        if (highest := int(words.max())) > self.largest:
            raise InputError(
                f"the value {highest} does not fit in {self.bits} bits: check bits, byte_order and align in the "
                "camera's JSON file"
            )
        return words.astype(np.uint16)


def _bits(groups: UInt8[np.ndarray, "groups bytes"], start: int, count: int) -> UInt32[np.ndarray, " groups"]:
    """Reads up to 16 bits of each group as a number, from the least significant bit of the first byte on."""
    first, shift = divmod(start, 8)
    value = np.zeros(len(groups), np.uint32)
    for place in range(-(-(shift + count) // 8)):
        value |= groups[:, first + place].astype(np.uint32) << 8 * place
    return value >> shift & 2**count - 1
