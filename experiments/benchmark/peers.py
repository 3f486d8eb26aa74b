"""Files for the other runtimes: the exported network in float32 and with 8-bit integers."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from experiments.benchmark.onnx_export import INPUT, export_onnx
from mbu_jax.unet import UNet

_PROCESSOR = Path("/proc/cpuinfo")


def write_onnx(model: UNet, path: Path) -> None:
    """Export the full-precision network.

    Args:
      model: the network.
      path: the file.
    """
    onnx.save(export_onnx(model), path)


def write_int8(source: Path, path: Path, images: Sequence[NDArray]) -> dict[str, Any]:
    """Quantize an exported network: static, QDQ, a scale for every output channel.

    Activations are uint8, weights int8; on processors without VNNI weights have seven bits,
    because sums of two products saturate there.

    Args:
      source: the exported network.
      path: the file for the quantized one.
      images: uint8 [H, W, C] each, to calibrate on.

    Returns:
      What was set.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[NDArray] = iter(images)

        def get_next(self) -> Any:
            image = next(self._left, None)
            if image is None:
                return None
            x = image.transpose(2, 0, 1)[None] * np.float32(2 / 255) - np.float32(1)
            return {INPUT: np.ascontiguousarray(x)}

    prepared = path.with_suffix(".prepared.onnx")
    reduce_range = not _has_vnni()
    with _quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    prepared.unlink()
    return {
        "format": "QDQ, per channel",
        "activations": "uint8",
        "weights": "int8 in seven bits" if reduce_range else "int8",
        "calibration_images": len(images),
    }


def _has_vnni() -> bool:
    """Whether the processor adds four products of 8-bit integers without saturating."""
    return _PROCESSOR.exists() and "vnni" in _PROCESSOR.read_text()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice, which was followed, from the terminal."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
