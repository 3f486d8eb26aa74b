"""What was measured on a GPU, as tables for a terminal."""

import statistics
from typing import Any

from experiments.benchmark.measuring import compare
from experiments.benchmark.tables import aligned, milliseconds

NOT_MEASURED = "not measured"

_MEGA, _TERA, _MICRO = 1e6, 1e12, 1e-6
_OF_CEILING = {"bmma_macs": "bmma", "lop3": "lop3", "popc": "popc", "bytes": "copy"}
_OF_CEILING |= {"wgmma_macs": "wgmma"}


def tables(report: dict[str, Any]) -> str:
    """Lay out a report.

    Args:
      report: of run.py.

    Returns:
      Text, a table for each group.
    """
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = machine.get("name", f"{machine.get('cores', 'unknown')} CPU cores")
    driver = f", driver {machine['driver']}" if "driver" in machine else ""
    idle = machine.get("idle_watts")
    lines = [
        f"{device}{driver}; idle {NOT_MEASURED if idle is None else f'{idle:.0f} W'}",
        versions,
    ]
    for name, facts in report["networks"].items():
        density = "" if "density" not in facts else f", {facts['density']:.1%} non-zero"
        lines.append(f"{name}: {facts['source']}{density}")
    lines += ["", *_ceilings(report["ceilings"])]
    for group in report["groups"]:
        lines += ["", *_group(group, report["rows"])]
    lines += _layers(report)
    if report["not_reached"]:
        lines += ["", f"{NOT_MEASURED}: {'; '.join(report['not_reached'])}"]
    lines += ["", *_LEGEND]
    if any("wgmma_macs" in line["work"] for line in report["layers"]):
        lines += [] if "wgmma" in report["ceilings"] else _WITHOUT_WGMMA
    return "\n".join(lines)


_LEGEND = (
    "ms: of one batch, many between two waits, median over rounds; once: started and waited for.",
    "x fp16: times as fast as the fastest FP16 peer of the table. mJ: energy of one image, and how",
    "many times less than the FP16 peer with the least. MB: peak of the runtime, (planned) by XLA.",
    "floor: what a layer's products, logic operations or bytes take at the ceilings, the longest.",
)

_WITHOUT_WGMMA = [
    "Of layers that warpgroups multiply (wgmma) the floor is that of warps (mma.sync), which may",
    "be slower: the rate of wgmma was not measured.",
]


def fastest_fp16(group: dict[str, Any], rows: dict[str, Any]) -> str | None:
    """Find what ours are compared with.

    Args:
      group: of a report.
      rows: about the report's rows.

    Returns:
      The name of the FP16 peer with right logits that took least time, or None without one.
    """
    peers = [
        name
        for name, row in group["rows"].items()
        if rows[name]["engine"] == "fp16" and row["agreement"]["right"]
    ]
    return min(peers, key=lambda name: group["rows"][name]["median"], default=None)


def floor_of(work: dict[str, float], ceilings: dict[str, Any]) -> float | None:
    """Find the least time that work can take.

    Args:
      work: of a layer.
      ceilings: of the device, as they were measured.

    Returns:
      Seconds, at the rate of warps' products where that of warpgroups' was not measured; or None
      where another ceiling that it needs was not.
    """
    needed = [_OF_CEILING[kind] for kind in work]
    if "wgmma" not in ceilings:
        needed = ["bmma" if name == "wgmma" else name for name in needed]
    if not all(name in ceilings for name in needed):
        return None
    return max(
        amount / rate(ceilings[name]) for name, amount in zip(needed, work.values(), strict=True)
    )


def rate(ceiling: dict[str, Any]) -> float:
    """Give a ceiling's rate.

    Args:
      ceiling: of a report.

    Returns:
      Units a second, in the fastest round.
    """
    return ceiling["amount"] / min(ceiling["samples"])


def _ceilings(found: dict[str, Any]) -> list[str]:
    if not found:
        return [f"ceilings: {NOT_MEASURED}"]
    body = [
        [
            name,
            f"{rate(ceiling) / _TERA:.3g}",
            f"T {ceiling['unit']}/s",
            str(len(ceiling["samples"])),
        ]
        for name, ceiling in found.items()
        if name != "turn"
    ]
    if "turn" in found:
        body.append(["turn", f"{min(found['turn']['samples']) / _MICRO:.2f}", "us", ""])
    return aligned(["ceiling", "rate", "", "rounds"], body)


def _group(group: dict[str, Any], rows: dict[str, Any]) -> list[str]:
    height, width = group["size"]
    measured = group["rows"]
    title = f"{height}x{width}, batch {group['batch']}"
    if measured:
        counts = {len(row["seconds"]) for row in measured.values()}
        title += f", {'-'.join(str(n) for n in sorted({min(counts), max(counts)}))} rounds"
    baseline = fastest_fp16(group, rows)
    compare(measured, [] if baseline is None else [baseline])
    least = _least_joules(group, rows)
    header = ["row", "ms", "quartiles", "once", "images/s", "x fp16", "mJ", "x less", "MB"]
    body = [
        [name, *_cells(row, baseline, least), _agreement(row["agreement"])]
        for name, row in measured.items()
    ]
    lines = [title, *aligned([*header, "agrees"], body)]
    for name, why in group["not_measured"].items():
        lines.append(f"{name}: {NOT_MEASURED}, {why}")
    return lines


def _cells(row: dict[str, Any], baseline: str | None, least: float | None) -> list[str]:
    low, high = row["quartiles"]
    speedup = NOT_MEASURED if baseline is None else f"{row['speedup'][baseline]:.2f}"
    joules = row.get("energy", {}).get("joules_per_image")
    peak, planned = (row["memory"].get(f"{kind}_bytes") for kind in ("peak", "planned"))
    memory = NOT_MEASURED if peak is None else f"{peak / _MEGA:.0f}"
    return [
        milliseconds(row["median"]),
        f"{milliseconds(low)}-{milliseconds(high)}",
        milliseconds(row["latency"]),
        f"{row['images_per_second']:.4g}",
        speedup,
        NOT_MEASURED if joules is None else f"{1000 * joules:.3g}",
        NOT_MEASURED if joules is None or least is None else f"{least / joules:.2f}",
        memory if planned is None else f"{memory} ({planned / _MEGA:.0f})",
    ]


def _least_joules(group: dict[str, Any], rows: dict[str, Any]) -> float | None:
    found = [
        row["energy"]["joules_per_image"]
        for name, row in group["rows"].items()
        if rows[name]["engine"] == "fp16" and row["agreement"]["right"] and "energy" in row
    ]
    return min(found, default=None)


def _agreement(found: dict[str, Any]) -> str:
    if "different_images" in found:
        if found["right"]:
            return "bit for bit"
        return f"WRONG in {found['different_images']} of {found['images']} images"
    share = 1 - found["different_pixels"] / found["pixels"]
    return f"{share:.2%} of pixels" + ("" if found["right"] else ", WRONG logits")


def _layers(report: dict[str, Any]) -> list[str]:
    """A table for each network and batch, with the engines beside each other."""
    lines: list[str] = []
    tables_of = dict.fromkeys(
        (line["network"], line["batch"], *line["size"]) for line in report["layers"]
    )
    for network, batch, height, width in tables_of:
        chosen = [
            line
            for line in report["layers"]
            if (line["network"], line["batch"], *line["size"]) == (network, batch, height, width)
        ]
        engines = list(dict.fromkeys(line["engine"] for line in chosen))
        cells = {(line["layer"], line["engine"]): line for line in chosen}
        body = []
        for layer in dict.fromkeys(line["layer"] for line in chosen):
            row = [layer]
            for engine in engines:
                row += _layer(cells.get((layer, engine)), report["ceilings"])
            body.append(row)
        header = ["layer"]
        for engine in engines:
            header += [f"{engine} us", "floor", "reached"]
        lines += ["", f"Layers of {network}: {height}x{width}, batch {batch}"]
        lines += aligned(header, body)
    return lines


def _layer(line: dict[str, Any] | None, ceilings: dict[str, Any]) -> list[str]:
    if line is None:
        return [NOT_MEASURED, "", ""]
    seconds = statistics.median(line["samples"])
    floor = floor_of(line["work"], ceilings)
    shown = [f"{seconds / _MICRO:.1f}"]
    if floor is None:
        return [*shown, NOT_MEASURED, ""]
    return [*shown, f"{floor / _MICRO:.1f}", f"{floor / seconds:.0%}"]
