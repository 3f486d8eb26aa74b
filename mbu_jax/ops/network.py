"""The packed network, written once for every layout of its activations."""

from typing import Any

from jax import Array

from mbu_jax.ops.layouts import Layout
from mbu_jax.packing import PackedUNet


def forward[A](
    params: PackedUNet, levels: Any, layout: Layout[A], *, keep: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Take images through all layers.

    Args:
      params: the network.
      levels: [B, H, W, C] uint8; H and W are what the poolings divide.
      layout: carries the steps out.
      keep: whether to keep every layer's output.

    Returns:
      Logits, [B, H, W, classes] float32, and by convolution's name, where they are kept, outputs
      as channel-packed words, uint32 [B, H, W, P, N].
    """
    kept: dict[str, Array] = {}

    def note(name: str, y: A) -> A:
        if keep:
            kept[name] = layout.channel_words(y)
        return y

    def apply(name: str, x: A) -> A:
        return note(name, layout.conv(name, x, params.convs[name]))

    def double_conv(name: str, x: A) -> A:
        return apply(f"{name}.conv2", apply(f"{name}.conv1", x))

    def down(index: int, x: A) -> A:
        return double_conv(f"down_c{index}", layout.max_pool2x2(f"down_c{index}.pool", x))

    def up(index: int, skip: A, x: A) -> A:
        joined = layout.join(skip, apply(f"up_ct{index}.conv", x))
        return double_conv(f"up_c{index}", joined)

    full = apply("stem.conv2", note("stem.conv1", layout.stem("stem.conv1", levels, params.stem)))
    half = down(1, full)
    quarter = down(2, half)
    eighth = down(3, quarter)
    y = up(1, eighth, down(4, eighth))
    y = up(2, quarter, y)
    y = up(3, half, y)
    y = up(4, full, y)
    return layout.head("head", y, params.head), kept
