"""The demo's page in a real browser, and what its command refuses."""

import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import command, predict
from experiments.demo import __main__ as demo
from experiments.demo import html
from experiments.demo.segmenter import Latency
from experiments.model_file import load_for_pictures
from experiments.timing import median_ratio
from mbu_jax.data.synthetic.generator import generate_example
from mbu_jax.inference import pack
from mbu_jax.saving import save_packed
from tests.experiments.processes import ROOT, TIMEOUT
from tests.trained.network import trained_model

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WAIT = 1000 * TIMEOUT

# Where this is set, as in .ci/run, whatever is missing fails instead.
REQUIRED = "MBU_JAX_REQUIRE_BROWSER" in os.environ

needs_gradio = pytest.mark.skipif(
    not REQUIRED and importlib.util.find_spec("gradio") is None,
    reason="gradio is not installed (uv sync --extra demo)",
)
needs_browser = pytest.mark.skipif(
    not REQUIRED and (CHROMIUM is None or importlib.util.find_spec("playwright") is None),
    reason="no Chromium, or no playwright to drive it",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed network and a picture."""
    folder = tmp_path_factory.mktemp("demo")
    save_packed(folder / "model.safetensors", pack(trained_model()))
    seed = int(np.random.default_rng().integers(2**31))
    example = generate_example("validation", 3, seed=seed, image_size=(70, 90))
    Image.fromarray(example["image"]).save(folder / "cells.tif")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """The classes that the predict command writes for the picture, uint8 [H, W, 3] as colours."""
    out = folder / "predictions"
    options = predict.PredictConfig((str(folder / "cells.tif"),), folder / "model.safetensors", out)
    predictor = predict.Predictor(load_for_pictures(options.model), options, None)
    predictor.run(predict.find_items(options.inputs, out))
    with Image.open(out / "cells.mask.png") as picture:
        numbers = np.asarray(picture)
        assert 0.02 < (numbers > 0).mean() < 0.9
        return np.asarray(picture.convert("RGB"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A demo that runs, and may reach nothing but this machine."""
    port = free_port()
    options = ["--run", folder / "model.safetensors", "--port", port, "--max-megapixels", 1]
    options += ["--timing-size", 32, 48, "--rounds", 3, "--max-megabytes", 2]
    program = [sys.executable, "-m", "tests.experiments.loopback_only", folder / "called"]
    process = subprocess.Popen(
        [*map(str, program), "experiments.demo", *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line == f"open http://127.0.0.1:{port}/ in a browser; Ctrl-C ends the demo\n"
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert not out
    assert not list(folder.glob("mbu-demo-*"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests may run as root, as whom Chromium has no sandbox.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, loaded; it may ask for nothing that is not on this machine."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(WAIT)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(error))
    page.goto(address)
    page.wait_for_selector("#examples img")
    yield page
    page.close()
    beyond = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not beyond
    assert not failed


@pytest.mark.parametrize(
    ("packed", "full", "told"),
    [
        ((1.0, 1.0, 10.0), (2.0, 20.0, 20.0), "2.0x faster"),  # 20 times by medians
        ((4.0, 40.0, 4.0), (1.0, 10.0, 10.0), "4.0x slower"),
    ],
)
def test_the_headline_is_the_median_of_the_ratios(
    packed: tuple[float, ...], full: tuple[float, ...], told: str
) -> None:
    ratio = median_ratio(full, packed)
    rows = [Latency("packed", packed, 1.0, 1.0), Latency("float32", full, 20.0, ratio)]
    assert f"packed is {told}" in html.latencies(rows, "note")


def drop(page: Any, path: Path) -> None:
    page.set_input_files("#image input[type=file]", str(path))


def picture(page: Any, name: str) -> np.ndarray:
    """The pixels of a picture on the page."""
    image = page.wait_for_selector(f"#{name} img")
    content = page.request.get(image.get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@needs_gradio
@needs_browser
def test_an_image_gets_its_mask_and_latencies(page, folder, expected):
    drop(page, folder / "cells.tif")
    page.wait_for_selector("#latency .bar >> nth=1")
    np.testing.assert_array_equal(picture(page, "mask"), expected)
    shown = picture(page, "input")
    np.testing.assert_array_equal(shown, np.asarray(Image.open(folder / "cells.tif")))
    overlay = picture(page, "overlay")
    changed = (overlay != shown).any(axis=2)
    assert changed.any()
    assert not (changed & (expected == 0).all(axis=2)).any()

    share = (expected > 0).any(axis=2).mean()
    assert f"cells.tif: 90x70 pixels, {share:.1%} foreground" in page.inner_text("#message")
    bars = [" ".join(bar.split()) for bar in page.locator("#latency .bar").all_inner_texts()]
    ranges = []
    for name, bar in zip(("packed", "float32"), bars, strict=True):
        found = re.fullmatch(rf"{name} ([\d.]+) ms ([\d.]+) to ([\d.]+)", bar)
        assert found, bar
        median, low, high = map(float, found.groups())
        assert 0 < low <= median <= high
        ranges.append((low, high))
    headline = page.inner_text("#latency .headline")
    said = float(re.findall(r"[\d.]+", headline)[0])
    (low, high), (float_low, float_high) = ranges
    least, most = float_low / high, float_high / low
    if headline.endswith("slower"):
        least, most = 1 / most, 1 / least
    assert 0.95 * least - 0.1 <= said <= 1.05 * most + 0.1  # which are printed rounded
    note = page.inner_text("#latency .note")
    assert "of 3 rounds in turn after a warm-up" in note
    assert "this image scaled to 32x48" in note

    rows = page.locator("#layers tbody tr").all_inner_texts()
    assert len(rows) == 24
    assert rows[0].split()[0] == "stem.conv1"
    assert "all layers" in rows[-1]
    assert all(row.split()[-1] in ("xla", "bitsliced") for row in rows[:-1])


@needs_gradio
@needs_browser
def test_an_example_is_a_click_away(page):
    page.click("#examples .thumbnail-item >> nth=1")
    page.wait_for_selector("#latency .bar >> nth=1")
    assert "histology.png: 320x320 pixels" in page.inner_text("#message")
    mask = picture(page, "mask")
    assert mask.shape == (320, 320, 3)


@needs_gradio
@needs_browser
def test_what_is_no_image_is_told(page, folder):
    page.click("#examples .thumbnail-item >> nth=1")
    page.wait_for_selector("#mask img")
    Image.new("L", (1200, 1000)).save(folder / "large.png")
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, said in (
        ("notes.txt", "notes.txt is no picture; drop a PNG, JPEG, GIF, TIFF or BMP file"),
        ("broken.png", "broken.png is a damaged PNG (truncated); copy or download it again"),
        ("large.png", "large.png has 1200x1000 pixels, more than this page takes; cut it"),
    ):
        drop(page, folder / name)
        page.locator("#message .error", has_text=said).wait_for()
        assert not page.query_selector("#mask img")
        assert not page.query_selector("#latency .bar")
    (folder / "long.png").write_bytes(bytes(3_000_000))
    drop(page, folder / "long.png")
    page.get_by_text('File(s) exceed the maximum allowed size of 2.0 Mb: "long.png"').wait_for()


@needs_gradio
@needs_browser
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_its_window(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.click("#examples .thumbnail-item >> nth=1")
    page.wait_for_selector("#latency .bar >> nth=1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "Masked Binary U-Net"
    page.close()


@needs_gradio
def test_only_this_machine_is_reached(address, folder):
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError):  # noqa: PT011 (refused, or no such address)
        socket.create_connection(("127.0.0.2", port), timeout=5)
    called = folder / "called"
    assert not called.exists(), called.read_text()


def failure(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.run(demo.main)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert not printed.out
    line = printed.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the demo needs gradio; run: uv sync --extra demo" in failure(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "0"), "port is 0; give a number from 1 to 65535"),
        (("--rounds", "0"), "rounds is 0; give a number from 1 to 100"),
        (("--max-megapixels", "9999"), "max_megapixels is 9999; give a number from 1 to 256"),
        (("--timing-size", "0", "9"), "timing_size is (0, 9); give two numbers from 1 to 4096"),
    ],
)
def test_bad_options_are_told(arguments, said, monkeypatch, capsys):
    assert said in failure(monkeypatch, capsys, *arguments)


@needs_gradio
def test_a_missing_network_and_a_taken_port_are_told(folder, monkeypatch, capsys):
    port = str(free_port())
    said = failure(monkeypatch, capsys, "--run", str(folder / "nowhere"), "--port", port)
    assert "nowhere" in said
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(port)))
        listener.listen()
        said = failure(monkeypatch, capsys, "--run", str(folder), "--port", port)
    assert f"port {port} cannot be used (Address already in use); choose another --port" in said
