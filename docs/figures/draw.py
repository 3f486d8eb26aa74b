"""Draw the documentation's figures: python docs/figures/draw.py.

Every number in them is computed here, by the library where it has a function for it.
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from mbu_jax.thresholds import fold_batch_norm

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, GREY, LIGHT = "#0072B2", "#D55E00", "#009E73", "#777777", "#EDEDED"


def main() -> None:
    """Draw them all."""
    # The same figure gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "mbu_jax", "font.size": 11})
    for draw in (products, threshold, layouts, carry_save):
        figure = draw()
        path = HERE / f"{draw.__name__.replace('_', '-')}.svg"
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        print(path)


def products() -> plt.Figure:
    """Twelve activations and weights, and both ways to count their product."""
    rng = np.random.default_rng(5)
    weight = rng.choice([-1, 0, 0, 0, 1], 12)
    activation = rng.choice([-1, 1], 12)
    a, p, n = activation > 0, weight > 0, weight < 0
    rows = [
        ("activation a", activation, None),
        ("weight w", weight, None),
        ("a'", a, BLUE),
        ("p", p, GREEN),
        ("n", n, ORANGE),
        ("a' xor n", a ^ n, GREY),
        ("a' xor p", a ^ p, GREY),
        ("a' and p", a & p, GREEN),
        ("not a' and n", ~a & n, ORANGE),
    ]
    figure, axes = _canvas(8.6, 4.2, (-3.4, 19.6), (-9.4, 0.6))
    for y, (name, values, colour) in enumerate(rows):
        axes.text(-0.6, -y, name, ha="right", va="center")
        for x, value in enumerate(values):
            on = colour is not None and bool(value)
            _cell(axes, x, -y, colour if on else "white")
            text = f"{value:+d}" if colour is None and value else f"{int(value)}"
            axes.text(x, -y, text, ha="center", va="center", color="white" if on else "black")
        if y >= 5:
            axes.text(12.1, -y, f"{int(np.sum(values))} ones", va="center")
    dot = int(activation @ weight)
    xor = int((a ^ n).sum()), int((a ^ p).sum())
    agreements, sizes = int((a & p).sum() + (~a & n).sum()), int(p.sum() + n.sum())
    assert dot == xor[0] - xor[1] == 2 * agreements - sizes
    axes.text(12.1, 0, f"a·w = {dot}", va="center")
    axes.text(14.9, -5.5, f"{xor[0]} - {xor[1]} = {dot}", va="center", color=GREY)
    axes.text(14.9, -7.5, f"2·{agreements} - {sizes} = {dot}", va="center", color=GREEN)
    return figure


def threshold() -> plt.Figure:
    """BatchNorm's line over a layer's sums, and the integer where it crosses zero."""
    scale, bias, mean, variance, epsilon = 0.8, 0.35, 3.2, 22.0, 1e-5
    folded = fold_batch_norm(
        *(jnp.array([value]) for value in (scale, bias, mean, variance)),
        epsilon=epsilon,
        bits=1,
        integer=True,
    )
    theta = float(np.asarray(folded.theta).item())
    y = np.arange(-8, 13)
    z = scale * (y - mean) / np.sqrt(variance + epsilon) + bias
    assert ((z >= 0) == (y >= theta)).all()
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(y, z, color=LIGHT, zorder=1, linewidth=4)
    for bit, colour in ((False, ORANGE), (True, BLUE)):
        chosen = (z >= 0) == bit
        axes.plot(
            y[chosen], z[chosen], "o", color=colour, label=f"activation {'+1' if bit else '-1'}"
        )
    axes.axvline(theta - 0.5, color=GREEN, linestyle="--")
    axes.annotate(f"y ≥ θ = {theta:.0f}", (theta - 0.3, -1.5), color=GREEN)
    axes.set_xticks(range(-8, 13, 2))
    axes.set_xlabel("sum of the convolution, y")
    axes.set_ylabel("BatchNorm(y)")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def layouts() -> plt.Figure:
    """An image of 8 x 1 pixels and 4 channels, and which bits a word of either layout holds."""
    figure, axes = _canvas(8.6, 3.4, (-2.6, 22), (-6.6, 2.2))
    palette = plt.get_cmap("viridis")(np.linspace(0.15, 0.85, 4))
    for left, title in ((0, "channel-packed"), (12.5, "pixel-packed")):
        axes.text(left + 3.5, 1.6, title, ha="center", weight="bold")
        for channel in range(4):
            for pixel in range(8):
                _cell(axes, left + pixel, -channel, palette[channel])
    axes.text(-0.8, -1.5, "channels", rotation=90, ha="center", va="center")
    axes.text(3.5, 0.8, "pixels of a row", ha="center", va="center", color=GREY)
    axes.text(16, 0.8, "pixels of a row", ha="center", va="center", color=GREY)
    axes.add_patch(_frame(2, -3, 1, 4))
    axes.add_patch(_frame(12.5, -2, 8, 1))
    for channel in range(4):
        _cell(axes, 2 + channel, -5.6, palette[channel])
    for pixel in range(8):
        _cell(axes, 12.5 + pixel, -5.6, palette[2])
    for x in (2.0, 16.0):
        axes.annotate("", (x, -4.9), (x, -3.7 if x < 10 else -2.7), arrowprops={"arrowstyle": "->"})
    axes.text(6.4, -5.6, "word: channels\nof one pixel", va="center")
    axes.text(20.6, -5.6, "word: pixels\nof one\nchannel", va="center")
    return figure


def carry_save() -> plt.Figure:
    """Seven planes and a counter's plane of ones through full adders to planes of 1, 2, 4 and 8."""
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 2, (8, 8)).astype(bool)
    figure, axes = _canvas(8.6, 4.6, (-1.8, 23), (-9.2, 1.6))
    # Adders by column: where they stand, and which wires they take and give.
    level, columns = list(planes), []
    carries: dict[int, list[np.ndarray]] = {1: level}
    worth = 1
    while worth < 8:
        now, twice = carries[worth], []
        adders = []
        while len(now) >= 2:
            a, b, c = (*now[:2], now[2] if len(now) > 2 else np.zeros(8, bool))
            now = [*now[3:], a ^ b ^ c]
            twice.append((a & b) | (c & (a ^ b)))
            adders.append(len(twice))
        carries[worth], carries[2 * worth] = now, twice
        columns.append((worth, len(adders)))
        worth *= 2
    total = np.sum([w * carries[w][0].astype(int) for w in carries if carries[w]], axis=0)
    assert (total == planes.sum(0)).all()

    axes.text(3.5, 1.2, "eight planes of eight pixels", ha="center", weight="bold")
    for y, plane in enumerate(planes):
        for x, bit in enumerate(plane):
            _cell(axes, x, -y, BLUE if bit else "white")
    for i, (worth, count) in enumerate(columns):
        x = 9.3 + 2.3 * i
        box = FancyBboxPatch((x, -7.2), 1.5, 7.4, boxstyle="round,pad=0.1", fc=LIGHT, ec=GREY)
        axes.add_patch(box)
        axes.text(x + 0.75, -3.5, f"{count} full adders on planes worth {worth}", rotation=90,
                  ha="center", va="center")  # fmt: skip
        start = 7.7 if i == 0 else x - 0.7
        axes.annotate("", (x - 0.1, -3.5), (start, -3.5), arrowprops={"arrowstyle": "->"})
    axes.annotate("", (16.2, -5.0), (15.5, -5.0), arrowprops={"arrowstyle": "->"})
    axes.text(19.5, 1.2, "a number per pixel", ha="center", weight="bold")
    for y, worth in enumerate((8, 4, 2, 1)):
        plane = carries[worth][0] if carries[worth] else np.zeros(8, bool)
        axes.text(16.6, -1.5 - y, f"{worth}s", ha="right", va="center", color=GREY)
        for x, bit in enumerate(plane):
            _cell(axes, 17.2 + 0.7 * x, -1.5 - y, GREEN if bit else "white", width=0.7)
    for x, number in enumerate(total):
        axes.text(17.2 + 0.7 * x, -6.0, f"{number}", ha="center", va="center")
    axes.text(16.6, -6.0, "=", ha="right", va="center", color=GREY)
    return figure


def _canvas(
    width: float, height: float, x: tuple[float, float], y: tuple[float, float]
) -> tuple[plt.Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.axis("off")
    return figure, axes


def _cell(axes: Axes, x: float, y: float, colour: object, width: float = 1.0) -> None:
    axes.add_patch(
        Rectangle((x - width / 2, y - 0.42), width, 0.84, facecolor=colour, edgecolor=GREY, lw=0.6)
    )


def _frame(x: float, y: float, columns: int, rows: int) -> Rectangle:
    return Rectangle(
        (x - 0.55, y - 0.55), columns + 0.1, rows + 0.1, fill=False, edgecolor=ORANGE, lw=2.5
    )


if __name__ == "__main__":
    main()
