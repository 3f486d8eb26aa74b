"""What was measured on a GPU, as the file that `triton_kernels.tuned` reads."""

import math
import statistics
from pathlib import Path
from typing import Any

from experiments.benchmark.gpu.tables import NOT_MEASURED, rate
from mbu_jax.errors import InputError
from mbu_jax.files import write_json_atomic
from triton_kernels.tuned import parsed, slug

_CEILINGS = {"copy_bytes": "copy", "lop3": "lop3", "popc": "popc"}
_MATRICES = ("bmma", "wgmma")  # that a GPU may lack
_NOISE = 0.02  # a tile must be faster than the rules' by more than this


def write_tuned(report: dict[str, Any], out: Path) -> str | None:
    """Write ceilings and fastest tiles of the GPU that was measured.

    Args:
      report: of run.py.
      out: folder; the file is ``tuned/DEVICE.json`` in it.

    Returns:
      A line that says what was written, or what is missing; None of a CPU.

    Raises:
      InputError: for a report that no run wrote.
    """
    machine, ceilings = report["machine"], report["ceilings"]
    if report["made_for"]["platform"] != "cuda":
        return None
    facts = {"device_kind", "multiprocessors", "compute_capability"}
    missing = [*(facts - machine.keys()), *({*_CEILINGS.values()} - ceilings.keys())]
    if missing:
        return f"no file of measured tiles: {', '.join(sorted(missing))} {NOT_MEASURED}"
    rates: dict[str, float | None] = {
        name: rate(ceilings[measured]) for name, measured in _CEILINGS.items()
    }
    rates |= {name: rate(ceilings[name]) if name in ceilings else None for name in _MATRICES}
    device = machine["device_kind"]
    content = {
        "device": device,
        "compute_capability": machine["compute_capability"],
        "multiprocessors": machine["multiprocessors"],
        "ceilings": rates,
        "tiles": fastest_tiles(report.get("tiles", [])),
    }
    try:
        parsed(content, device)
    except ValueError as error:
        raise InputError(f"the report's tiles are none ({error}); measure anew") from error
    file = out / "tuned" / f"{slug(device)}.json"
    file.parent.mkdir(exist_ok=True)
    write_json_atomic(file, content)
    count = sum(map(len, content["tiles"].values()))
    return f"{file} holds rates and {count} tiles; copied to triton_kernels/tuned it is used"


def fastest_tiles(lines: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Choose a tile for each kernel and shape.

    Args:
      lines: of a report; of each layer the first has the tile by rules of thumb.

    Returns:
      By kernel and shape the tile that takes least time, relative to the rules', in the geometric
      mean over the layers that share the shape.
    """
    times: dict[tuple[str, str], dict[Any, dict[Any, float]]] = {}
    for line in lines:
        layers = times.setdefault((line["kernel"], line["shape"]), {})
        layer = tuple(str(line[name]) for name in ("network", "layer", "batch", "size"))
        tile = tuple(line["tile"].items())
        layers.setdefault(layer, {})[tile] = statistics.median(line["samples"])
    found: dict[str, dict[str, dict[str, int]]] = {}
    for (kernel, shape), layers in times.items():
        of_all = list(layers.values())
        first, *others = (tile for tile in of_all[0] if all(tile in of for of in of_all))
        relative = {
            tile: statistics.fmean(math.log(of[tile] / of[first]) for of in of_all)
            for tile in others
        }
        best = min(relative, key=relative.__getitem__, default=first)
        if relative.get(best, 0.0) > math.log(1 - _NOISE):
            best = first
        found.setdefault(kernel, {})[shape] = dict(best)
    return found
