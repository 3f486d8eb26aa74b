"""A network as an exported program."""

from typing import Any, override

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.programs import compiled, weights_of
from experiments.benchmark.carried.runner import Runner


class JaxRunner(Runner):
    """One of our engines, or the float network under XLA."""

    def __init__(
        self, row: dict[str, Any], size: tuple[int, int], images: NDArray, folder: Folder
    ) -> None:
        files = row["programs"][f"{size[0]}x{size[1]}/{len(images)}"]
        self._weights = weights_of(folder, row["network"], row["dtype"])
        if files["prepare"] is not None:
            prepare = compiled(folder, files["prepare"], {}, self._weights)
            self._weights = jax.block_until_ready(prepare(self._weights))
        self._images = jax.device_put(images)
        options = row["compiler_options"]
        self._program = compiled(folder, files["run"], options, self._weights, self._images)
        self.facts = {"compiler_options": options, "prepared": files["prepare"] is not None}

    @override
    def run(self, calls: int) -> dict[str, float]:
        result = None
        for _ in range(calls):
            result = self._program(self._weights, self._images)
        jax.block_until_ready(result)
        return {}

    @override
    def logits(self) -> NDArray:
        return np.asarray(self._program(self._weights, self._images))

    @override
    def memory(self) -> dict[str, int]:
        planned = self._program.memory_analysis()
        found = {
            "planned_bytes": planned.argument_size_in_bytes
            + planned.output_size_in_bytes
            + planned.temp_size_in_bytes
        }
        stats = jax.local_devices()[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            found["peak_bytes"] = stats["peak_bytes_in_use"]
        return found
