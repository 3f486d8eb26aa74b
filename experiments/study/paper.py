"""The paper's own numbers, to be printed beside what was measured."""

SCORES = ("dice", "iou", "f1")

TABLE_1 = {
    "carvana": {
        "Full Precision": (0.997, 0.994, 0.997),
        "INT8": (0.994, 0.987, 0.994),
        "INT4": (0.989, 0.979, 0.989),
        "MBU-Net": (0.981, 0.963, 0.981),
        "Binary": (0.662, 0.530, 0.693),
    },
    "isic": {
        "Full Precision": (0.771, 0.644, 0.783),
        "INT8": (0.763, 0.633, 0.776),
        "INT4": (0.753, 0.619, 0.765),
        "MBU-Net": (0.750, 0.617, 0.763),
        "Binary": (0.560, 0.399, 0.570),
    },
    "nuclei": {
        "Full Precision": (0.867, 0.776, 0.874),
        "INT8": (0.823, 0.741, 0.851),
        "INT4": (0.819, 0.739, 0.850),
        "MBU-Net": (0.817, 0.722, 0.839),
        "Binary": (0.434, 0.302, 0.464),
    },
}
"""Dice, IoU and F1 by dataset and network, MBU-Net's Table 1."""


def scores(dataset: str, network: str | None) -> dict[str, float] | None:
    """Look up a network of Table 1.

    Args:
      dataset: its name here.
      network: what the paper calls it, or None.

    Returns:
      Scores by name, or None where the paper has none.

    Example:
      >>> scores("nuclei", "Binary")
      {'dice': 0.434, 'iou': 0.302, 'f1': 0.464}
    """
    if network is None or dataset not in TABLE_1:
        return None
    return dict(zip(SCORES, TABLE_1[dataset][network], strict=True))
