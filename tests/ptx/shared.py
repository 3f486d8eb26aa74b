"""Shared memory that knows who wrote and read what since the last barrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.errors import AddressError, PtxError
from tests.ptx.memory import Bytes, check_alignment, columns, scatter, spread_words

type Array = np.ndarray[Any, Any]

_PAD = 16

# Tags of granules: warp w is w + 1, 0 is nobody.
ATOMICS = 254
TENSOR_CORES = 253
_SEVERAL = 255

# Bits of a granule's state.
_WRITTEN = 1
_UNFENCED = 2
_HELD = 4


@dataclass(frozen=True)
class Accessors:
    """Whose accesses these are, broadcast with their addresses.

    Attributes:
      ctas: numbers of the CTAs, int64.
      tags: number of the warp plus 1, uint8.
    """

    ctas: Array
    tags: Array


class _Granules:
    """A byte for each granule of the memory, seen as words that cover one access each."""

    def __init__(self, length: int, granule: int) -> None:
        self.bytes = Bytes(np.zeros(length // granule, np.uint8))
        self.granule = granule

    def at(self, index: Array, width: int) -> tuple[Array, Array]:
        """The words and their index, for accesses of `width` bytes."""
        count = width // self.granule
        if count <= 8:
            return self.bytes.rows(np.dtype(f"u{count}"), 1), index
        halves = index[..., None] * 2 + np.arange(2)
        return self.bytes.rows(np.dtype(np.uint64), 1), halves

    def get(self, index: Array, width: int) -> Array:
        words, place = self.at(index, width)
        return words.take(place)

    def put(self, index: Array, width: int, values: Array | int) -> None:
        """Values of one granule, repeated."""
        words, place = self.at(index, width)
        words[place] = repeated(values, words.dtype, place.ndim if np.ndim(values) else 0)


def repeated(values: Array | int, dtype: np.dtype, axes: int = 0) -> Array:
    """A byte in all bytes of a word, with axes added at the end."""
    bytes_ = np.asarray(values, np.uint8)
    pattern = dtype.type(int.from_bytes(b"\1" * dtype.itemsize))
    return bytes_.reshape(bytes_.shape + (1,) * (axes - bytes_.ndim)) * pattern


class SharedMemory:
    """The shared memory of a batch of CTAs.

    What only the order of the executor makes right is an error: reading what nothing has written,
    or touching what another warp has touched since the last barrier of all the CTA's threads.

    Attributes:
      size: bytes of each CTA's.
      base: the lowest address.
    """

    def __init__(self, ctas: int, size: int, base: int, *, granule: int, follow: bool) -> None:
        """Makes memory that nothing has written.

        Args:
          ctas: how many CTAs have such memory.
          size: bytes of each.
          base: the lowest address.
          granule: bytes of the smallest access.
          follow: whether there are several warps, whose order matters.
        """
        self.size = size
        self.base = base
        self.ctas = ctas
        self._stride = -(-size // _PAD) * _PAD
        length = ctas * self._stride
        self._bytes = Bytes(np.zeros(length, np.uint8))
        self._state, self._writers, self._readers = (_Granules(length, granule) for _ in range(3))
        self._touched = False
        self._holding = False
        self._follow = follow

    def barrier(self, ctas: Array | None, *, partial: bool = False) -> None:
        """All threads of some CTAs have met (None: of all CTAs).

        Args:
          ctas: which, booleans.
          partial: only some of their threads: who may touch what is not followed any more.
        """
        self._follow &= not partial
        if partial or not self._touched:
            return
        for tags in (self._writers, self._readers):
            if ctas is None:
                tags.bytes.data[:] = 0
            else:
                tags.bytes.data.reshape(self.ctas, -1)[ctas] = 0
        self._touched = ctas is not None

    def fence(self, ctas: Array | None) -> None:
        """What some CTAs have written becomes visible to the asynchronous proxy."""
        state = self._state.bytes.data.reshape(self.ctas, -1)
        state[slice(None) if ctas is None else ctas] &= _WRITTEN | _HELD

    def _index(self, addresses: Array, ctas: Array, width: int) -> Array:
        check_alignment(addresses, width)
        lowest, highest = int(addresses.min()), int(addresses.max())
        if lowest < self.base or highest + width > self.base + self.size:
            raise AddressError(
                f"bytes {lowest - self.base} to {highest + width - self.base} "
                f"of the shared memory, which has {self.size}",
                lowest if lowest < self.base else highest,
            )
        shift = width.bit_length() - 1
        return ctas * (self._stride >> shift) + (addresses.view(np.int64) - self.base >> shift)

    def _conflict(self, tags: _Granules, index: Array, accessors: Accessors, width: int) -> bool:
        """Whether a granule bears another warp's tag."""
        found = tags.get(index, width)
        if not found.any():
            return False
        mine = repeated(accessors.tags, found.dtype, found.ndim)
        if ((found == 0) | (found == mine)).all():
            return False
        parts = np.ascontiguousarray(found)[..., None].view(np.uint8)
        own = accessors.tags.reshape(*accessors.tags.shape, *(1,) * (parts.ndim - index.ndim))
        return bool(((parts != 0) & (parts != own)).any())

    def _mark_readers(self, index: Array, accessors: Accessors, width: int) -> None:
        words, place = self._readers.at(index, width)
        mine = repeated(accessors.tags, words.dtype, place.ndim)
        several = repeated(_SEVERAL, words.dtype)
        before = words.take(place)
        alone = before == 0
        if not alone.all():
            alone |= before == mine
        words[place] = np.where(alone, mine, several)
        after = words.take(place)
        lost = (after != mine) & (after != several)
        if lost.any():
            words[place[lost]] = several

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
        width = dtype.itemsize * count
        index = self._index(addresses, accessors.ctas, width)
        state = self._state.get(index, width)
        written = repeated(_WRITTEN, state.dtype)
        if (state & written != written).any():
            raise PtxError("reads shared memory that nothing has written")
        if self._follow:
            each = self._everyone(index, accessors)
            if self._conflict(self._writers, each, accessors, width):
                raise PtxError("reads what another warp wrote, without a barrier between them")
            self._mark_readers(each, accessors, width)
            self._touched = True
        return columns(self._bytes.rows(dtype, count).take(index, axis=0), count)

    def store(self, addresses: Array, accessors: Accessors, values: list[Array]) -> None:
        """Writes a word, or a few that follow each other, at each address of each CTA."""
        dtype, count = values[0].dtype, len(values)
        width = dtype.itemsize * count
        index = self._index(addresses, accessors.ctas, width)
        shape = np.broadcast_shapes(index.shape, *(value.shape for value in values))
        index = np.broadcast_to(index, shape)
        words = spread_words(values, shape)
        if self._holding:
            state = self._state.get(index, width)
            if (state & repeated(_HELD, state.dtype)).any():
                raise PtxError("overwrites what an unfinished wgmma may still read")
        if self._follow:
            self._follow_store(index, accessors, words, count)
        scatter(self._bytes.rows(dtype, count), index, words)
        self._state.put(index, width, _WRITTEN | _UNFENCED)

    def _follow_store(self, index: Array, accessors: Accessors, words: Array, count: int) -> None:
        width = words.dtype.itemsize * count
        each = self._everyone(index, accessors)
        if self._conflict(self._readers, each, accessors, width):
            raise PtxError("overwrites what another warp reads, without a barrier between them")
        if self._conflict(self._writers, each, accessors, width):
            # Several warps may write the same value.
            changed = self._bytes.rows(words.dtype, count)[index] != words
            changed = np.broadcast_to(changed.any(-1) if count > 1 else changed, each.shape)
            tags = np.broadcast_to(accessors.tags, each.shape)[changed]
            changers = Accessors(accessors.ctas, tags)
            if changed.any() and self._conflict(self._writers, each[changed], changers, width):
                raise PtxError("overwrites what another warp wrote, without a barrier between them")
        self._writers.put(each, width, accessors.tags)
        self._touched = True

    def expect(self, addresses: Array, accessors: Accessors, width: int) -> None:
        """Forgets bytes that an asynchronous copy is going to write."""
        index = self._index(addresses, accessors.ctas, width)
        if self._follow and self._conflict(
            self._readers, self._everyone(index, accessors), accessors, width
        ):
            raise PtxError("overwrites what another warp reads, without a barrier between them")
        self._state.put(index, width, 0)

    def load_matrix(self, addresses: Array, ctas: Array) -> Array:
        """What the tensor cores read by themselves: 16 bytes at each address.

        Args:
          addresses: uint64.
          ctas: numbers of the CTAs, int64, broadcast with them.

        Returns:
          uint64 `[…, 2]`.
        """
        state = self._state.get(self._index(addresses, ctas, 16), 16)
        if (state & repeated(_UNFENCED, state.dtype)).any():
            raise PtxError("wgmma reads what was written with no fence.proxy.async since")
        accessors = Accessors(ctas, np.full((1,) * addresses.ndim, TENSOR_CORES, np.uint8))
        return np.stack(self.load(addresses, accessors, np.dtype(np.uint64), 2), axis=-1)

    def hold(self, addresses: Array, ctas: Array) -> None:
        """Marks what an unfinished wgmma reads, 16 bytes at each address."""
        words, place = self._state.at(self._index(addresses, ctas, 16), 16)
        words[place] |= repeated(_HELD, words.dtype)
        self._holding = True

    def release(self) -> None:
        """Takes all marks of `hold` away."""
        self._state.bytes.data[:] &= _WRITTEN | _UNFENCED
        self._holding = False
