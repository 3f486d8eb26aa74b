"""Global memory, where every access is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.ptx.errors import AddressError, PtxError

type Array = np.ndarray[Any, Any]

# Far apart, and just below a multiple of 2^32: arithmetic in 32 bits does not go unseen.
_BUFFER_BITS = 40
_BUFFER_START = 2**32 - 512


@dataclass
class Bytes:
    """Bytes that are seen as rows of words."""

    data: Array
    views: dict[tuple[np.dtype, int], Array] = field(default_factory=dict)

    def rows(self, dtype: np.dtype, count: int) -> Array:
        """The bytes as `[rows, count]` words, or `[rows]` where count is 1."""
        found = self.views.get((dtype, count))
        if found is None:
            whole = self.data[: self.data.size // (dtype.itemsize * count) * dtype.itemsize * count]
            found = whole.view(dtype)
            if count > 1:
                found = found.reshape(-1, count)
            self.views[dtype, count] = found
        return found


@dataclass
class _Buffer:
    """One argument's array, at an address of its own."""

    name: str
    array: Array
    base: int
    bytes: Bytes
    written: bool = False


def check_alignment(addresses: Array, width: int) -> None:
    if width > 1 and int(np.bitwise_or.reduce(addresses, axis=None)) & (width - 1):
        worst = int(addresses[(addresses & np.uint64(width - 1)) != 0].flat[0])
        raise AddressError(f"address {worst:#x} is not a multiple of {width}", worst)


def _log2(width: int) -> np.uint64:
    return np.uint64(width.bit_length() - 1)


def columns(rows: Array, count: int) -> list[Array]:
    return [rows] if count == 1 else [np.ascontiguousarray(rows[..., i]) for i in range(count)]


def spread_words(values: list[Array], shape: tuple[int, ...]) -> Array:
    """Values as one array of a shape, with a last axis where there are several."""
    if len(values) == 1:
        return np.broadcast_to(values[0], shape)
    words = np.empty((*shape, len(values)), values[0].dtype)
    for place, value in enumerate(values):
        words[..., place] = value
    return words


def scatter(rows: Array, index: Array, values: Array) -> None:
    """Writes values, which must agree where an index is there twice."""
    rows[index] = values
    if not (rows.take(index, axis=0) == values).all():
        raise PtxError("two threads store different values at one address")


class GlobalMemory:
    """The arrays that a kernel was given, each in an address range of its own."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []

    def add(self, name: str, array: Array) -> int:
        """Takes a copy of an array in; the same memory twice is one buffer.

        Returns:
          its address.
        """
        for buffer in self._buffers:
            same = buffer.array.__array_interface__["data"][0] == array.ctypes.data
            if same and buffer.array.nbytes == array.nbytes and array.nbytes:
                return buffer.base
        if not array.flags.c_contiguous:
            raise PtxError(f"{name} is not contiguous")
        base = (len(self._buffers) + 1 << _BUFFER_BITS) + _BUFFER_START
        data = np.frombuffer(array.tobytes(), np.uint8).copy()
        self._buffers.append(_Buffer(name, array, base, Bytes(data)))
        return base

    def write_back(self) -> None:
        """Copies what was stored to the arrays."""
        for buffer in self._buffers:
            if buffer.written:
                buffer.array[...] = buffer.bytes.data.view(buffer.array.dtype).reshape(
                    buffer.array.shape
                )

    def _buffer(self, lowest: int, highest: int, width: int) -> _Buffer:
        number = (lowest >> _BUFFER_BITS) - 1
        if not 0 <= number < len(self._buffers):
            raise AddressError(f"address {lowest:#x} is in no buffer", lowest)
        buffer = self._buffers[number]
        start, end = lowest - buffer.base, highest + width - buffer.base
        if start < 0 or end > buffer.bytes.data.size:
            raise AddressError(
                f"bytes {start} to {end} of {buffer.name}, which has {buffer.bytes.data.size}",
                lowest if start < 0 else highest,
            )
        return buffer

    def _parts(self, addresses: Array, width: int) -> list[tuple[Any, _Buffer]]:
        """Which addresses are in which buffer; `...` where all are in one."""
        lowest, highest = int(addresses.min()), int(addresses.max())
        if lowest >> _BUFFER_BITS == highest >> _BUFFER_BITS:
            return [(..., self._buffer(lowest, highest, width))]
        number = addresses >> np.uint64(_BUFFER_BITS)
        parts = []
        for each in np.unique(number):
            where = number == each
            inside = addresses[where]
            parts.append((where, self._buffer(int(inside.min()), int(inside.max()), width)))
        return parts

    def load(self, addresses: Array, dtype: np.dtype, count: int) -> list[Array]:
        """Reads `count` words at each address.

        Returns:
          `count` arrays of the addresses' shape.
        """
        width = dtype.itemsize * count
        check_alignment(addresses, width)
        parts = self._parts(addresses, width)
        if len(parts) == 1:
            buffer = parts[0][1]
            index = (addresses - np.uint64(buffer.base)) >> _log2(width)
            rows = buffer.bytes.rows(dtype, count)
            return columns(rows.take(index.view(np.int64), axis=0), count)
        result = np.zeros((*addresses.shape, *([count] if count > 1 else [])), dtype)
        for where, buffer in parts:
            index = (addresses[where] - np.uint64(buffer.base)) >> _log2(width)
            result[where] = buffer.bytes.rows(dtype, count)[index.view(np.int64)]
        return columns(result, count)

    def store(self, addresses: Array, values: list[Array]) -> None:
        """Writes a word, or a few that follow each other, at each address."""
        dtype, count = values[0].dtype, len(values)
        width = dtype.itemsize * count
        check_alignment(addresses, width)
        shape = np.broadcast_shapes(addresses.shape, *(value.shape for value in values))
        addresses = np.broadcast_to(addresses, shape)
        words = spread_words(values, shape)
        for where, buffer in self._parts(addresses, width):
            if not buffer.array.flags.writeable:
                raise PtxError(f"stores to {buffer.name}, which is read-only")
            buffer.written = True
            index = (addresses[where] - np.uint64(buffer.base)) >> _log2(width)
            scatter(buffer.bytes.rows(dtype, count), index.view(np.int64), words[where])
