"""Files of packed networks: what is saved comes back, and nothing else comes in."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import re
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbu_jax.architecture import unet_layers
from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedConv, PackedUNet, unet_template
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

TWO_BITS = QuantizationOptions(activation_bits=2)
MIXED = ("binary", "pow2", "masked") * 4
CONFIGS = {
    "binary": UNetConfig.preset("binary", width=5),
    "two bits, every precision": UNetConfig(
        width=4, in_channels=1, classes=3, precisions=MIXED, quantization=TWO_BITS
    ),
    "masked, another ternarizer": UNetConfig(
        width=3, quantization=QuantizationOptions(ternarizer="density", density=0.05)
    ),
}  # fmt: skip
CONFIG = CONFIGS["two bits, every precision"]

type Tensors = dict[str, NDArray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saving")


@pytest.fixture(scope="module")
def network() -> PackedUNet:
    return random_packed(CONFIG)


@pytest.fixture(scope="module")
def content(network: PackedUNet, folder: Path) -> bytes:
    path = folder / "good.safetensors"
    save_packed(path, network)
    return path.read_bytes()


def tensors_of(params: PackedUNet) -> Tensors:
    """Every array under the name that the file should give it."""
    named = {}
    for name, layer in {"stem.conv1": params.stem, **params.convs, "head": params.head}.items():
        for field in ("weight", "bias", "positive", "negative", "exponent", "theta", "sign"):
            if getattr(layer, field, None) is not None:
                named[f"{name}.{field}"] = np.asarray(getattr(layer, field))
    return named


def assert_same(found: PackedUNet, wanted: PackedUNet) -> None:
    assert found.config == wanted.config
    assert list(found.convs) == list(wanted.convs)
    for name, conv in found.convs.items():
        assert conv.segments == wanted.convs[name].segments
    a, b = tensors_of(found), tensors_of(wanted)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def refusal(path: Path) -> str:
    """What the user reads when this file is loaded."""
    with pytest.raises(InputError) as caught:
        load_packed(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "; " in message
    assert message.isprintable()
    assert len(message) < len(str(path)) + 450
    return message


def take_apart(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header without metadata, our metadata, tensor bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["mbu_jax"])
    return header, about, content[8 + length :]


def put_together(header: Any, about: Any, data: bytes) -> bytes:
    if about is not None:
        header = {"__metadata__": {"mbu_jax": json.dumps(about)}, **header}
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def signed(config: dict[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_comes_back(tmp_path: Path, name: str) -> None:
    params = random_packed(CONFIGS[name], seed=1)
    path = tmp_path / "model.safetensors"
    save_packed(path, params)
    loaded = load_packed(str(path))
    assert_same(loaded, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_same_network_gives_the_same_bytes(
    tmp_path: Path, network: PackedUNet, content: bytes
) -> None:
    save_packed(tmp_path / "again", jax.tree.map(lambda leaf: leaf, network))
    assert (tmp_path / "again").read_bytes() == content


def test_other_readers_of_safetensors_understand_it(
    folder: Path, network: PackedUNet, content: bytes
) -> None:
    with safetensors.safe_open(folder / "good.safetensors", framework="np") as file:
        about = json.loads(file.metadata()["mbu_jax"])
        named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about == {
        "format": "mbu_jax packed U-Net",
        "version": 1,
        "config": CONFIG.to_dict(),
        "sha256": signed(CONFIG.to_dict(), named),
    }
    wanted = tensors_of(network)
    assert named.keys() == wanted.keys()
    assert {"down_c1.conv1.positive", "up_ct1.conv.theta", "stem.conv1.sign"} <= named.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(named[name], value)


@pytest.mark.parametrize(("preset", "most"), [("all_masked", 4_000_000), ("binary", 2_100_000)])
def test_a_bit_takes_a_bit(tmp_path: Path, preset: Any, most: int) -> None:
    config = UNetConfig.preset(preset, width=64)
    weights = sum(layer.weights for layer in unet_layers(64))
    assert weights == 14_776_064
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), unet_template(config))
    stem = dataclasses.replace(params.stem, sign=np.ones(64, np.float32))
    path = tmp_path / "model.safetensors"
    save_packed(path, dataclasses.replace(params, stem=stem))
    planes = 2 if preset == "all_masked" else 1
    assert planes * weights / 8 < path.stat().st_size <= most


def test_an_existing_file_is_kept_unless_told(tmp_path: Path, network: PackedUNet) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"model\.safetensors exists; choose another name"):
        save_packed(path, network)
    assert path.read_text() == "precious"
    save_packed(path, network, overwrite=True)
    assert_same(load_packed(path), network)


def test_places_where_no_file_can_be(tmp_path: Path, network: PackedUNet) -> None:
    for overwrite in (True, False):
        with pytest.raises(InputError, match="is a folder; give the name of a file in it"):
            save_packed(tmp_path, network, overwrite=overwrite)
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        save_packed(tmp_path / "absent" / "model", network)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="link exists"):
        save_packed(tmp_path / "link", network)
    assert [entry.name for entry in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_refused_write_leaves_nothing_half_written(
    tmp_path: Path, network: PackedUNet, earlier: bytes | None
) -> None:
    path = tmp_path / "model.safetensors"
    if earlier:
        path.write_bytes(earlier)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a full disk, part is written
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\); .* space"):
            save_packed(path, network, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([earlier] if earlier else [])


def test_a_network_that_is_not_valid_is_not_saved(tmp_path: Path, network: PackedUNet) -> None:
    conv = network.convs["up_c1.conv2"]
    broken = dataclasses.replace(conv, theta=conv.theta[::-1])
    params = dataclasses.replace(network, convs=network.convs | {"up_c1.conv2": broken})
    with pytest.raises(InputError, match=r"up_c1\.conv2\.theta must ascend"):
        save_packed(tmp_path / "model", params)
    del params.convs["up_c1.conv2"]
    with pytest.raises(InputError, match=r"lacks up_c1\.conv2"):
        save_packed(tmp_path / "model", params)
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert "cannot be read (No such file or directory)" in refusal(path)
    assert "cannot be read (not a regular file)" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be read (not a regular file)" in refusal(tmp_path / "pipe")
    exploded = tmp_path / "exploded"
    foreign = safetensors.numpy.save({"w": np.ones(9, np.float32)})
    described = safetensors.numpy.save({"w": np.ones(9, np.float32)}, metadata={"format": "pt"})
    for data, reason in (
        (b"", "it has 0 bytes"),
        (b"\0" * 7, "it has 7 bytes"),
        (b"\0" * 8, "its header is no JSON"),
        (b"a text, and not a short one", "its header would take"),
        (pickle.dumps(Bomb(exploded)), "its header would take"),
        (foreign, "its header says nothing of mbu_jax"),
        (described, "its header says nothing of mbu_jax"),
        ((2**63).to_bytes(8, "little") + b"{}", "its header would take 9223372036854775808 bytes"),
        ((3).to_bytes(8, "little") + b"{}", "its header would take 3 bytes of a file of 10"),
        (with_header(b" " * (2**16 + 1)), "its header would take 65537 bytes"),
        (with_header(b"[" * 60_000), "its header is no JSON"),
        (with_header(b'{"a":' * 12_000), "its header is no JSON"),
        (with_header(b"[]"), "its header is no JSON object"),
        (with_header(b'{"a": 1, "a": 2}'), "its header has an entry twice"),
        (with_header(b'{"a": "\xff"}'), "its header is no JSON"),
        (with_header(b'{"a": ' + b"9" * 5000 + b"}"), "its header has a number of 5000 digits"),
    ):
        path.write_bytes(data)
        assert reason in refusal(path)
    assert not exploded.exists()


def test_a_file_without_permission(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root) may read everything, so nothing can be refused")
    assert "cannot be read (Permission denied)" in refusal(path)


TENSOR = "down_c1.conv1.positive"


def reshaped(*shape: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header[TENSOR].update(shape=list(shape))


def moved(first: int, last: int) -> Callable[[dict[str, Any]], Any]:
    def move(header: dict[str, Any]) -> None:
        offsets = header[TENSOR]["data_offsets"]
        header[TENSOR]["data_offsets"] = [offsets[0] + first, offsets[1] + last]

    return move


BAD_HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
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
MASKED = UNetConfig(width=4)


@pytest.fixture(scope="module")
def masked(folder: Path) -> bytes:
    path = folder / "masked.safetensors"
    save_packed(path, random_packed(MASKED))
    return path.read_bytes()


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_lies_about_a_tensor_is_refused(
    tmp_path: Path, masked: bytes, name: str
) -> None:
    change, reason = BAD_HEADERS[name]
    header, about, data = take_apart(masked)
    change(header)
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together(header, about, data))
    refused = refusal(path)
    assert re.search(reason, refused), refused


@pytest.mark.parametrize(("first", "second"), [("positive", "negative"), ("negative", "positive")])
def test_exchanged_tensors_are_noticed(
    tmp_path: Path, masked: bytes, first: str, second: str
) -> None:
    header, about, data = take_apart(masked)
    a, b = f"up_c2.conv1.{first}", f"up_c2.conv1.{second}"
    header[a], header[b] = header[b], header[a]
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together(header, about, data))
    assert "its checksum is another" in refusal(path)


def configured(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["config"].update(fields)


def quantized(**options: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["config"]["quantization"].update(options)


BAD_METADATA: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "other format": (lambda a: a.update(format="sums"), "its format is 'sums'"),
    "no format": (lambda a: a.pop("format"), "its format is None"),
    "newer version": (lambda a: a.update(version=2), "its format version is 2; this mbu_jax reads"),
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
    header, about, data = take_apart(masked)
    change(about)
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together(header, about, data))
    refused = refusal(path)
    assert re.search(reason, refused), refused


@pytest.mark.parametrize("metadata", [[], 3, {}, {"mbu_jax": 3}, {"mbu_jax": {}}])
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together({"__metadata__": metadata}, None, b""))
    assert "its header says nothing of mbu_jax" in refusal(path)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"format": 1, "format": 2}', "[" * 50_000])
def test_metadata_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together({"__metadata__": {"mbu_jax": text}}, None, b""))
    assert "its metadata " in refusal(path)


def put(index: Any, value: Any) -> Callable[[NDArray], Any]:
    return lambda array: array.__setitem__(index, value)


# In CONFIG down_c1 is binary on one segment of 4 channels; down_c2 has power-of-two weights.
BAD_VALUES = {
    "NaN stem threshold": ("stem.conv1.theta", put((0, 1), np.nan), "not finite"),
    "infinite stem threshold": ("stem.conv1.theta", put((2, 0), np.inf), "not finite"),
    "NaN stem weight": ("stem.conv1.weight", put((1, 1, 0, 0), np.nan), "not finite"),
    "infinite stem weight": ("stem.conv1.weight", put((0, 0, 0, 0), -np.inf), "not finite"),
    "stem sign 0": ("stem.conv1.sign", put(0, 0), "must hold -1 and 1 alone"),
    "NaN stem sign": ("stem.conv1.sign", put(0, np.nan), "must hold -1 and 1 alone"),
    "NaN head weight": ("head.weight", put((0, 0), np.nan), "not finite"),
    "infinite head bias": ("head.bias", put(0, np.inf), "not finite"),
    "head off the grid": ("head.weight", put((0, 0), np.float32(1 / 3)), "grid"),
    "descending stem": ("stem.conv1.theta", put((2, 0), -99), "must ascend"),
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
    about = take_apart(content)[1] | {"sha256": signed(CONFIG.to_dict(), tensors)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"mbu_jax": json.dumps(about)}))
    refused = refusal(path)
    assert f"({tensor} " in refused
    assert reason in refused


HOSTILE_SIZES = {
    "width": (configured(width=38_000), None),
    "classes": (configured(classes=10**12), None),
    "images": (configured(in_channels=10**17), None),
    "shape": (None, reshaped(10**12, 10**12)),
    "offsets": (None, moved(0, 10**17)),
}


@pytest.mark.parametrize("name", HOSTILE_SIZES)
def test_no_size_in_a_file_makes_memory_be_taken(tmp_path: Path, masked: bytes, name: str) -> None:
    about_change, header_change = HOSTILE_SIZES[name]
    header, about, data = take_apart(masked)
    if about_change:
        about_change(about)
    if header_change:
        header_change(header)
    path = tmp_path / "model.safetensors"
    path.write_bytes(put_together(header, about, data))
    tracemalloc.start()
    try:
        refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21


def test_a_huge_foreign_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    foreign = safetensors.numpy.save({"w": np.ones(9, np.float32)})
    with path.open("wb") as file:
        file.write(foreign)
        file.truncate(2**40)  # a hole: it takes no room on the disk
    tracemalloc.start()
    try:
        assert "its header says nothing of mbu_jax" in refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21


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
    about["sha256"] = signed(CONFIG.to_dict(), tensors)
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
