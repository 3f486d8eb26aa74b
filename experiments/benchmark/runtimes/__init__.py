"""The runtimes that are compared, each imported only in the processes that time it."""

import importlib

from experiments.benchmark.runtimes.runtime import Runtime

_CLASSES = {
    "packed": ("packed", "Packed"),
    "layers": ("layers", "Layers"),
    "xla": ("xla", "Xla"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("open_vino", "OpenVino"),
}


def runtime_class(name: str) -> type[Runtime]:
    """Import a runtime.

    Args:
      name: ``packed``, ``layers``, ``xla``, ``onnxruntime`` or ``openvino``.

    Returns:
      Its class.
    """
    module, class_name = _CLASSES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
