"""Export the GPU benchmark: programs, weights, images, and the logits that they should give."""

import hashlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.benchmark.carried import weights
from experiments.benchmark.carried.images import DISTINCT, batch_of, digest
from experiments.benchmark.config import BenchmarkConfig
from experiments.benchmark.folding import folded_tensors
from experiments.benchmark.gpu.ceilings import ceilings
from experiments.benchmark.gpu.float_unet import float_unet
from experiments.benchmark.gpu.layers import LayerProgram, layer_programs
from experiments.benchmark.gpu.programs import (
    Machine,
    network_programs,
    repeated_program,
    specs_of,
)
from experiments.benchmark.gpu.rows import GpuRow, rows_of
from experiments.benchmark.gpu.stages import flat
from experiments.benchmark.gpu.tiles import Lookups, candidates
from experiments.benchmark.gpu.writing import Writer
from experiments.benchmark.materials import model_logits
from experiments.benchmark.networks import Networks
from experiments.benchmark.pictures import nuclei
from mbu_jax.architecture import padded_size
from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.conv3x3.primitive import OPERATION as CONV3X3
from mbu_jax.ops.gpu import target
from mbu_jax.ops.gpu.tuning import given_tiles
from mbu_jax.packing import PackedUNet

_ENGINES = {"cuda": ("bmma", "popcount", "bitsliced"), "cpu": ("xla",)}
_FLOAT_IMAGES = 2  # whose logits are kept to compare with
_REPEATS = 32
_MAIN_SHARE, _OTHER_SHARE, _KERNEL_SHARE = 0.4, 0.3, 0.3
"""Of the time that is left when a step begins, so that the next ones have some."""

_LEAST_SECONDS, _TILE_SHARE = 20.0, 0.9


class Exporter:
    """Writes the folder.

    Args:
      config: checked.
      machine: that the programs are for.
      writer: of the folder.

    Raises:
      InputError: for a machine that kernels cannot be compiled for.
    """

    def __init__(self, config: BenchmarkConfig, machine: Machine, writer: Writer) -> None:
        if machine.platform == "cuda":
            with machine.aimed():
                if missing := target.absent():
                    raise InputError(f"kernels for a GPU cannot be compiled: {missing}")
        self._config, self._machine, self._writer = config, machine, writer
        self._networks = Networks(config.networks)
        self._engines = self._offered(_ENGINES[machine.platform])
        self._packed: dict[str, PackedUNet] = {}
        self._pictures: dict[tuple[int, int], NDArray] = {}
        self._manifest: dict[str, Any] = {
            "made_for": {
                "platform": machine.platform,
                "compute_capability": machine.compute_capability,
                "versions": _versions(),
            },
            "config": _options(config),
            "networks": {},
            "images": {},
            "expected": {},
            "rows": [],
            "steps": [],
            "ceilings": [],
            "layers": [],
        }

    def write(self) -> int:
        """Write all.

        Returns:
          Bytes of the folder's files.

        Raises:
          InputError: for unknown rows, or a network given that no row has.
        """
        shapes = self._shapes()
        asked, given = self._config.rows, self._networks.given
        groups = {
            shape: rows_of(asked, self._engines, given, main=self._is_main(shape))
            for shape in shapes
        }
        rows = {row.name: row for group in groups.values() for row in group}
        names = list(dict.fromkeys(row.network for row in rows.values()))
        self._networks.check_used(names)
        self._write_pictures()
        for name in tqdm(names, desc="networks", unit="network", disable=None):
            if name == "full_precision":
                self._write_float()
            else:
                self._write_packed(name)
        programs: dict[str, dict[str, Any]] = {name: {} for name in rows}
        bar = tqdm(
            [(shape, row) for shape, group in groups.items() for row in group],
            desc="programs", unit="program", disable=None,
        )  # fmt: skip
        for ((height, width), batch), row in bar:
            bar.set_postfix_str(f"{row.name}, {height}x{width}, {batch}")
            if row.runtime == "jax":
                key = f"{height}x{width}/{batch}"
                programs[row.name][key] = self._program(row, batch, height, width)
        self._manifest["rows"] = [row.entry(programs[name]) for name, row in rows.items()]
        self._write_steps(groups)
        return self._writer.finish(self._manifest)

    def _shapes(self) -> list[tuple[tuple[int, int], int]]:
        """The main size first, and on it the batches in their order."""
        options = self._config.gpu
        return [(size, batch) for size in options.image_sizes for batch in options.batches]

    def _is_main(self, shape: tuple[tuple[int, int], int]) -> bool:
        options = self._config.gpu
        return shape[0] == options.image_sizes[0] and shape[1] in options.batches[:2]

    def _offered(self, engines: tuple[str, ...]) -> list[str]:
        """Those that the GPU has."""
        with self._machine.aimed():
            able = {
                engine.name
                for operation in (CONV3X3, pixels.CONV)
                for engine in operation.engines
                if engine.obstacle(self._machine.platform) is None
            }
        return [name for name in engines if name in able]

    def _write_pictures(self) -> None:
        for height, width in self._config.gpu.image_sizes:
            picture = nuclei(1, max(height, width), self._networks.in_channels)[0]
            picture = np.ascontiguousarray(picture[:height, :width])
            name = f"{height}x{width}"
            self._pictures[height, width] = picture
            file = self._writer.add_arrays(f"images/{name}.npz", {"picture": picture})
            self._manifest["images"][name] = file

    def _write_float(self) -> None:
        network = self._networks.full_precision()
        tensors = folded_tensors(network.model)
        drawn = _described(tensors) if network.random else {}
        stored = {name: value for name, value in tensors.items() if name not in drawn}
        self._manifest["networks"]["full_precision"] = {
            "weights": self._writer.add_arrays("weights/full_precision.npz", stored),
            "drawn": drawn,
            "order": list(tensors),
            "facts": {"source": network.source},
        }
        expected = {}
        for size, picture in self._pictures.items():
            images = batch_of(picture, _FLOAT_IMAGES)
            logits = np.stack([model_logits(network.model, image[None]) for image in images])
            name = f"{size[0]}x{size[1]}"
            file = self._writer.add_arrays(f"expected/{name}.npz", {"logits": logits})
            expected[name] = {"file": file}
        self._manifest["expected"]["full_precision"] = expected
        self._tensors = tensors

    def _write_packed(self, name: str) -> None:
        network = self._networks.packed(name)
        leaves, _ = flat(network.packed)
        arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
        self._packed[name] = network.packed
        program = jax.jit(infer)
        expected = {}
        for (height, width), picture in self._pictures.items():
            images = batch_of(picture, DISTINCT)
            logits = [np.asarray(program(network.packed, jnp.asarray(i[None])))[0] for i in images]
            expected[f"{height}x{width}"] = {"digests": [digest(y) for y in logits]}
        reference = "the xla or bitsliced engine of the CPU"
        if network.model is not None:
            picture = next(iter(self._pictures.values()))
            wanted = model_logits(network.model, picture[None])
            found = np.asarray(program(network.packed, jnp.asarray(picture[None])))[0]
            if digest(wanted) != digest(found):
                raise RuntimeError(f"the packed {name} network does not give its model's logits")
            reference = "the model in evaluation mode on the first image, a CPU engine on all"
        self._manifest["expected"][name] = expected
        self._manifest["networks"][name] = {
            "weights": self._writer.add_arrays(f"weights/{name}.npz", arrays),
            "drawn": {},
            "order": list(arrays),
            "facts": {
                "source": network.source,
                "density": network.density,
                "reference": reference,
            },
        }

    def _program(self, row: GpuRow, batch: int, height: int, width: int) -> dict[str, Any]:
        channels = self._networks.in_channels
        images = jax.ShapeDtypeStruct((batch, height, width, channels), np.uint8)
        if row.ours:
            leaves, unflatten = flat(self._packed[row.network])
            specs = specs_of(leaves)
            # An engine of this machine's library would be missing elsewhere.
            on_cpu = self._machine.platform == "cpu"
            engine = "xla" if on_cpu else row.implementation

            def function(leaves: list[Any], images: Any) -> Any:
                return infer(unflatten(leaves), images, implementation=engine)
        else:
            names = list(self._tensors)
            dtype = row.entry({})["dtype"]
            specs = [jax.ShapeDtypeStruct(self._tensors[name].shape, dtype) for name in names]

            def function(leaves: list[Any], images: Any) -> Any:
                return float_unet(dict(zip(names, leaves, strict=True)), images)

        first, rest = network_programs(self._machine, function, specs, images)
        return {
            "prepare": None if first is None else self._writer.add_program(first),
            "run": self._writer.add_program(rest),
        }

    def _write_steps(self, groups: dict[tuple[tuple[int, int], int], list[GpuRow]]) -> None:
        """The most important first: ceilings, the main shapes, their layers, the other shapes."""
        steps = [self._ceiling_step()]
        for (size, batch), rows in groups.items():
            main = self._is_main((size, batch))
            steps.append(
                {
                    "name": f"{size[0]}x{size[1]}, batch {batch}",
                    "kind": "group",
                    "size": list(size),
                    "batch": batch,
                    "rows": [row.name for row in rows],
                    "share": _MAIN_SHARE if main else _OTHER_SHARE,
                    "least_seconds": _LEAST_SECONDS,
                }
            )
        main_groups = [step for step in steps if step["share"] == _MAIN_SHARE]
        at = steps.index(main_groups[-1]) + 1
        size = self._config.gpu.image_sizes[0]
        batches = self._config.gpu.batches[:2] if self._config.gpu.layers_of else ()
        layers = [self._layer_step(size, batch) for batch in batches]
        tiles = [self._tile_step(size, batch) for batch in batches if self._config.gpu.tune]
        self._manifest["steps"] = [*steps[:at], *layers, *steps[at:], *tiles]

    def _ceiling_step(self) -> dict[str, Any]:
        small = self._machine.platform == "cpu"
        programs = {
            ceiling.name: [
                self._kernel(
                    ceiling.program,
                    None,
                    [],
                    ceiling.inputs,
                    ceiling.repeats,
                    {"unit": ceiling.unit, "amount": ceiling.amount},
                )
            ]
            for ceiling in ceilings(self._machine, _REPEATS, small=small)
        }
        return {
            "name": "ceilings",
            "kind": "ceilings",
            "programs": programs,
            "share": _KERNEL_SHARE,
            "least_seconds": 2.0,
        }

    def _layer_step(self, size: tuple[int, int], batch: int) -> dict[str, Any]:
        """Layer after layer, engines and networks side by side."""
        programs: dict[str, list[dict[str, Any]]] = {}
        for network, engine, made in tqdm(
            list(self._layers(size, batch)), desc=f"layers, batch {batch}", disable=None
        ):
            about = {"network": network, "engine": engine, "batch": batch, "size": list(size)}
            programs.setdefault(made.name, []).append(
                self._layer(network, made, {**about, "work": made.work})
            )
        return {
            "name": f"layers, batch {batch}",
            "kind": "layers",
            "programs": programs,
            "share": _KERNEL_SHARE,
            "least_seconds": _LEAST_SECONDS,
        }

    def _tile_step(self, size: tuple[int, int], batch: int) -> dict[str, Any]:
        """Tiles of a layer's kernel in turn, that which rules of thumb choose first."""
        programs: dict[str, list[dict[str, Any]]] = {}
        for network, engine, made in tqdm(
            list(self._layers(size, batch)), desc=f"tiles, batch {batch}", disable=None
        ):
            lookups = Lookups()
            with given_tiles(lookups):
                self._layer_program(made)
            for kernel, shape in sorted(lookups.asked):
                about = {"network": network, "engine": engine, "batch": batch, "size": list(size)}
                about |= {"kernel": kernel, "shape": shape}
                found: dict[str, dict[str, Any]] = {}
                for tile in candidates(kernel, shape):
                    with given_tiles(Lookups((kernel, shape, tile))):
                        entry = self._layer(network, made, {**about, "tile": tile})
                    # Kernels may take less than a tile says, and then it is another one.
                    found.setdefault(entry["program"], entry)
                programs[f"{made.name} of {network}, {kernel}"] = list(found.values())
        return {
            "name": f"tiles, batch {batch}",
            "kind": "tiles",
            "programs": programs,
            "share": _TILE_SHARE,
            "least_seconds": _LEAST_SECONDS,
        }

    def _layer(self, network: str, made: LayerProgram, about: dict[str, Any]) -> dict[str, Any]:
        leaves, _ = flat(made.layer)
        program = self._layer_program(made)
        return self._kernel(
            program, network, self._places(network, leaves), made.inputs, _REPEATS, about
        )

    def _layer_program(self, made: LayerProgram) -> bytes:
        leaves, unflatten = flat(made.layer)

        def function(leaves: list[Any], inputs: list[Any]) -> Any:
            return made.function(unflatten(leaves), inputs)

        return repeated_program(self._machine, function, specs_of(leaves), made.inputs, _REPEATS)

    def _layers(self, size: tuple[int, int], batch: int) -> Iterator[tuple[str, str, LayerProgram]]:
        height, width = padded_size(*size)
        for network in self._config.gpu.layers_of:
            if network in self._packed:
                for engine in self._engines:
                    with self._machine.aimed():
                        listed = list(
                            layer_programs(self._packed[network], engine, batch, height, width)
                        )
                    for made in listed:
                        yield network, engine, made

    def _places(self, network: str, leaves: list[Any]) -> list[int]:
        """Where a layer's weights are among the network's."""
        everything, _ = flat(self._packed[network])
        places = {id(leaf): i for i, leaf in enumerate(everything)}
        return [places[id(leaf)] for leaf in leaves]

    def _kernel(
        self,
        program: bytes,
        network: str | None,
        weights: list[int],
        inputs: list[jax.ShapeDtypeStruct],
        repeats: int,
        about: dict[str, Any],
    ) -> dict[str, Any]:
        return {
            "program": self._writer.add_program(program),
            "network": network,
            "weights": weights,
            "inputs": [{"shape": list(x.shape), "dtype": x.dtype.name} for x in inputs],
            "repeats": repeats,
            "about": about,
        }


def _described(tensors: dict[str, NDArray]) -> dict[str, dict[str, Any]]:
    """How random weights are drawn anew; biases are stored."""
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(".weight"):
            continue
        # BatchNorm, which is the same for all channels of a random network, is in the spread.
        seed = name.replace(".weight", ".conv.weight") if name.startswith("up_ct") else name
        unit = weights.draw(seed, tensor.shape, 1.0).astype(np.float64)
        spread = float((tensor * unit).sum() / (unit * unit).sum())
        drawn = weights.draw(seed, tensor.shape, spread)
        if np.allclose(drawn, tensor, rtol=1e-5, atol=0):
            digest = hashlib.sha256(drawn.tobytes()).hexdigest()
            shape = list(tensor.shape)
            found[name] = {"seed": seed, "shape": shape, "spread": spread, "sha256": digest}
    return found


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "jax-triton", "triton", "jax-cuda13-plugin", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _options(config: BenchmarkConfig) -> dict[str, Any]:
    options = config.gpu
    return {
        "image_sizes": [list(size) for size in options.image_sizes],
        "batches": list(options.batches),
        "density": config.networks.density,
    }
