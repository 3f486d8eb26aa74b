"""The parts of the page that are text: latencies as bars, layers as a table, messages."""

import html
from collections.abc import Sequence

from experiments.demo.segmenter import Latency
from mbu_jax.summary import LayerSummary, Summary

_LAYER_HEADER = (
    "layer", "shape", "weights", "non-zero", "10<sup>6</sup> MAC", "of these ≠ 0", "kB", "engine"
)  # fmt: skip


def latencies(rows: Sequence[Latency], note: str) -> str:
    """Draw each network's median time as a bar.

    Args:
      rows: the packed network first.
      note: how they were measured.

    Returns:
      HTML.
    """
    longest = max(row.median for row in rows)
    bars = []
    for row in rows:
        low, high = min(row.seconds), max(row.seconds)
        bars.append(
            f'<div class="bar {row.name}"><span class="name">{row.name}</span>'
            f'<span class="track"><span style="width:{100 * row.median / longest:.1f}%"></span>'
            f'</span><span class="time"><b>{_milliseconds(row.median)}</b> ms'
            f"<small>{_milliseconds(low)} to {_milliseconds(high)}</small></span></div>"
        )
    ratio = rows[-1].ratio
    told = f"{ratio:.1f}x faster" if ratio >= 1 else f"{1 / ratio:.1f}x slower"
    return (
        f'<div class="mbu latency"><p class="headline">packed is {told}</p>{"".join(bars)}'
        f'<p class="note">{html.escape(note)}</p></div>'
    )


def layers(found: Summary) -> str:
    """Lay the network's layers out as a table.

    Args:
      found: for the image that is shown.

    Returns:
      HTML.
    """
    head = "".join(f"<th>{name}</th>" for name in _LAYER_HEADER)
    body = "".join(map(_row, found.layers))
    kept = sum(layer.density * layer.weights for layer in found.layers) / found.total("weights")
    total = (
        f"<tr class='total'><td>all layers</td><td></td><td></td><td>{kept:.0%}</td>"
        f"<td>{found.total('macs') / 1e6:,.1f}</td>"
        f"<td>{found.total('nonzero_macs') / 1e6:,.1f}</td>"
        f"<td>{found.total('parameter_bytes') / 1e3:,.1f}</td><td></td></tr>"
    )
    reasons = dict.fromkeys(f"{layer.engine}: {layer.reason}" for layer in found.layers)
    notes = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    in_float = found.total("float_parameter_bytes") / 1e3
    return (
        f'<div class="mbu layers"><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}{total}</tbody></table></div><ul class='note'>{notes}"
        f"<li>parameters take {found.ratios()['parameters']:.1f} times less than the "
        f"{in_float:,.0f} kB of float32; work is that of an image of "
        f"{found.height}x{found.width}</li></ul></div>"
    )


def message(text: str, kind: str = "info") -> str:
    """Show one line.

    Args:
      text: what to say.
      kind: ``info`` or ``error``.

    Returns:
      HTML.
    """
    role = ' role="alert"' if kind == "error" else ""
    return f'<div class="mbu message {kind}"{role}>{html.escape(text)}</div>'


def _row(layer: LayerSummary) -> str:
    up = " ↑" if layer.transposed else ""
    cells = (
        html.escape(layer.name),
        f"{layer.kernel}x{layer.kernel}, {layer.in_channels} → {layer.out_channels}{up}",
        f'<span class="kind {layer.kind}">{html.escape(layer.precision)}</span>',
        f"{layer.density:.0%}",
        f"{layer.macs / 1e6:,.1f}",
        f"{layer.nonzero_macs / 1e6:,.1f}",
        f"{layer.parameter_bytes / 1e3:,.1f}",
        html.escape(layer.engine),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"
