"""The page itself, in gradio: a place to drop an image, and what the network says of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.demo import html
from experiments.demo.segmenter import Segmenter
from experiments.predict import mask_picture
from experiments.timing import machine
from mbu_jax.errors import InputError

if TYPE_CHECKING:
    from gradio import Blocks

STYLE = Path(__file__).with_name("page.css")

_TITLE = "Masked Binary U-Net"
_WAITING = "Drop an image, or choose one of the examples."


def build(segmenter: Segmenter, examples: Sequence[Path], title: str, note: str) -> "Blocks":
    """Lay the page out and connect it.

    Args:
      segmenter: what segments and times.
      examples: pictures to choose from.
      title: what the network is, in a line.
      note: how latencies are measured.

    Returns:
      The page.
    """
    # Late: it takes seconds, reads the environment, and need not be installed.
    import gradio as gr

    def segment(path: str) -> Iterator[tuple[Any, ...]]:
        """Mask and layers as soon as they are there, then the latencies."""
        try:
            found = segmenter.segment(Path(path))
        except InputError as error:
            text = str(error).replace(path, Path(path).name)
            yield html.message(text, "error"), None, None, None, "", ""
            return
        pictures = found.image, mask_picture(found.mask).convert("RGB"), found.overlay
        layers = html.layers(segmenter.layers(found.image))
        told = html.message(_describe(Path(path).name, found.mask, found.pictures))
        yield told, *pictures, html.message("Timing …"), layers
        yield told, *pictures, html.latencies(segmenter.time(found.image), note), layers

    def segment_upload(path: str) -> Iterator[tuple[Any, ...]]:
        # The place is emptied, so that the next image can be dropped on it.
        yield from ((None, *shown) for shown in segment(path))

    def segment_example(event: gr.SelectData) -> Iterator[tuple[Any, ...]]:
        yield from segment(str(examples[event.index]))

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<header class='mbu'><h1>{_TITLE}</h1><p>{title}</p></header>")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=240):
                dropped = gr.File(
                    label="Image",
                    file_count="single",
                    type="filepath",
                    height=150,
                    elem_id="image",
                )
                gallery = gr.Gallery(
                    [str(path) for path in examples],
                    label="Examples",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    object_fit="cover",
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
            with gr.Column(scale=3, min_width=300):
                message = gr.HTML(html.message(_WAITING), elem_id="message")
                with gr.Row():
                    pictures = [
                        gr.Image(
                            label=label,
                            format="png",
                            interactive=False,
                            buttons=["download", "fullscreen"],
                            min_width=180,
                            elem_id=label.lower(),
                        )
                        for label in ("Input", "Mask", "Overlay")
                    ]
                latency = gr.HTML(elem_id="latency")
        layers = gr.HTML(elem_id="layers")
        shown = [message, *pictures, latency, layers]
        # One at a time: what runs beside it would spoil the timing.
        options: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "network",
            "show_progress": "minimal",
            "api_visibility": "private",
        }
        dropped.upload(segment_upload, dropped, [dropped, *shown], **options)
        gallery.select(segment_example, None, shown, **options)
    return page


def measured_on(timing_size: tuple[int, int], rounds: int) -> str:
    """Say how the latencies are measured.

    Args:
      timing_size: height and width.
      rounds: how often each is timed.

    Returns:
      A sentence.
    """
    here = machine()
    device = here["cpu"] if here["device"] == "cpu" else here["device"]
    cores = f", {here['cores']} cores" if here["device"] == "cpu" else ""
    height, width = timing_size
    return (
        f"Median, and range, of {rounds} rounds in turn after a warm-up, and median of the ratios "
        f"within rounds; this image scaled to {height}x{width}, network alone, on {device}{cores}. "
        "float32 is the full-precision U-Net of the same width under XLA, untrained."
    )


def _describe(name: str, mask: np.ndarray, pictures: int) -> str:
    height, width = mask.shape
    numbers, counts = np.unique(mask[mask > 0], return_counts=True)
    shares = [f"class {n}: {c / mask.size:.1%}" for n, c in zip(numbers, counts, strict=True)]
    if numbers.max(initial=0) <= 1:
        shares = [f"{(mask > 0).mean():.1%} foreground"]
    first = f", the first of {pictures} pictures" if pictures > 1 else ""
    return f"{name}{first}: {width}x{height} pixels, {', '.join(shares)}"
