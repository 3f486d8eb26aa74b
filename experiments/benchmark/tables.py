"""The report as tables for a terminal."""

from collections.abc import Sequence
from typing import Any

from experiments.benchmark.measuring import without_own_precision

_MEGA, _GIGA = 1e6, 1e9


def tables(report: dict[str, Any]) -> str:
    """Lay out a report.

    Args:
      report: of the benchmark.

    Returns:
      Text, a table for each group.
    """
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']:.1f} before; "
        f"bitsliced: {machine['instructions']}",
        versions,
    ]
    for name, facts in report["networks"].items():
        if "@" not in name:
            density = "" if "density" not in facts else f", {facts['density']:.1%} non-zero"
            lines.append(f"{name}: {facts['source']}{density}")
    lines += [*_remarks(report), *report["left_out"]]
    for group in report["groups"]:
        lines += ["", *(_layers(group) if group["section"] == "layers" else _group(group))]
    if report["scores"] is not None:
        lines += ["", *_scores(report["scores"])]
    lines += ["", *_LEGEND]
    return "\n".join(lines)


_LEGEND = (
    "x ROW: times as fast as that row, the median over rounds. busy: processor time over time.",
    "load MB, run MB: peak memory while the network is loaded and while it runs, above what the",
    "process held without it. agrees: with the model, on one image; of a packed network all bits.",
    "floor: what the non-zero products take at the core's measured ceilings, adders or L1.",
)


def _remarks(report: dict[str, Any]) -> list[str]:
    """What a reader would not expect."""
    remarks = {
        f"{name} ran in {used}, as this processor has no bfloat16; it is timed once": None
        for group in report["groups"]
        for name, used in without_own_precision(group).items()
    }
    return list(remarks)


def _layers(group: dict[str, Any]) -> list[str]:
    lines = []
    for row, found in group["rows"].items():
        layers = found["layers"]
        whole = layers["network"]["median"]
        body = []
        for name, layer in layers.items():
            seconds = layer["median"]
            cells = [name, milliseconds(seconds), f"{seconds / whole:.1%}"]
            if "nonzero_macs" in layer:
                macs, rate = layer["nonzero_macs"], layer["nonzero_macs_per_second"]
                cells += [f"{macs / _MEGA:.1f}", f"{rate / _GIGA:.1f}"]
                cells += [
                    milliseconds(layer["floor_seconds"]),
                    f"{layer['floor_seconds'] / seconds:.0%}",
                ]
            body.append(cells + [""] * (7 - len(cells)))
        rates = found["ceilings"].items()
        title = (
            f"Layers of {row}: {group['size']}x{group['size']}, batch 1, threads 1; the core's "
            f"ceilings in GMAC/s: {', '.join(f'{kind} {r / _GIGA:.0f}' for kind, r in rates)}"
        )
        header = ["convolution", "ms", "share", "non-zero MMAC", "GMAC/s", "floor ms", "reached"]
        lines += [*([""] if lines else []), title, *aligned(header, body)]
    return lines


def _scores(found: dict[str, Any]) -> list[str]:
    if not found["rows"]:  # where the only trained one did not run as it is named
        return ["No row was scored"]
    (count,) = {row["images"] for row in found["rows"].values()}
    height, width = found["size"]
    body = [
        [name, *(f"{row[score]:.4f}" for score in ("dice", "iou", "f1"))]
        for name, row in found["rows"].items()
    ]
    title = f"Scores of the trained networks on {count} validation images of {height}x{width}"
    return [title, *aligned(["row", "Dice", "IoU", "F1"], body)]


def _group(group: dict[str, Any]) -> list[str]:
    titles = {"latency": "", "density": "Densities: ", "end_to_end": "PNG file to PNG file: "}
    counts = {len(row["seconds"]) for row in group["rows"].values()}
    rounds = "-".join(str(n) for n in sorted({min(counts), max(counts)}))
    title = (
        f"{titles[group['section']]}{group['size']}x{group['size']}, batch {group['batch']}, "
        f"threads {group['threads']}, {rounds} rounds"
    )
    if any(row["shift"] for row in group["rows"].values()):
        title += ", in shifts, since memory does not hold all at once"
    first = next(iter(group["rows"].values()))
    baselines = list(first["speedup"])
    with_agreement = "agreement" in first
    header = ["row", "ms", "quartiles", "images/s", *(f"x {name}" for name in baselines)]
    header += ["busy", "load MB", "run MB", "file MB"]
    if with_agreement:
        header.append("agrees")
    body = []
    for name, row in group["rows"].items():
        low, high = row["quartiles"]
        cells = [name, milliseconds(row["median"]), f"{milliseconds(low)}-{milliseconds(high)}"]
        cells += [f"{row['images_per_second']:.3g}"]
        cells += [f"{row['speedup'][name]:.2f}" for name in baselines]
        cells += [f"{row['busy_threads']:.2f}"]
        cells += [
            _megabytes(row[f"{kind}_bytes"])
            for kind in ("loading_memory", "running_memory", "model")
        ]
        if with_agreement:
            cells.append(_agreement(row["agreement"]))
        body.append(cells)
    return [title, *aligned(header, body)]


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table.

    Args:
      header: cells of the first line.
      body: cells of the others, as many in each.

    Returns:
      Lines of columns of equal width, the first to the left.

    Example:
      >>> aligned(["row", "ms"], [["a", "10.0"]])
      ['row    ms', 'a    10.0']
    """
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *body)
    ]


def milliseconds(seconds: float) -> str:
    """Print a time with three digits.

    Args:
      seconds: the time.

    Returns:
      Milliseconds.

    Example:
      >>> milliseconds(0.0123)
      '12.3'
    """
    ms = 1000 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _megabytes(count: int | None) -> str:
    return "?" if count is None else f"{count / _MEGA:.1f}"


def _agreement(found: dict[str, Any]) -> str:
    if "different_logits" in found:
        if not found["different_logits"]:
            return "bit for bit"
        return f"{found['different_logits']} logits differ"
    share = 1 - found["different_pixels"] / found["pixels"]
    return f"{share:.2%} of pixels"
