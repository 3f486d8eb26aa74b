"""Shared memory that knows who wrote and read what since the last barrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.memory import Bytes, check_alignment, columns, scatter

type Array = np.ndarray[Any, Any]

_PAD = 16
_BYTE = np.dtype(np.uint8)

# Tags of bytes: warp w is w + 1, 0 is nobody.
ATOMICS = 254
TENSOR_CORES = 253
_SEVERAL = 255


@dataclass(frozen=True)
class Accessors:
    """Whose accesses these are, broadcast with their addresses.

    Attributes:
      ctas: numbers of the CTAs, int64.
      tags: number of the warp plus 1, uint8.
    """

    ctas: Array
    tags: Array


class SharedMemory:
    """The shared memory of a batch of CTAs.

    What only the order of the executor makes right is an error: reading what nothing has written,
    or touching what another warp has touched since the last barrier of all the CTA's threads.

    Attributes:
      size: bytes of each CTA's.
      base: the lowest address.
    """

    def __init__(self, ctas: int, size: int, base: int) -> None:
        self.size = size
        self.base = base
        self.ctas = ctas
        self._stride = -(-size // _PAD) * _PAD
        length = ctas * self._stride
        self._bytes, self._written, self._writers, self._readers, self._unfenced, self._busy = (
            Bytes(np.zeros(length, np.uint8)) for _ in range(6)
        )
        self._touched = False
        self._ordered = True

    def barrier(self, ctas: Array | None, *, partial: bool = False) -> None:
        """All threads of some CTAs have met (None: of all CTAs).

        Args:
          ctas: which, booleans.
          partial: only some of their threads: who may touch what is not followed any more.
        """
        self._ordered &= not partial
        if partial or not self._touched:
            return
        for tags in (self._writers, self._readers):
            if ctas is None:
                tags.data[:] = 0
            else:
                tags.data.reshape(self.ctas, -1)[ctas] = 0
        self._touched = ctas is not None

    def fence(self, ctas: Array | None) -> None:
        """What some CTAs have written becomes visible to the asynchronous proxy."""
        if ctas is None:
            self._unfenced.data[:] = 0
        else:
            self._unfenced.data.reshape(self.ctas, -1)[ctas] = 0

    def _index(self, addresses: Array, ctas: Array, width: int) -> Array:
        check_alignment(addresses, width)
        lowest, highest = int(addresses.min()), int(addresses.max())
        if lowest < self.base or highest + width > self.base + self.size:
            raise PtxError(
                f"bytes {lowest - self.base} to {highest + width - self.base} "
                f"of the shared memory, which has {self.size}"
            )
        offsets = ctas * self._stride + (addresses.view(np.int64) - self.base)
        return offsets >> (width.bit_length() - 1)

    def _conflict(
        self, tags: Bytes, index: Array, accessors: Accessors, dtype: np.dtype, count: int
    ) -> bool:
        """Whether a byte bears another warp's tag."""
        found = tags.rows(dtype, count)[index]
        if not found.any():
            return False
        of_bytes = np.ascontiguousarray(found).view(np.uint8).reshape(*index.shape, -1)
        mine = np.broadcast_to(accessors.tags, index.shape)[..., None]
        return bool(((of_bytes != 0) & (of_bytes != mine)).any())

    def _mark_readers(
        self, index: Array, accessors: Accessors, dtype: np.dtype, count: int
    ) -> None:
        width = dtype.itemsize * count
        rows = self._readers.rows(_BYTE, width)
        mine = np.broadcast_to(accessors.tags, index.shape)
        if width > 1:
            mine = mine[..., None]
        before = rows[index]
        rows[index] = np.where((before == 0) | (before == mine), mine, np.uint8(_SEVERAL))
        lost = (rows[index] != mine) & (rows[index] != _SEVERAL)
        if lost.any():
            which = lost.any(-1) if width > 1 else lost
            rows[index[which]] = _SEVERAL

    def _everyone(self, index: Array, accessors: Accessors) -> Array:
        """An index for each thread, also where all of a CTA's have the same."""
        return np.broadcast_to(index, np.broadcast_shapes(index.shape, accessors.tags.shape))

    def load(
        self, addresses: Array, accessors: Accessors, dtype: np.dtype, count: int
    ) -> list[Array]:
        """Reads `count` words at each address of each CTA.

        Args:
          addresses: uint64.
          accessors: of these addresses.
          dtype: of the words, unsigned.
          count: how many words follow each other.

        Returns:
          `count` arrays.
        """
        index = self._index(addresses, accessors.ctas, dtype.itemsize * count)
        written = self._written.rows(dtype, count)[index]
        if written.size and int(written.min()) != np.iinfo(dtype).max:
            raise PtxError("reads shared memory that nothing has written")
        if self._ordered:
            each = self._everyone(index, accessors)
            if self._conflict(self._writers, each, accessors, dtype, count):
                raise PtxError("reads what another warp wrote, without a barrier between them")
            self._mark_readers(each, accessors, dtype, count)
            self._touched = True
        return columns(self._bytes.rows(dtype, count)[index], count)

    def store(self, addresses: Array, accessors: Accessors, values: list[Array]) -> None:
        """Writes a word, or a few that follow each other, at each address of each CTA."""
        dtype, count = values[0].dtype, len(values)
        index = self._index(addresses, accessors.ctas, dtype.itemsize * count)
        shape = np.broadcast_shapes(index.shape, *(value.shape for value in values))
        index = np.broadcast_to(index, shape)
        spread = [np.broadcast_to(value, shape) for value in values]
        words = spread[0] if count == 1 else np.stack(spread, axis=-1)
        self._check_store(index, accessors, words, count)
        scatter(self._bytes.rows(dtype, count), index, words)
        ones = np.iinfo(dtype).max
        self._written.rows(dtype, count)[index] = ones
        self._unfenced.rows(dtype, count)[index] = ones

    def _check_store(self, index: Array, accessors: Accessors, words: Array, count: int) -> None:
        dtype = words.dtype
        if self._busy.rows(dtype, count)[index].any():
            raise PtxError("overwrites what an unfinished wgmma may still read")
        if not self._ordered:
            return
        each = self._everyone(index, accessors)
        if self._conflict(self._readers, each, accessors, dtype, count):
            raise PtxError("overwrites what another warp reads, without a barrier between them")
        # Several warps may write the same value.
        changed = self._bytes.rows(dtype, count)[index] != words
        changed = changed.any(-1) if count > 1 else changed
        if changed.any() and self._conflict(
            self._writers,
            index[changed],
            Accessors(accessors.ctas, np.broadcast_to(accessors.tags, index.shape)[changed]),
            dtype,
            count,
        ):
            raise PtxError("overwrites what another warp wrote, without a barrier between them")
        width = dtype.itemsize * count
        tags = np.broadcast_to(accessors.tags, each.shape)
        self._writers.rows(_BYTE, width)[each] = tags[..., None] if width > 1 else tags
        self._touched = True

    def expect(self, addresses: Array, accessors: Accessors, width: int) -> None:
        """Forgets bytes that an asynchronous copy is going to write."""
        index = self._index(addresses, accessors.ctas, width)
        if self._ordered and self._conflict(
            self._readers, self._everyone(index, accessors), accessors, _BYTE, width
        ):
            raise PtxError("overwrites what another warp reads, without a barrier between them")
        self._written.rows(_BYTE, width)[index] = 0

    def load_matrix(self, addresses: Array, ctas: Array) -> Array:
        """What the tensor cores read by themselves: 16 bytes at each address.

        Args:
          addresses: uint64.
          ctas: numbers of the CTAs, int64, broadcast with them.

        Returns:
          uint64 `[…, 2]`.
        """
        index = self._index(addresses, ctas, 16)
        if self._unfenced.rows(np.dtype(np.uint64), 2)[index].any():
            raise PtxError("wgmma reads what was written with no fence.proxy.async since")
        accessors = Accessors(ctas, np.full((1,) * index.ndim, TENSOR_CORES, np.uint8))
        return np.stack(self.load(addresses, accessors, np.dtype(np.uint64), 2), axis=-1)

    def hold(self, addresses: Array, ctas: Array) -> None:
        """Marks what an unfinished wgmma reads, 16 bytes at each address."""
        self._busy.rows(_BYTE, 16)[self._index(addresses, ctas, 16)] = 1

    def release(self) -> None:
        """Takes all marks of `hold` away."""
        self._busy.data[:] = 0
