"""Packed networks whose header, metadata or values were changed by hand are refused."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from mbu_jax.packing import PackedUNet
from tests.saving.packed_files import (
    TENSOR,
    Change,
    altered,
    little_memory,
    put_together,
    refused,
    signed,
    take_apart,
    tensors_of,
)


def reshaped(*shape: Any) -> Change:
    return lambda header: header[TENSOR].update(shape=list(shape))


def moved(first: int, last: int) -> Change:
    def move(header: dict[str, Any]) -> None:
        offsets = header[TENSOR]["data_offsets"]
        header[TENSOR]["data_offsets"] = [offsets[0] + first, offsets[1] + last]

    return move


def configured(**fields: Any) -> Change:
    return lambda about: about["config"].update(fields)


def quantized(**options: Any) -> Change:
    return lambda about: about["config"]["quantization"].update(options)


BAD_HEADERS: dict[str, tuple[Change, str]] = {
    "lost tensor": (lambda h: h.pop(TENSOR), f"lacks tensor {TENSOR}"),
    "more tensors": (lambda h: h.update(more=h[TENSOR]), "has unknown tensor more"),
    "escapes": (lambda h: h.update({"\x1b[2J\n": 1}), r"has unknown tensor \?\[2J\?"),
    "very long name": (lambda h: h.update({"x" * 9000: 1}), r"unknown tensor x*\.\.\."),
    "other dtype": (lambda h: h[TENSOR].update(dtype="I32"), "is .*I32.*this network has"),
    "strange dtype": (lambda h: h[TENSOR].update(dtype=[1]), "this network has"),
    "10^12 channels": (reshaped(3, 3, 10**12, 1), "this network has"),
    "overflowing shape": (reshaped(2**32, 2**32, 2**32, 2**32), "this network has"),
    "negative shape": (reshaped(-3, -3, 8, 1), "this network has"),
    "float shape": (reshaped(3.0, 3, 8, 1), ""),
    "endless shape": (reshaped(*[1] * 1000), r"1, 1, .*\.\.\.\)"),
    "infinite shape": (reshaped(math.inf, 3, 8, 1), "this network has"),
    "no shape": (lambda h: h[TENSOR].pop("shape"), "this network has"),
    "more fields": (lambda h: h[TENSOR].update(stride=1), "this network has"),
    "a number": (lambda h: h.update({TENSOR: 3}), "this network has"),
    "words for offsets": (lambda h: h[TENSOR].update(data_offsets=["0", "9"]), "this network has"),
    "one offset": (lambda h: h[TENSOR].update(data_offsets=[0]), "this network has"),
    "moved": (moved(4, 4), "overlap or leave gaps"),
    "moved far": (moved(10**15, 10**15), "overlap or leave gaps"),
    "moved before": (moved(-(10**9), -(10**9)), "overlap or leave gaps"),
    "longer": (moved(0, 4), "not those of its shape"),
    "reversed": (lambda h: h[TENSOR]["data_offsets"].reverse(), "not those of its shape"),
    "twice": (
        lambda h: h[TENSOR].update(data_offsets=h["down_c1.conv1.negative"]["data_offsets"]),
        "overlap or leave gaps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_lies_about_a_tensor_is_refused(
    tmp_path: Path, masked: bytes, name: str
) -> None:
    change, reason = BAD_HEADERS[name]
    said = refused(tmp_path, altered(masked, header=change))
    assert re.search(reason, said), said


@pytest.mark.parametrize(("first", "second"), [("positive", "negative"), ("negative", "positive")])
def test_exchanged_tensors_are_noticed(
    tmp_path: Path, masked: bytes, first: str, second: str
) -> None:
    a, b = f"up_c2.conv1.{first}", f"up_c2.conv1.{second}"

    def exchange(header: dict[str, Any]) -> None:
        header[a], header[b] = header[b], header[a]

    assert "its checksum is another" in refused(tmp_path, altered(masked, header=exchange))


BAD_METADATA: dict[str, tuple[Change, str]] = {
    "other format": (lambda a: a.update(format="sums"), "its format is 'sums'"),
    "no format": (lambda a: a.pop("format"), "its format is None"),
    "newer version": (lambda a: a.update(version=4), "format version is 4; this mbu_jax reads 3"),
    "older version": (lambda a: a.update(version=2), "format version is 2; this mbu_jax reads 3"),
    "true version": (lambda a: a.update(version=True), "its format version is True"),
    "no config": (lambda a: a.pop("config"), "not a table of options"),
    "config of text": (lambda a: a.update(config="masked"), "not a table of options"),
    "no width": (lambda a: a["config"].pop("width"), "lacks width"),
    "width 10^12": (configured(width=10**12), "width 1000000000000 lets sums reach"),
    "width of text": (configured(width="4"), "width is '4'"),
    "endless width": (configured(width=10**30), "a number of 31 digits"),
    "width infinite": (configured(width=math.inf), "width is inf"),
    "10^12 inputs": (configured(in_channels=10**12), "this network has .*1000000000000"),
    "10^12 classes": (configured(classes=10**12), "this network has .*1000000000000"),
    "no classes": (configured(classes=0), "classes is 0"),
    "other width": (configured(width=8), "this network has"),
    "other precision": (configured(precisions=["binary"] * 12), "has unknown tensor"),
    "other bits": (quantized(activation_bits=2), "this network has"),
    "full precision": (
        lambda a: (configured(precisions=["float32"] * 12)(a), quantized(activation_bits=32)(a)),
        "cannot be packed",
    ),
    "eight bits": (configured(precisions=["int8"] * 12), "cannot be packed"),
    "too many precisions": (configured(precisions=["masked"] * 2000), r"\.\.\.\)"),
    "density not a number": (quantized(density=math.nan), "density is nan"),
    "other density": (quantized(density=0.2), "its checksum is another"),
    "other checksum": (lambda a: a.update(sha256="0" * 64), "its checksum is another"),
    "no checksum": (lambda a: a.pop("sha256"), "its checksum is another"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata_is_refused(tmp_path: Path, masked: bytes, name: str) -> None:
    change, reason = BAD_METADATA[name]
    said = refused(tmp_path, altered(masked, about=change))
    assert re.search(reason, said), said


@pytest.mark.parametrize("metadata", [[], 3, {}, {"mbu_jax": 3}, {"mbu_jax": {}}])
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: Any) -> None:
    content = put_together({"__metadata__": metadata}, None, b"")
    assert "its header says nothing of mbu_jax" in refused(tmp_path, content)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"format": 1, "format": 2}', "[" * 50_000])
def test_metadata_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    content = put_together({"__metadata__": {"mbu_jax": text}}, None, b"")
    assert "its metadata " in refused(tmp_path, content)


def put(index: Any, value: Any) -> Callable[[NDArray], Any]:
    return lambda array: array.__setitem__(index, value)


# In CONFIG down_c1 is binary on one segment of 4 channels; down_c2 has power-of-two weights.
BAD_VALUES = {
    "large stem weight": ("stem.conv1.weight", put((1, 1, 0, 0), 2**15 - 1), "less than 2^15"),
    "lowest stem weight": ("stem.conv1.weight", put((0, 0, 0, 0), -(2**15)), "less than 2^15"),
    "NaN head weight": ("head.weight", put((0, 0), np.nan), "not finite"),
    "infinite head bias": ("head.bias", put(0, np.inf), "not finite"),
    "head off the grid": ("head.weight", put((0, 0), np.float32(1 / 3)), "grid"),
    "descending stem": ("stem.conv1.theta", put((2, 0), -(2**30)), "must ascend"),
    "descending": ("down_c1.conv1.theta", put((0, 0), 2**31 - 1), "must ascend"),
    "below the lowest": ("down_c1.conv1.theta", put((0, 0), -(2**31)), "above -2"),
    "beyond the segment": ("down_c1.conv1.positive", put((0, 0, 0, 0), 2**4), "beyond a segment"),
    "negative beyond": ("stem.conv2.negative", put((1, 0, 0, 0), 2**31), "beyond a segment"),
    "both signs": (
        "stem.conv2.negative", lambda a: a.__ior__(np.uint32(15)), "overlaps the positive plane",
    ),
    "magnitude of nothing": (
        "down_c2.conv1.exponent", lambda a: a[0].__ior__(np.uint32(255)), "where a weight is 0",
    ),
    "magnitude of 8": ("down_c2.conv1.exponent", lambda a: a[0].__ior__(a[1]), "at most 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_no_network_has_are_refused(
    tmp_path: Path, network: PackedUNet, content: bytes, name: str
) -> None:
    tensor, change, reason = BAD_VALUES[name]
    tensors = {key: np.array(value) for key, value in tensors_of(network).items()}
    change(tensors[tensor])
    about = take_apart(content)[1] | {"sha256": signed(tensors)}
    metadata = {"mbu_jax": json.dumps(about)}
    said = refused(tmp_path, safetensors.numpy.save(tensors, metadata=metadata))
    assert f"({tensor} " in said
    assert reason in said


@pytest.mark.parametrize(
    "size",
    [[0, 8], [8, -1], [8], [8, 8, 8], [8, True], [8, 8.0], [[8], 8], "88", {}],
)
def test_image_sizes_that_no_training_has_are_refused(
    tmp_path: Path, network: PackedUNet, content: bytes, size: Any
) -> None:
    header, about, data = take_apart(content)
    about |= {"image_size": size, "sha256": signed(tensors_of(network), size)}
    said = refused(tmp_path, put_together(header, about, data))
    assert "(image_size is " in said
    assert "it must be None, or a height and a width)" in said


HOSTILE_SIZES = {
    "width": (configured(width=38_000), None),
    "classes": (configured(classes=10**12), None),
    "images": (configured(in_channels=10**17), None),
    "shape": (None, reshaped(10**12, 10**12)),
    "offsets": (None, moved(0, 10**17)),
}


@pytest.mark.parametrize("name", HOSTILE_SIZES)
def test_no_size_in_a_file_makes_memory_be_taken(tmp_path: Path, masked: bytes, name: str) -> None:
    about, header = HOSTILE_SIZES[name]
    content = altered(masked, header, about)
    with little_memory():
        refused(tmp_path, content)
