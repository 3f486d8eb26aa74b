"""Make the notebooks ready for the repository: python notebooks/tidy.py.

Outputs go, but for the picture of a cell that is tagged ``keep-output``: execute the notebook and
save it first to renew that one. Badges and install cells get the repository's address, once
``[project.urls]`` in ``pyproject.toml`` has one as ``Repository``.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat

HERE = Path(__file__).parent
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_BADGE = re.compile(r"^\[!\[Open in Colab\].*$", re.MULTILINE)
_ADDRESS = re.compile(r'^repository = ".*"$', re.MULTILINE)


def main() -> None:
    """Tidy all of them, in place."""
    address = repository()
    for path in sorted(HERE.glob("*.ipynb")):
        path.write_text(tidied(path, address), encoding="utf-8")


def repository() -> str:
    """Look the repository's address up.

    Returns:
      Such as ``https://github.com/OWNER/NAME``, or nothing while it has none.
    """
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").rstrip("/")


def tidied(path: Path, address: str) -> str:
    """Tidy one notebook.

    Args:
      path: the notebook; it stays as it is.
      address: of the repository, or nothing.

    Returns:
      The content that its file should have.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = _pictures(cell.outputs) if "keep-output" in tags else []
            cell.source = _ADDRESS.sub(f'repository = "{address}"', cell.source)
        else:
            cell.source = _BADGE.sub(badge(path.name, address), cell.source)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def badge(name: str, address: str) -> str:
    """Write the badge that opens a notebook in Colab.

    Args:
      name: of the notebook's file.
      address: of the repository; without one Colab asks where the notebook is.

    Returns:
      Markdown.
    """
    place = address.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}"
    if place:
        link += f"/blob/main/notebooks/{name}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"


def _pictures(outputs: list[Any]) -> list[Any]:
    shown = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    return [
        nbformat.v4.new_output("display_data", data={"image/png": picture, "text/plain": "picture"})
        for picture in shown
    ]


if __name__ == "__main__":
    main()
