"""Segment images in a browser: python -m experiments.demo --run runs/nuclei-mbu."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import importlib.util
import sys
import tempfile
import threading
from pathlib import Path

from experiments import command
from experiments.model_file import model_file
from mbu_jax.errors import InputError

ADDRESS = "127.0.0.1"
_LARGEST_SIDE = 4096


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Open a page on this machine that segments the images dropped on it, and times the network.

    Only this machine can reach the page; nothing is sent anywhere. Ctrl-C ends it.
    """

    run: Path = Path("runs/synthetic-mbu")
    """Run directory that training left, or a packed network (model.safetensors)."""

    port: int = 7860
    """Of the page's address, http://127.0.0.1:PORT."""

    max_megabytes: int = 64
    """Largest file that the page takes."""

    max_megapixels: int = 16
    """Largest image that the page takes."""

    timing_size: tuple[int, int] = (256, 256)
    """Height and width at which the packed and the full-precision network are timed."""

    rounds: int = 7
    """How often each is timed for an image."""

    implementation: str | None = None
    """Engine of the packed network; by default the best that the device has."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
          InputError: naming the option.
        """
        for name, most in (
            ("port", 65535),
            ("max_megabytes", 1024),
            ("max_megapixels", 256),
            ("rounds", 100),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}; give a number from 1 to {most}")
        if not all(1 <= side <= _LARGEST_SIDE for side in self.timing_size):
            raise InputError(
                f"timing_size is {self.timing_size}; give two numbers from 1 to {_LARGEST_SIDE}"
            )


def main() -> None:
    """Parse the command line, load the network, serve until interrupted."""
    options = command.parse(DemoConfig, {"default": DemoConfig()})
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the demo needs gradio; run: uv sync --extra demo (or pip install gradio)")
    model = model_file(options.run)
    with tempfile.TemporaryDirectory(prefix="mbu-demo-") as folder:
        _keep_to_this_machine(folder)
        serve(options, model, Path(folder))


def serve(options: DemoConfig, model: Path, folder: Path) -> None:
    """Serve the page until interrupted.

    Args:
      options: of the command.
      model: packed network.
      folder: for the examples and what is dropped on the page.

    Raises:
      InputError: if the network cannot be loaded or the port is taken.
    """
    command.check_port(options.port, address=ADDRESS)
    from experiments.demo.segmenter import Segmenter

    print("loading and compiling, which may take a minute …", file=sys.stderr)
    segmenter = Segmenter(
        model,
        implementation=options.implementation,
        max_pixels=options.max_megapixels * 10**6,
        timing_size=options.timing_size,
        rounds=options.rounds,
    )
    import gradio as gr

    from experiments.demo import page
    from experiments.demo.examples import write_examples

    config = segmenter.params.config
    title = (
        f"{model} · width {config.width} · {segmenter.params.activation_bits}-bit activations · "
        f"{model.stat().st_size / 1e3:,.0f} kB"
    )
    examples = write_examples(folder)
    blocks = page.build(
        segmenter, examples, title, page.measured_on(options.timing_size, options.rounds)
    )
    system = ["system-ui", "sans-serif"]
    blocks.queue(max_size=8)
    _, address, _ = blocks.launch(
        server_name=ADDRESS,
        server_port=options.port,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=f"{options.max_megabytes}mb",
        allowed_paths=[str(folder)],
        theme=gr.themes.Base(
            primary_hue="teal", font=system, font_mono=["ui-monospace", "monospace"]
        ),
        css_paths=page.STYLE,
        prevent_thread_lock=True,
    )
    print(f"open {address} in a browser; Ctrl-C ends the demo", flush=True)
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


def _keep_to_this_machine(folder: str) -> None:
    """Turn off what gradio and its parts would send, and keep uploads in our own folder."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }


if __name__ == "__main__":
    command.run(main)
