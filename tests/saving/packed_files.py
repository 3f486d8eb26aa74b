"""Files of packed networks, taken apart and put together, and what is said when one is refused."""

import contextlib
import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import load_packed
from mbu_jax.unet import UNetConfig

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
IMAGE_SIZE = (24, 40)
MASKED = UNetConfig(width=4)
TENSOR = "down_c1.conv1.positive"

type Change = Callable[[dict[str, Any]], Any]
type Tensors = dict[str, NDArray]


def tensors_of(params: PackedUNet) -> Tensors:
    """Every array under the name that the file should give it."""
    named = {}
    for name, layer in {"stem.conv1": params.stem, **params.convs, "head": params.head}.items():
        for field in ("weight", "bias", "positive", "negative", "exponent", "theta", "sign"):
            if getattr(layer, field, None) is not None:
                named[f"{name}.{field}"] = np.asarray(getattr(layer, field))
    return named


def assert_same(found: PackedUNet, wanted: PackedUNet) -> None:
    assert (found.config, found.image_size) == (wanted.config, wanted.image_size)
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


def refused(folder: Path, content: bytes) -> str:
    """What the user reads when a file of these bytes is loaded."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return refusal(path)


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


def altered(content: bytes, header: Change | None = None, about: Change | None = None) -> bytes:
    """The file with its header or our metadata changed in place."""
    tensors, ours, data = take_apart(content)
    if header:
        header(tensors)
    if about:
        about(ours)
    return put_together(tensors, ours, data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def signed(tensors: Tensors, image_size: Any = IMAGE_SIZE) -> str:
    static = [CONFIG.to_dict(), image_size]
    digest = hashlib.sha256(json.dumps(static, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Check that no size in a file makes memory be taken."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21
