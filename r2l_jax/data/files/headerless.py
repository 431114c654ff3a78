"""Raw files without a header: samples whose layout the camera's JSON file describes.

The packings:

- MIPI CSI-2 (RAW10, RAW12 and RAW14 of the specification, and of Linux's V4L2): the upper eight bits of two or four
  samples, then the lower bits of all of them;
- GenICam PFNC ("10p", "12p", ...): a stream of bits that starts with the least significant bit of the first sample;
- GigE Vision ("10Packed", "12Packed"): three bytes for two samples, whose lower bits share the middle byte.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import UInt8, UInt16

from r2l_jax.runtime.errors import InputError

Packing = Literal["unpacked", "mipi", "pfnc", "gige"]

# The bits that each packing knows.
_BITS: dict[Packing, tuple[int, ...]] = {
    "unpacked": tuple(range(1, 17)),
    "mipi": (10, 12, 14),
    "pfnc": tuple(range(1, 17)),
    "gige": (10, 12),
}
# The number of samples that share bytes, and the number of these bytes.
_GROUPS = {("mipi", 10): (4, 5), ("mipi", 12): (2, 3), ("mipi", 14): (4, 7), ("gige", 10): (2, 3), ("gige", 12): (2, 3)}

EXAMPLE = '"raw": {"width": 1920, "height": 1080, "bits": 10, "packing": "unpacked"}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Describes how the samples of a file without a header are laid out.

    Attributes:
        width: the number of samples in a row.
        height: rows.
        bits: bits of a sample.
        packing: "unpacked" (words of 8 bits, or of 16 for more than 8), "mipi", "pfnc" or "gige".
        byte_order: the byte order of unpacked words of 16 bits.
        align: whether samples are the low or the high bits of unpacked words.
        offset: the bytes before the first sample.
        stride: the bytes from the start of one row to the start of the next. None leaves no gap: rows of "pfnc" and
            "gige" then follow each other within a byte.

    Raises:
        InputError: a value is out of range, or two of them contradict each other.
    """

    width: int
    height: int
    bits: int
    packing: Packing = "unpacked"
    byte_order: Literal["little", "big"] = "little"
    align: Literal["low", "high"] = "low"
    offset: int = 0
    stride: int | None = None

    def __post_init__(self):
        for name in ("width", "height"):
            side = getattr(self, name)
            if not 2 <= side <= 2**20 or side % 2:
                raise InputError(f"{name} must be even and from 2 to {2**20}, got {side}")
        if self.bits not in _BITS[self.packing]:
            known = _BITS[self.packing]
            wanted = f"from {known[0]} to {known[-1]}" if len(known) > 3 else f"one of {', '.join(map(str, known))}"
            raise InputError(f"bits must be {wanted} for the packing {self.packing}, got {self.bits}")
        if self.packing != "unpacked" and (self.byte_order, self.align) != ("little", "low"):
            raise InputError(f"byte_order and align are for the packing unpacked, got {self.packing}")
        if not 0 <= self.offset <= 2**40:
            raise InputError(f"offset must not be negative, got {self.offset}")
        if self.stride is not None and not self.row_bytes <= self.stride <= 2**24:
            raise InputError(
                f"stride must be at least the {self.row_bytes} bytes of a row of {self.width} samples, "
                f"got {self.stride}"
            )

    @classmethod
    def of(cls, fields: object) -> "Layout":
        """Makes a layout from the object in a camera's JSON file.

        Raises:
            InputError: a name or a type is wrong, one that is required is missing, or a value is refused.
        """
        if not isinstance(fields, Mapping):
            raise InputError(f"must be an object such as {EXAMPLE}, got {fields!r:.100}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(fields) - set(known)):
            raise InputError(f"may have only the fields {', '.join(known)}, got also {', '.join(map(repr, unknown))}")
        try:
            return msgspec.convert(dict(fields), cls)
        except msgspec.ValidationError as error:
            raise InputError(f"{error}; an example is {EXAMPLE}") from None

    @property
    def row_bytes(self) -> int:
        """The bytes that a row takes, rounded up to whole bytes or groups of samples."""
        if self.packing == "unpacked":
            return self.width * self._word
        if self.packing == "pfnc":
            return -(-self.width * self.bits // 8)
        samples, count = _GROUPS[self.packing, self.bits]
        return -(-self.width // samples) * count

    @property
    def largest(self) -> int:
        """The largest value that fits in the bits of a sample."""
        return 2**self.bits - 1

    @property
    def _word(self) -> int:
        return 1 if self.bits <= 8 else 2

    @property
    def _is_stream(self) -> bool:
        """Whether rows follow each other without starting at a whole byte."""
        return self.stride is None and self.packing in ("pfnc", "gige")

    @property
    def file_bytes(self) -> tuple[int, int]:
        """The lengths of a complete file, without and with the gap after the last row."""
        if self._is_stream:
            samples, count = _GROUPS.get((self.packing, self.bits), (8, self.bits))
            total = self.width * self.height
            whole = self.offset + -(-total // samples) * count
            return (whole if self.packing == "gige" else self.offset + -(-total * self.bits // 8)), whole
        stride = self.stride or self.row_bytes
        whole = self.offset + self.height * stride
        return whole - stride + self.row_bytes, whole

    def read(self, path: str | os.PathLike) -> UInt16[np.ndarray, "height width"]:
        """Reads the samples of a file.

        Raises:
            InputError: the file has the wrong length, or a sample has too many bits.
        """
        found, lengths = Path(path).stat().st_size, self.file_bytes
        if found not in lengths:
            gap = f" or {lengths[1]}" if lengths[0] != lengths[1] else ""
            raise InputError(
                f"expected {lengths[0]}{gap} bytes for {self.height} rows of {self.width} samples of {self.bits} bits "
                f"({self.packing}), found {found}"
            )
        data = np.fromfile(path, np.uint8)[self.offset :]
        if self._is_stream:
            return self._unpacked(data, self.width * self.height).reshape(self.height, self.width)
        stride = self.stride or self.row_bytes
        rows = np.zeros((self.height, stride), np.uint8)
        rows.ravel()[: len(data)] = data
        rows = np.ascontiguousarray(rows[:, : self.row_bytes])
        return np.stack([self._unpacked(row, self.width) for row in rows])

    def _unpacked(self, data: UInt8[np.ndarray, " bytes"], count: int) -> UInt16[np.ndarray, " count"]:
        """Unpacks samples from bytes that start with a whole sample."""
        if self.packing == "unpacked":
            return self._words(data)
        if self.packing == "pfnc":
            return self._bits(data, count)
        samples, length = _GROUPS[self.packing, self.bits]
        groups = data.reshape(-1, length).astype(np.uint16).T
        low = self.bits - 8
        if self.packing == "gige":
            first, shared, second = groups
            values = [first << low | shared & (1 << low) - 1, second << low | shared >> 4 & (1 << low) - 1]
        else:
            # The lower bits of the samples follow each other from the least significant bit on.
            rest = np.zeros(groups.shape[1], np.uint32)
            for place, byte in enumerate(groups[samples:]):
                rest |= byte.astype(np.uint32) << 8 * place
            lower = (rest >> low * place & (1 << low) - 1 for place in range(samples))
            values = [high << low | bits for high, bits in zip(groups[:samples], lower, strict=True)]
        return np.stack(values, -1).astype(np.uint16).ravel()[:count]

    def _bits(self, data: UInt8[np.ndarray, " bytes"], count: int) -> UInt16[np.ndarray, " count"]:
        """Unpacks samples from a stream of bits: eight samples fill as many bytes as one sample has bits."""
        groups = np.zeros((-(-count // 8), self.bits + 2), np.uint8)  # A sample spans up to three bytes.
        whole = len(data) // self.bits
        groups[:whole, : self.bits] = data[: whole * self.bits].reshape(whole, self.bits)
        if rest := data[whole * self.bits :].tolist():
            groups[whole, : len(rest)] = rest
        samples = np.empty((len(groups), 8), np.uint16)
        for place in range(8):
            byte, bit = divmod(place * self.bits, 8)
            value = groups[:, byte].astype(np.uint32)
            value |= groups[:, byte + 1].astype(np.uint32) << 8
            value |= groups[:, byte + 2].astype(np.uint32) << 16
            samples[:, place] = value >> bit & self.largest
        return samples.ravel()[:count]

    def _words(self, data: UInt8[np.ndarray, " bytes"]) -> UInt16[np.ndarray, " count"]:
        words = data.view({"little": "<u2", "big": ">u2"}[self.byte_order]) if self._word == 2 else data
        if self.align == "high":
            return (words >> (8 * self._word - self.bits)).astype(np.uint16)
        if words.size and (highest := int(words.max())) > self.largest:
            raise InputError(
                f"holds the value {highest}, which does not fit in {self.bits} bits: check the bits, byte_order and "
                "align in the camera's JSON file"
            )
        return words.astype(np.uint16)
