"""No bytes make loading do anything but refuse them or give a valid network."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.packing import PackedConv, PackedUNet
from mbu_jax.saving import load_packed
from tests.oracles import packed_network
from tests.saving.packed_files import (
    TENSOR,
    assert_same,
    put_together,
    refusal,
    signed,
    take_apart,
    tensors_of,
)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_truncated_or_extended_file_is_refused(
    folder: Path, content: bytes, data: st.DataObject
) -> None:
    path = folder / "cut.safetensors"
    start_of_data = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(
        st.integers(0, 20)
        | st.integers(0, start_of_data)
        | st.integers(-20, 20).map(lambda offset: start_of_data + offset)
        | st.integers(start_of_data, len(content) - 1)
        | st.integers(1, 20).map(lambda offset: len(content) - offset)
    )
    path.write_bytes(content[:place])
    refusal(path)
    path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=40)))
    refusal(path)


positions = st.integers(0, 2**40)
flips = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(flips=flips, in_header=st.booleans())
@example(flips=[(0, 32)], in_header=True)
@example(flips=[(7, 128)], in_header=True)
def test_altered_bytes_are_refused_or_alter_nothing(
    folder: Path, network: PackedUNet, content: bytes, flips: list[tuple[int, int]], in_header: bool
) -> None:
    altered = bytearray(content)
    end = 8 + int.from_bytes(content[:8], "little") if in_header else len(content)
    for position, flip in flips:
        altered[position % end] ^= flip
    path = folder / "flipped.safetensors"
    path.write_bytes(altered)
    try:
        loaded = load_packed(path)
    except InputError:
        refusal(path)
    else:
        assert_same(loaded, network)  # a space became a tab, say


@settings(deadline=None, max_examples=60)
@given(flips=flips)
def test_altered_and_signed_bytes_are_refused_or_a_valid_network(
    folder: Path, network: PackedUNet, content: bytes, flips: list[tuple[int, int]]
) -> None:
    header, about, data = take_apart(content)
    altered = bytearray(data)
    for position, flip in flips:
        altered[position % len(altered)] ^= flip
    names = {name: entry["data_offsets"] for name, entry in header.items()}
    tensors = {name: np.frombuffer(altered[a:b], np.uint8) for name, (a, b) in names.items()}
    about["sha256"] = signed(tensors)
    path = folder / "signed.safetensors"
    path.write_bytes(put_together(header, about, bytes(altered)))
    try:
        loaded = load_packed(path)
    except InputError:
        refusal(path)
        return
    loaded.validate()
    for name, tensor in tensors_of(loaded).items():
        assert tensor.tobytes() == tensors[name].tobytes(), name
    for conv in loaded.convs.values():
        assert_possible(conv)


def test_altered_and_signed_networks_are_refused_or_run(
    folder: Path, network: PackedUNet, content: bytes
) -> None:
    """Bits that a layer of 4 channels uses, so that many of these networks are possible ones."""
    about = take_apart(content)[1]
    run = jax.jit(functools.partial(infer, implementation="bitsliced"))
    rng = np.random.default_rng(0)
    path = folder / "possible.safetensors"
    refused = taken = 0
    for _ in range(60):
        tensors = {name: np.array(tensor) for name, tensor in tensors_of(network).items()}
        for _ in range(rng.integers(1, 4)):
            name = str(rng.choice(sorted(tensors)))
            of_planes = name.endswith(("positive", "negative", "exponent"))
            words = tensors[name].view(np.uint8).reshape(-1, tensors[name].itemsize)
            byte, bits = (0, 4) if of_planes else (rng.integers(words.shape[1]), 8)
            words[rng.integers(len(words)), byte] ^= np.uint8(1 << rng.integers(bits))
        about["sha256"] = signed(tensors)
        metadata = {"mbu_jax": json.dumps(about)}
        path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))
        try:
            loaded = load_packed(path)
        except InputError:
            refusal(path)
            refused += 1
            continue
        images = rng.integers(0, 256, (1, 16, 16, 1)).astype(np.uint8)
        np.testing.assert_array_equal(
            run(loaded, images), packed_network.network(loaded, images)[1].astype(np.float32)
        )
        taken += 1
    assert min(refused, taken) > 10, (refused, taken)


def assert_possible(conv: PackedConv) -> None:
    """What `validate` promises, bit by bit."""
    used = [i for first, n in starts(conv.segments) for i in range(first, first + n)]
    unused = [i for i in range(32 * conv.positive.shape[-1]) if i not in used]
    planes = [conv.positive]
    if conv.negative is not None:
        planes.append(conv.negative)
        assert not (np.asarray(conv.positive) & np.asarray(conv.negative)).any()
    for plane in planes:
        words = np.asarray(plane).astype("<u4")
        bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
        assert not bits[..., unused].any()
    assert (np.diff(np.asarray(conv.theta).astype(np.int64), axis=0) >= 0).all()


def starts(segments: tuple[int, ...]) -> list[tuple[int, int]]:
    firsts, first = [], 0
    for channels in segments:
        firsts.append((first, channels))
        first += -(-channels // 32) * 32
    return firsts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_headers_of_any_json_are_refused(folder: Path, content: bytes, data: st.DataObject) -> None:
    header, about, tail = take_apart(content)
    places: list[tuple[Any, Any]] = [
        *((header, name) for name in header),
        *((header[TENSOR], field) for field in header[TENSOR]),
        *((about, field) for field in about),
        *((about["config"], field) for field in about["config"]),
        *((about["config"]["quantization"], field) for field in about["config"]["quantization"]),
    ]
    table, field = data.draw(st.sampled_from(places))
    before = table[field]
    table[field] = data.draw(json_values.filter(lambda value: value != before))
    path = folder / "json.safetensors"
    path.write_bytes(put_together(header, about, tail))
    refusal(path)


@settings(deadline=None, max_examples=60)
@given(header=st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
       length=st.integers(0, 2**64 - 1) | st.none(), tail=st.binary(max_size=40))  # fmt: skip
def test_any_bytes_are_refused(
    folder: Path, header: bytes, length: int | None, tail: bytes
) -> None:
    path = folder / "any.safetensors"
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + tail)
    refusal(path)
