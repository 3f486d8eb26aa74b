"""The notebooks are executed, every cell, with small settings, and what they leave is looked at."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

from notebooks.tidy import METADATA, badge, repository, tidied

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ("kernels", "quickstart", "reproduce")

# Compiling takes longer than running here.
FLAGS = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"

SECONDS = 900  # for a cell, on a busy machine
pytestmark = pytest.mark.timeout(2 * SECONDS)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def executed(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, facts: str, **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """Execute a notebook in a folder of its own.

    Args:
      name: of the notebook.
      folder: to work in; the notebook runs in its sub-folder ``notebooks``.
      monkeypatch: of the test.
      facts: Python expression of a dictionary, evaluated where the notebook ended.
      **settings: take the place of those in its cell ``parameters``.

    Returns:
      The notebook with its outputs, and the facts.
    """
    notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for key, value in settings.items():
        # As an editor would: the comment behind a setting may go.
        parameters.source, changes = re.subn(
            rf"^{key} = .*$", f"{key} = {value!r}", parameters.source, flags=re.MULTILINE
        )
        assert changes == 1, key
    asking = nbformat.v4.new_code_cell(f"import json; print(json.dumps({facts}))")
    notebook.cells.append(asking)
    (folder / "notebooks").mkdir()
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(folder / "notebooks")}}
    limits = {"timeout": SECONDS, "startup_timeout": SECONDS}
    NotebookClient(notebook, resources=resources, **limits).execute()
    return notebook, json.loads(printed(asking))


def printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def pictures(notebook: Any) -> list[np.ndarray]:
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if content := output.get("data", {}).get("image/png"):
                found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))
    return found


def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, facts = executed(
        "quickstart",
        tmp_path,
        monkeypatch,
        "{'different': different, 'spread': float(logits.std()), 'dice': scores['dice'],"
        " 'masks': [[int(v) for v in np.unique(m)] for m in masks],"
        " 'packed': (logits[..., 0] > 0).tolist() == [m.astype(bool).tolist() for m in masks],"
        " 'bytes': [packed_bytes, float_bytes], 'updates': trainer.step,"
        " 'seconds': [float_time.best, packed_time.best],"
        " 'same': bool((packed_network(image) == mbu_jax.infer(params, image)).all())}",
        width=4,
        train_images=64,
        epochs=7,
        crop=32,
        timed_side=64,
    )
    assert facts["different"] == 0
    assert facts["spread"] > 0
    assert facts["packed"]
    assert facts["same"]
    assert facts["updates"] == 7 * 64 // 8
    assert facts["dice"] > 0.2
    assert [0, 1] in facts["masks"]
    packed, latent = facts["bytes"]
    assert packed == (tmp_path / "notebooks" / "quickstart.safetensors").stat().st_size < latent / 5
    assert min(facts["seconds"]) > 0
    assert len(pictures(notebook)) == 3
    assert all(picture.std() > 20 for picture in pictures(notebook))


def test_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, facts = executed(
        "kernels",
        tmp_path,
        monkeypatch,
        "{'dot': int(activations @ weights), 'xor': by_xor, 'and': by_and,"
        " 'binary': [of_binary, int(activations @ signs)],"
        " 'counted': [counted.tolist(), expected.tolist()],"
        " 'threshold': [by_norm.tolist(), by_threshold.tolist()], 'different': different_words,"
        " 'milliseconds': milliseconds, 'float': float_milliseconds}",
        side=48,
        densities=(0.05, 0.5),
    )
    assert facts["dot"] == facts["xor"] == facts["and"] != 0
    assert facts["binary"][0] == facts["binary"][1]
    assert facts["counted"][0] == facts["counted"][1]
    assert len(set(facts["counted"][0])) > 3
    assert facts["threshold"][0] == facts["threshold"][1]
    assert set(facts["threshold"][0]) == {False, True}
    assert set(facts["different"].values()) == {0}
    assert {"xla"} <= facts["different"].keys() == facts["milliseconds"].keys()
    assert all(min(times) > 0 and len(times) == 2 for times in facts["milliseconds"].values())
    assert facts["float"] > 0
    assert "compute capability 75" in printed(notebook.cells[-2])
    assert len(pictures(notebook)) == 1


def test_reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a report as the repository keeps them; the studies train what they compare."""
    report = tmp_path / "results" / "density" / "small"
    report.mkdir(parents=True)
    (report / "table.md").write_text("# A committed report")
    Image.new("RGB", (30, 20), "red").save(report / "figure.png")
    notebook, facts = executed(
        "reproduce",
        tmp_path,
        monkeypatch,
        "{'reports': [str(r) for r in reports], 'scores': scores, 'savings': savings,"
        " 'rows': {n: r['runs'] for n, r in study['rows'].items()},"
        " 'timed': list(study['latency']['rows'])}",
        rows="binary",
        networks="--members 13",
    )
    assert facts["reports"] == ["../results/density/small"]
    assert round(facts["scores"]["down_c3"], 3) == 0.625  # the paper's Table A.4
    assert facts["savings"]["up_c4"] == min(facts["savings"].values()) < 0
    assert facts["timed"] == ["binary"]
    assert facts["rows"]["binary"][0]["density"] > 0.99  # the stem is masked
    shown = [o["data"] for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    texts = [data.get("text/markdown", "") for data in shown]
    assert "# A committed report" in texts
    assert any("| Binary |" in text for text in texts)
    assert any("What masking a layer is worth" in text for text in texts)
    assert len(pictures(notebook)) == 3


def test_there_are_three() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_tidy(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert content == tidied(path, repository()), "run: python notebooks/tidy.py"
    notebook = read(path)
    assert dict(notebook.metadata) == METADATA
    assert notebook.cells[0].source.startswith(badge(path.name, repository()))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "git clone" in code[0].source
    assert "parameters" in code[1].metadata.tags
    # Text goes before code, and says more than its heading.
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if before.cell_type == "markdown" and cell.cell_type == "code":
            assert len(before.source.split()) > 5


def test_one_small_picture_is_kept() -> None:
    kept = [
        (path.stem, output)
        for path in NOTEBOOKS
        for cell in read(path).cells
        for output in cell.get("outputs", [])
    ]
    assert [name for name, _ in kept] == ["quickstart"]
    picture = base64.b64decode(kept[0][1]["data"]["image/png"])
    assert len(picture) < 120_000
    assert np.asarray(Image.open(io.BytesIO(picture))).std() > 20


def test_tidying_keeps_pictures_alone_and_writes_the_address(tmp_path: Path) -> None:
    notebook = read(ROOT / "notebooks" / "kernels.ipynb")
    notebook.metadata["widgets"] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = 3
            cell.outputs = [nbformat.v4.new_output("stream", text="seconds")]
            cell.metadata["executionInfo"] = {"user": "somebody"}
    nbformat.write(notebook, tmp_path / "kernels.ipynb")
    address = "https://github.com/somebody/something"
    content = tidied(tmp_path / "kernels.ipynb", address)
    assert "somebody/something/blob/main/notebooks/kernels.ipynb" in content
    assert f'repository = \\"{address}\\"' in content
    (tmp_path / "kernels.ipynb").write_text(content)
    assert tidied(tmp_path / "kernels.ipynb", repository()) == (
        ROOT / "notebooks" / "kernels.ipynb"
    ).read_text(encoding="utf-8")


def test_the_install_cell_clones_and_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is missing, it fetches the repository and stands where notebooks do."""
    code = {next(c for c in read(path).cells if c.cell_type == "code").source for path in NOTEBOOKS}
    (source,) = code
    calls: list[str] = []

    class Shell:
        def system(self, line: str) -> None:
            calls.append(line)

        def run_line_magic(self, name: str, line: str) -> None:
            calls.append(f"%{name} {line}")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "nvidia-smi")
    names = {"get_ipython": Shell, "input": lambda _: "https://github.com/me/mine"}
    exec(TransformerManager().transform_cell(source), names)
    assert calls == [
        "git clone --depth 1 {repository} repository",
        '%pip install --quiet "./repository{extra}"',
        "%cd repository/notebooks",
    ]
    assert names["repository"] == (repository() or "https://github.com/me/mine")
    assert names["extra"] == "[cuda12]"
