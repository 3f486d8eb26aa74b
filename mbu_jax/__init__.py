"""Masked Binary U-Net for JAX and Flax: one-bit image segmentation."""

from mbu_jax.errors import InputError
from mbu_jax.export import export
from mbu_jax.inference import infer, pack
from mbu_jax.instances import label_instances
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedUNet
from mbu_jax.predict import predict
from mbu_jax.prepare import Prepared, prepare
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.summary import summary
from mbu_jax.unet import UNet, UNetConfig
from mbu_jax.version import __version__

__all__ = [
    "InputError",
    "PackedUNet",
    "Prepared",
    "QuantizationOptions",
    "UNet",
    "UNetConfig",
    "__version__",
    "export",
    "infer",
    "label_instances",
    "load_packed",
    "pack",
    "predict",
    "prepare",
    "save_packed",
    "summary",
]
