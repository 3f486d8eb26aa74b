"""What the processes read: files of images and networks, and the logits that these should give."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from experiments.benchmark.config import BenchmarkConfig
from experiments.benchmark.models import save_model
from experiments.benchmark.networks import Networks
from experiments.benchmark.pictures import nuclei
from experiments.benchmark.rows import Row
from mbu_jax.inference import infer
from mbu_jax.saving import save_packed
from mbu_jax.train.images import images_of_run, some_images
from mbu_jax.unet import UNet

_CALIBRATION_IMAGES, _CALIBRATION_SIZE = 32, 256


@dataclasses.dataclass(frozen=True)
class Material:
    """A network's files.

    Attributes:
      unet: configuration of the network, as a dictionary.
      files: by what reads them: ``xla``, ``onnx``, ``int8``, or ``packed``.
      facts: about the network, for the report.
      logits: [H, W, classes] that it should give for the first image of the main size.
      trained: whether its weights are other than random.
    """

    unet: dict[str, Any]
    files: dict[str, Path]
    facts: dict[str, Any]
    logits: NDArray | None = None
    trained: bool = False


class Materials:
    """A folder with all that the rows need.

    Args:
      folder: an empty one.
      config: of the benchmark.
      rows: that will be timed.
      drawn: the networks.

    Attributes:
      folder: that was given.
      networks: by the name that `Row.network` has, and by ``NAME@DENSITY``.
      picture: PNG file of the first image of the main size.
    """

    def __init__(
        self, folder: Path, config: BenchmarkConfig, rows: Sequence[Row], drawn: Networks
    ) -> None:
        self.folder = folder
        self._options = config.networks
        self._drawn = drawn
        self.networks: dict[str, Material] = {}
        self.picture = folder / "picture.png"
        steps: list[tuple[str, Any]] = [("images", lambda: self._write_images(config))]
        for name in dict.fromkeys(row.network for row in rows):
            if name == "full_precision":
                steps.append((name, lambda: self._write_float(rows)))
            else:
                steps.append((name, lambda name=name: self._write_packed(name)))
        for name in masked_networks(rows):
            steps += [
                (f"{name}@{density:g}", lambda name=name, d=density: self._write_packed(name, d))
                for density in config.densities
            ]
        bar = tqdm(steps, desc="preparing", unit="network", leave=False, disable=None)
        for name, step in bar:
            bar.set_postfix_str(name)
            step()

    def images(self, size: int) -> Path:
        """Name the file of images of one size.

        Args:
          size: height and width.

        Returns:
          The file.
        """
        return self.folder / f"images-{size}.npy"

    def model(self, row: Row, density: float | None = None) -> tuple[Material, Path]:
        """Look up what a row runs.

        Args:
          row: the row.
          density: share of non-zeros, where another than the row's own.

        Returns:
          The network, and its file for the row's runtime.
        """
        name = row.network if density is None else f"{row.network}@{density:g}"
        material = self.networks[name]
        kind = row.runtime
        if kind in ("onnxruntime", "openvino"):
            kind = "int8" if row.engine == "int8" else "onnx"
        return material, material.files[kind]

    def _write_images(self, config: BenchmarkConfig) -> None:
        for size in config.all_sizes:
            count = max(1, *config.batch_sizes) if size == config.size else 1
            images = nuclei(count, size, self._drawn.in_channels)
            np.save(self.images(size), images, allow_pickle=False)
            if size == config.size:
                self._first = images[:1]
                Image.fromarray(images[0].squeeze()).save(self.picture)

    def _write_float(self, rows: Sequence[Row]) -> None:
        network = self._drawn.full_precision()
        model = network.model
        logits = model_logits(model, self._first)
        if network.random:
            logits = _balance(model, logits)
        files = {"xla": self.folder / "float.safetensors"}
        save_model(files["xla"], model)
        facts: dict[str, Any] = {"source": network.source}
        if any(row.runtime in ("onnxruntime", "openvino") for row in rows):
            # Only here: their packages need not be installed.
            from experiments.benchmark.peers import write_int8, write_onnx

            files["onnx"] = self.folder / "float.onnx"
            write_onnx(model, files["onnx"])
            if any(row.engine == "int8" for row in rows):
                files["int8"] = self.folder / "int8.onnx"
                facts["int8"] = write_int8(files["onnx"], files["int8"], self._calibration())
        config = model.config.to_dict()
        trained = not network.random
        self.networks["full_precision"] = Material(config, files, facts, logits, trained)

    def _calibration(self) -> Sequence[NDArray]:
        options = self._options
        if options.score:
            assert options.run is not None, "checked with the other options"
            classes = self._drawn.full_precision().model.config.classes
            images = images_of_run(options.run, "train", classes=classes)
            return some_images(images, _CALIBRATION_IMAGES)
        channels = self._drawn.in_channels
        return list(nuclei(_CALIBRATION_IMAGES, _CALIBRATION_SIZE, channels, split="train"))

    def _write_packed(self, name: str, density: float | None = None) -> None:
        network = self._drawn.packed(name, density)
        key = name if density is None else f"{name}@{density:g}"
        path = self.folder / f"{key}.safetensors"
        save_packed(path, network.packed)
        facts = {"source": network.source, "density": network.density}
        logits = None
        if density is None:
            if network.model is not None:
                facts["reference"] = "the model in evaluation mode"
                logits = model_logits(network.model, self._first)
            else:
                facts["reference"] = "the xla engine, since the file holds no model"
                program = jax.jit(lambda params, x: infer(params, x, implementation="xla"))
                logits = np.asarray(program(network.packed, jnp.asarray(self._first)))[0]
        config = network.packed.config.to_dict()
        files = {"packed": path}
        self.networks[key] = Material(config, files, facts, logits, not network.random)


def masked_networks(rows: Sequence[Row]) -> list[str]:
    """List the networks whose density can be swept.

    Args:
      rows: that are timed.

    Returns:
      Names of the networks of all-masked rows.
    """
    names = dict.fromkeys(row.network for row in rows if row.runtime == "packed")
    return [name for name in names if name.startswith("all_masked")]


def model_logits(model: UNet, images: NDArray) -> NDArray:
    """Run a model.

    Args:
      model: in evaluation mode.
      images: uint8 [B, H, W, C].

    Returns:
      Logits of the first image, float32 [H, W, classes].
    """
    graph, state = nnx.split(model)
    program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return np.asarray(program(state, jnp.asarray(images)))[0]


def _balance(model: UNet, logits: NDArray) -> NDArray:
    """Move the bias so that half of the image is foreground, and give the logits after that.

    Random weights may give the whole image one class, and then any two masks agree.
    """
    middle = np.median(logits, axis=(0, 1))
    bias = model.head.bias
    bias.set_value(bias[...] - jnp.asarray(middle))
    return logits - middle
