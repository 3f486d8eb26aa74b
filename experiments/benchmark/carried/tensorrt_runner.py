"""The float network under TensorRT 10, as one CUDA graph; no machine has run this module yet."""

import importlib
from collections.abc import Mapping
from typing import Any, override

from numpy.typing import NDArray

from experiments.benchmark.carried import weights
from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.runner import Runner
from experiments.benchmark.carried.tensorrt_network import LOGITS, TensorrtNetwork
from experiments.benchmark.carried.torch_runner import captured, timed


class TensorrtRunner(Runner):
    """TensorRT in float16, or in 8-bit integers whose ranges are those of the images timed.

    PyTorch holds its memory, streams and events.
    """

    def __init__(
        self, row: dict[str, Any], size: tuple[int, int], images: NDArray, folder: Folder
    ) -> None:
        # They need not be installed, and this package is imported without them.
        trt, self._torch = (importlib.import_module(name) for name in ("tensorrt", "torch"))
        if not self._torch.cuda.is_available():
            raise RuntimeError("this PyTorch sees no GPU, and TensorRT runs in its memory")
        about = folder.manifest["networks"][row["network"]]
        tensors = weights.read(about["drawn"], folder.arrays(about["weights"]))
        self._images = self._torch.from_numpy(images).cuda()
        ranges = None
        if row["dtype"] == "int8":
            probed = _Engine(trt, self._torch, tensors, self._images, probing=True)
            probed(self._images)
            ranges = {
                name: float(tensor.abs().max())
                for name, tensor in probed.results.items()
                if name != LOGITS
            }
            del probed  # with the inputs of every convolution
            self._torch.cuda.empty_cache()
        self._engine = _Engine(trt, self._torch, tensors, self._images, ranges)
        self._call = captured(self._torch, self._engine, self._images)
        self.facts = {"mode": "graph", "tensorrt": trt.__version__, "dtype": row["dtype"]}

    @override
    def run(self, calls: int) -> dict[str, float]:
        return timed(self._torch, self._call, self._images, calls)

    @override
    def logits(self) -> NDArray:
        return self._call(self._images).cpu().numpy()

    @override
    def memory(self) -> dict[str, int]:
        held = self._torch.cuda.max_memory_allocated()
        return {"peak_bytes": held + self._engine.workspace}


class _Engine:
    """A network that TensorRT has built, and where its results are.

    Attributes:
      results: tensors by name.
      workspace: bytes of the device's memory that it takes beside inputs and results.
    """

    def __init__(
        self,
        trt: Any,
        torch: Any,
        tensors: Mapping[str, NDArray],
        images: Any,
        ranges: Mapping[str, float] | None = None,
        *,
        probing: bool = False,
    ) -> None:
        log = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(log)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        definition = builder.create_network(typed)
        network = TensorrtNetwork(trt, definition, tensors, ranges, probing=probing)
        network.build(tuple(images.shape))
        plan = builder.build_serialized_network(definition, builder.create_builder_config())
        if plan is None:
            raise RuntimeError("TensorRT builds no engine of the network")
        self._torch = torch
        self._engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        self.workspace = int(self._engine.device_memory_size_v2)
        self._context = self._engine.create_execution_context()
        self.results = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            tensor = images
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                dtype = torch.float32 if name == LOGITS else torch.float16
                shape = tuple(self._engine.get_tensor_shape(name))
                tensor = self.results[name] = torch.empty(shape, dtype=dtype, device="cuda")
            self._context.set_tensor_address(name, tensor.data_ptr())

    def __call__(self, _: Any) -> Any:
        """Run on the images that it was made for."""
        stream = self._torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not start the network")
        return self.results[LOGITS]
