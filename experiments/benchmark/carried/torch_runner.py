"""The float network under PyTorch: eager, as a CUDA graph, or compiled."""

import importlib
from collections.abc import Callable
from typing import Any, override

import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.carried import weights
from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.runner import Runner

_WARM = 3


class TorchRunner(Runner):
    """PyTorch, channels last, with cuDNN's own choice of the fastest algorithms."""

    def __init__(
        self, row: dict[str, Any], size: tuple[int, int], images: NDArray, folder: Folder
    ) -> None:
        # It need not be installed, and this package is imported without it.
        self._torch = torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            raise RuntimeError("this PyTorch sees no GPU")
        torch.backends.cudnn.benchmark = True
        about = folder.manifest["networks"][row["network"]]
        tensors = weights.read(about["drawn"], folder.arrays(about["weights"]))
        network = _network(torch, tensors, getattr(torch, row["dtype"])).cuda().eval()
        network = network.to(memory_format=torch.channels_last)
        self._images = torch.from_numpy(images).cuda()
        call = network
        if row["mode"] == "compile":
            call = torch.compile(network, mode="max-autotune")
        with torch.inference_mode():
            self._call = captured(torch, call, self._images) if row["mode"] == "graph" else call
            for done in range(_WARM):
                self._call(self._images)
                if not done and row["mode"] != "graph":
                    torch.cuda.reset_peak_memory_stats()  # what was tried does not count
        torch.cuda.synchronize()
        self.facts = {
            "mode": row["mode"],
            "cudnn_benchmark": True,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        }

    @override
    def run(self, calls: int) -> dict[str, float]:
        return timed(self._torch, self._call, self._images, calls)

    @override
    def logits(self) -> NDArray:
        with self._torch.inference_mode():
            return self._call(self._images).cpu().numpy()

    @override
    def memory(self) -> dict[str, int]:
        return {"peak_bytes": self._torch.cuda.max_memory_allocated()}


def captured(torch: Any, call: Callable[[Any], Any], images: Any) -> Callable[[Any], Any]:
    """Make one launch of a whole network; the result stays where the graph leaves it.

    Args:
      torch: the library.
      call: the network.
      images: that it runs on.

    Returns:
      The network on these images.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM):
            call(images)
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.reset_peak_memory_stats()  # what was tried does not count, what is captured does
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(images)

    def replay(_: Any) -> Any:
        graph.replay()
        return result

    return replay


def timed(torch: Any, call: Callable[[Any], Any], images: Any, calls: int) -> dict[str, float]:
    """Call a network many times between two events, and wait for the last.

    Args:
      torch: the library.
      call: the network.
      images: that it runs on.
      calls: how many.

    Returns:
      ``device_seconds`` between the events.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode():
        begin.record()
        for _ in range(calls):
            call(images)
        end.record()
    torch.cuda.synchronize()
    return {"device_seconds": begin.elapsed_time(end) / 1000}


def _network(torch: Any, tensors: dict[str, NDArray], dtype: Any) -> Any:
    """The U-Net with its BatchNorms folded into the convolutions.

    Args:
      torch: the library.
      tensors: by name, ``LAYER.weight`` [h, w, C, K] and ``LAYER.bias``.
      dtype: of the arithmetic.

    Returns:
      A module: uint8 [B, H, W, C] in, float32 [B, H, W, classes] out.
    """
    functional = torch.nn.functional

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in tensors.items():
                if name.endswith(".weight"):
                    # Of a transposed convolution PyTorch wants the inputs first.
                    order = (2, 3, 0, 1) if name.startswith("up_ct") else (3, 2, 0, 1)
                    value = value.transpose(order)
                tensor = torch.from_numpy(np.array(value, np.float32)).to(dtype)
                self.register_buffer(name.replace(".", "_"), tensor)

        def forward(self, images: Any) -> Any:
            _, height, width, _ = images.shape
            # NHWC seen as NCHW is "channels last".
            x = images.permute(0, 3, 1, 2).to(dtype) * (2 / 255) - 1
            if height % 16 or width % 16:
                border = (0, -width % 16, 0, -height % 16)
                x = functional.pad(x, border, mode="replicate")
            x = x.contiguous(memory_format=torch.channels_last)
            full = self._double("stem", x)
            half = self._double("down_c1", functional.max_pool2d(full, 2))
            quarter = self._double("down_c2", functional.max_pool2d(half, 2))
            eighth = self._double("down_c3", functional.max_pool2d(quarter, 2))
            y = self._double("down_c4", functional.max_pool2d(eighth, 2))
            for index, skip in enumerate((eighth, quarter, half, full), start=1):
                up = functional.conv_transpose2d(y, *self._of(f"up_ct{index}"), stride=2)
                y = self._double(f"up_c{index}", torch.cat([skip, up], dim=1))
            y = functional.conv2d(y, *self._of("head"))
            return y[:, :, :height, :width].float().permute(0, 2, 3, 1)

        def _double(self, name: str, x: Any) -> Any:
            for index in ("1", "2"):
                y = functional.conv2d(x, *self._of(f"{name}.conv{index}"), padding=1)
                x = functional.relu(y)
            return x

        def _of(self, name: str) -> tuple[Any, Any]:
            name = name.replace(".", "_")
            return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    return Network()
