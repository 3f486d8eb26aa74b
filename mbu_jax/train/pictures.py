"""Pictures to look at: sample panels, and the curves of a run."""

# ruff: noqa: F722 (shapes are written as strings)

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from mbu_jax.drawing import class_colours
from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic
from mbu_jax.train.recorder import read_metrics

# From the palette of Okabe and Ito, told apart under every common colour blindness.
_BLUE, _VERMILION, _GREEN, _PURPLE = (86, 180, 233), (235, 95, 0), (0, 158, 115), (204, 121, 167)
_ERRORS = {
    "correct": _GREEN,
    "excess (false positive)": _VERMILION,
    "missed (false negative)": _BLUE,
    "wrong class": _PURPLE,
}
_PAPER, _INK, _BETWEEN = (255, 255, 255), (40, 40, 40), (150, 150, 150)
_GAP = 4
_SMALLEST_SIDE = 256


def sample_panel(
    image: UInt8[np.ndarray, "H W 3"],
    truth: Int[np.ndarray, "H W"],
    prediction: Int[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H panel 3"]:
    """Lay image, truth, prediction and errors side by side.

    The masks are black for background and white for class 1; further classes have a colour each.
    The last picture is the image in grey under the errors: green where object and class are
    right, vermilion for excess (false positive), blue for missed (false negative), purple for an
    object of the wrong class. The colours differ in the eyes of the colour-blind too.

    Args:
      image: uint8 [H, W, 3], red, green, blue.
      truth: Integer [H, W], the true class of every pixel, 0 being the background.
      prediction: Integer [H, W], the predicted class of every pixel.

    Returns:
      uint8 [H, 4W + 12, 3]: the four pictures with grey gaps of 4 pixels.

    Raises:
      ValueError: If shapes or dtypes disagree.

    Example:
      >>> image, mask = np.zeros((64, 48, 3), np.uint8), np.zeros((64, 48), np.uint8)
      >>> sample_panel(image, mask, mask).shape
      (64, 204, 3)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    if truth.shape != image.shape[:2] or prediction.shape != image.shape[:2]:
        raise ValueError(f"image {image.shape}, truth {truth.shape}, prediction {prediction.shape}")
    gap = np.full((image.shape[0], _GAP, 3), _BETWEEN, np.uint8)
    pictures = (
        image,
        class_colours(truth),
        class_colours(prediction),
        _overlay(image, truth, prediction),
    )
    columns = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(columns[1:], axis=1)


def write_samples(
    folder: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    ids: Sequence[str],
    scores: Sequence[float] | None = None,
) -> list[Path]:
    """Write one captioned panel an image (see :func:`sample_panel`), small images enlarged.

    Args:
      folder: Where to write, made if missing; for a run, its ``samples``.
      images: uint8 [H, W, 3] each; sizes may differ.
      truths: Integer [H, W] each.
      predictions: Integer [H, W] each.
      ids: A name each; it stands in the caption and, made safe, in the file's name.
      scores: The Dice of each, for the caption.

    Returns:
      The files, ``00-<id>.png`` and so on.

    Raises:
      ValueError: If the sequences differ in length, or as :func:`sample_panel`.
      OSError: If a file cannot be written.

    Example:
      >>> image, mask = np.zeros((64, 48, 3), np.uint8), np.zeros((64, 48), np.uint8)
      >>> write_samples("runs/nuclei/samples", [image], [mask], [mask], ["a"], [1.0])
      [PosixPath('runs/nuclei/samples/00-a.png')]
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dice = [None] * len(images) if scores is None else scores
    files = []
    rows = zip(images, truths, predictions, ids, dice, strict=True)
    for index, (image, truth, prediction, name, score) in enumerate(rows):
        title = name if score is None else f"{name}    Dice {score:.3f}"
        several = max(int(truth.max(initial=0)), int(prediction.max(initial=0))) > 1
        picture = _caption(sample_panel(image, truth, prediction), title, several)
        files.append(folder / f"{index:02d}-{safe_name(name)}.png")
        write_bytes_atomic(files[-1], _png(picture))
    return files


def safe_name(name: str) -> str:
    """Make of an image's id, which may be a path or be long, a part of a file's name.

    Args:
      name: The id.

    Returns:
      At most 100 characters that every file system takes; those of two ids may be the same.

    Example:
      >>> safe_name("validation/cell 7")
      'validation_cell_7'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:100]


def plot_curves(metrics: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    r"""Draw a run's log over the epochs.

    One picture each, as far as the log has them: ``loss`` and ``dice`` (training and validation),
    ``learning_rate``, and of every layer ``density``, ``sign_flip_rate`` and ``outside_clip``
    (lines of kind "layers" with names such as ``density/down_c1``).

    Args:
      metrics: A run's ``metrics.jsonl``.
      out: The PNG file to write.

    Raises:
      InputError: If the log is missing, damaged or empty.
      OSError: If the picture cannot be written.

    Example:
      >>> line = '{"step": 100, "epoch": 1.0, "kind": "train", "loss": 0.5}\n'
      >>> _ = Path("metrics.jsonl").write_text(line)
      >>> plot_curves("metrics.jsonl", "curves.png")
    """
    records = read_metrics(metrics)
    if not records:
        raise InputError(f"{metrics} holds no measurement yet; train for at least one epoch")
    layers = _layer_names(records)
    scalars = [plot for plot in _SCALAR_PLOTS if _has(records, plot)]
    by_layer = [plot for plot in _LAYER_PLOTS if any(_has(records, f"{plot}/{n}") for n in layers)]
    rows = [plots for plots in (scalars, by_layer) if plots]
    if not rows:
        raise InputError(f"{metrics} holds none of {', '.join([*_SCALAR_PLOTS, *_LAYER_PLOTS])}")

    figure = Figure(figsize=(14, 0.6 + 3.6 * len(rows)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for strip, plots in zip(
        figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
    ):
        axes = strip.subplots(1, len(plots), squeeze=False)[0]
        for axis, plot in zip(axes, plots, strict=True):
            _dress(axis, {**_SCALAR_PLOTS, **_LAYER_PLOTS}[plot])
            if plot in _SCALAR_PLOTS:
                _draw_scalar(axis, records, plot)
            else:
                _draw_layers(axis, records, plot, layers)
        if plots is by_layer:
            handles, labels = axes[0].get_legend_handles_labels()
            size, spacing = (9, 0.5) if len(labels) <= 16 else (7, 0.25)
            strip.legend(
                handles,
                labels,
                loc="outside right center",
                frameon=False,
                fontsize=size,
                labelspacing=spacing,
            )
    picture = io.BytesIO()
    canvas.print_png(picture)
    write_bytes_atomic(out, picture.getvalue())


_SCALAR_PLOTS = {"loss": "Loss", "dice": "Dice", "learning_rate": "Learning rate"}
_LAYER_PLOTS = {
    "density": "Density: share of non-zero weights",
    "sign_flip_rate": "Sign-flip rate: share of weights whose sign changed",
    "outside_clip": "Share of latent weights outside the clip range",
}
_KIND_STYLE: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072B2", "linewidth": 1.2},
    "validation": {"color": "#D55E00", "linewidth": 1.8, "marker": "o", "markersize": 3},
}


def _layer_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every layer in the log, in the order of its first appearance: the network's order."""
    names = (name for record in records if record["kind"] == "layers" for name in record)
    return list(dict.fromkeys(name.partition("/")[2] for name in names if "/" in name))


def _has(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(name in record for record in records)


def _series(
    records: Sequence[Mapping[str, Any]], kind: str, name: str
) -> tuple[list[float], list[float]]:
    points = [(r["epoch"], r[name]) for r in records if r["kind"] == kind and name in r]
    return [x for x, _ in points], [y for _, y in points]


def _dress(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel("epoch", fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_scalar(axis: Axes, records: Sequence[Mapping[str, Any]], name: str) -> None:
    kinds = [kind for kind in _KIND_STYLE if _series(records, kind, name)[0]]
    for kind in kinds:
        epochs, values = _series(records, kind, name)
        axis.plot(epochs, values, label=kind, **_KIND_STYLE[kind])
        if name == "dice" and kind == "validation":
            best = int(np.argmax(values))
            axis.axhline(values[best], color="#D55E00", linewidth=0.7, linestyle=":")
            axis.set_xlabel(f"epoch   (best validation {values[best]:.3f})", fontsize=9)
    if name == "dice":
        axis.set_ylim(0, 1)
    else:
        axis.set_ylim(bottom=0)
    if name == "learning_rate":
        axis.yaxis.set_major_formatter("{x:g}")
    elif kinds:
        axis.legend(frameon=False, fontsize=9)


def _draw_layers(
    axis: Axes, records: Sequence[Mapping[str, Any]], name: str, layers: Sequence[str]
) -> None:
    colours = colormaps["viridis"](np.linspace(0, 0.93, len(layers)))
    for index, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        epochs, values = _series(records, "layers", f"{name}/{layer}")
        dashes = ("-", "--", ":")[index % 3]
        axis.plot(epochs, values, dashes, color=colour, linewidth=1.4, label=layer)
    axis.set_ylim(bottom=0)


def _overlay(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Tint a grey copy of the image, its contrast spread, where object and prediction are."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    darkest, lightest = np.percentile(grey, (1, 99))
    contrast = np.clip((grey - darkest) / max(lightest - darkest, 1), 0, 1)
    # Mid-greys only, so that every tint shows on black and on white images alike.
    base = np.repeat((40 + 170 * contrast)[..., None], 3, axis=2)
    there, here = truth != 0, prediction != 0
    where = (there & (truth == prediction), here & ~there, ~here & there, here & there)
    wrong = where[3] & (truth != prediction)
    regions = (*where[:3], wrong)
    for (kind, colour), region in zip(_ERRORS.items(), regions, strict=True):
        strength = 0.35 if kind == "correct" else 0.85
        tint = np.array(colour, np.float32)
        base[region] = (1 - strength) * base[region] + strength * tint
    return np.round(base).astype(np.uint8)


def _caption(panel: np.ndarray, title: str, several_classes: bool) -> np.ndarray:
    """Enlarge a small panel by a whole factor, and set titles above and the legend below."""
    side = (panel.shape[1] - 3 * _GAP) // 4
    factor = max(1, -(-_SMALLEST_SIDE // side))
    panel = panel.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = panel.shape[:2]
    # Viewers shrink a wide picture to the screen, and its text with it.
    size = max(13, width // 85)
    font = ImageFont.load_default(size)
    line = round(1.5 * size)
    sheet = Image.new("RGB", (width + 2 * _GAP, height + 3 * line + 3 * _GAP), _PAPER)
    sheet.paste(Image.fromarray(panel), (_GAP, 2 * line + _GAP))
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 2), _shortened(title, width, font), fill=_INK, font=font)
    stride = (side + _GAP) * factor
    for column, heading in enumerate(("image", "truth", "prediction", "errors")):
        draw.text((_GAP + column * stride, line + 2), heading, fill=_INK, font=font)
    x, y = _GAP, height + 2 * line + 2 * _GAP
    for kind, colour in _ERRORS.items():
        if kind == "wrong class" and not several_classes:
            continue
        draw.rectangle((x, y + size // 4, x + size, y + size // 4 + size), fill=colour)
        draw.text((x + 1.4 * size, y), kind, fill=_INK, font=font)
        x += round(3 * size + draw.textlength(kind, font=font))
    return np.asarray(sheet)


def _shortened(text: str, width: int, font: Any) -> str:
    """Cut the middle out of a text that is too wide, keeping its end: the score."""
    head, tail = text, ""
    while font.getlength(head + tail) > width and len(text) > 20:
        text = text[: len(text) // 2 - 1] + text[len(text) // 2 + 1 :]
        head, tail = text[: len(text) // 2] + "…", text[len(text) // 2 :]
    return head + tail


def _png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()
