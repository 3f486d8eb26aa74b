"""Rules about the repository as a whole: imports, docstrings, examples, portable text."""

import ast
import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mbu_jax", "triton_kernels", "experiments")

# A module may reach none of these, directly or through other modules of ours.
NEVER_REACHES = {
    "mbu_jax": ("experiments",),
    "triton_kernels": ("jax", "jaxlib", "flax", "jax_triton"),
    "mbu_jax.errors": ("jax", "flax", "numpy"),
    "mbu_jax.architecture": ("jax", "flax", "numpy"),
    "mbu_jax.masking": ("jax", "flax", "numpy"),
    "mbu_jax.quantizers": (
        "flax",
        *("mbu_jax." + name for name in ("layers", "unet", "masking", "data", "train")),
    ),
    "mbu_jax.layers": ("mbu_jax.unet", "mbu_jax.masking", "mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.unet": ("mbu_jax.data", "mbu_jax.train", "mbu_jax.ops", "mbu_jax.inference"),
    "mbu_jax.activations": ("mbu_jax.ops", "mbu_jax.inference", "mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.files": ("jax", "flax", "numpy"),
    "mbu_jax.data": ("flax", "optax"),
    "mbu_jax.saving": ("mbu_jax.ops", "mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.inference": ("mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.predict": ("mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.train": ("mbu_jax.ops", "mbu_jax.inference"),
    "mbu_jax.packing": ("mbu_jax.ops", "mbu_jax.inference", "mbu_jax.data", "mbu_jax.train"),
    "mbu_jax.ops": ("mbu_jax.inference", "mbu_jax.data", "mbu_jax.train"),
}
# Of our own modules, these reach themselves and the ones listed, nothing else.
ONLY_REACHES = {
    "mbu_jax.errors": (),
    "mbu_jax.architecture": ("mbu_jax.errors",),
    "mbu_jax.masking": ("mbu_jax.architecture", "mbu_jax.errors"),
    "mbu_jax.data": ("mbu_jax.errors", "mbu_jax.files"),
    "triton_kernels": (),
}
ACCELERATOR_ONLY = ("triton", "jax_triton", "triton_kernels")


def source_files(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ours by dotted name; tests that lie beside their subject are not modules."""
    files = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name.startswith("test_") or path.name.endswith("_test.py"):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_by(module: str, files: dict[str, Path]) -> set[str]:
    """Dotted names that a module imports anywhere in it, inside functions as well."""
    path = files[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                names.add(submodule if submodule in files else base)
    return names


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violations(files: dict[str, Path]) -> list[str]:
    """Every broken import rule, as a chain of modules that shows how it is broken."""
    direct = {module: imported_by(module, files) for module in files}
    found = []
    for start in files:
        chains: dict[str, tuple[str, ...]] = {start: (start,)}
        queue = [start]
        while queue:
            module = queue.pop()
            for name in sorted(direct.get(module, ())):
                if name not in chains:
                    chains[name] = (*chains[module], name)
                    queue.append(name)
        for owner, forbidden in NEVER_REACHES.items():
            if inside(start, owner):
                found += [
                    " -> ".join(chain)
                    for name, chain in chains.items()
                    if any(inside(name, other) for other in forbidden)
                ]
        for owner, allowed in ONLY_REACHES.items():
            if inside(start, owner):
                found += [
                    " -> ".join(chain)
                    for name, chain in chains.items()
                    if any(inside(name, package) for package in PACKAGES)
                    and not any(inside(name, other) for other in (owner, *allowed))
                ]
        if inside(start, "mbu_jax"):
            # Importing the package from within would reach everything at once.
            found += [f"{start} -> mbu_jax" for name in direct[start] if name == "mbu_jax"]
            if not inside(start, "mbu_jax.ops"):
                found += [
                    f"{start} -> {name}"
                    for name in direct[start]
                    if any(inside(name, other) for other in ACCELERATOR_ONLY)
                ]
    return found


def test_imports_point_one_way() -> None:
    broken = violations(source_files())
    assert not broken, "\n".join(broken)


def test_the_modules_that_the_rules_name_exist() -> None:
    files = source_files()
    for name in ("errors", "architecture", "masking", "quantizers", "layers", "unet"):
        assert f"mbu_jax.{name}" in files
    assert {"mbu_jax.data", "mbu_jax.train", "triton_kernels", "experiments"} <= set(files)


@pytest.mark.parametrize(
    ("path", "line", "chain"),
    [
        ("mbu_jax/quantizers.py", "from mbu_jax.layers import X", "mbu_jax.layers"),
        ("mbu_jax/quantizers.py", "from mbu_jax import layers", "mbu_jax.layers"),
        ("mbu_jax/quantizers.py", "from .layers import X", "mbu_jax.layers"),
        ("mbu_jax/quantizers.py", "from . import layers", "mbu_jax.layers"),
        ("mbu_jax/quantizers.py", "def f():\n    import mbu_jax.layers", "mbu_jax.layers"),
        ("mbu_jax/quantizers.py", "import mbu_jax", "mbu_jax"),
        ("mbu_jax/train/loop.py", "from mbu_jax.ops.conv import api", "mbu_jax.ops.conv.api"),
        ("mbu_jax/data/__init__.py", "from ..unet import UNet", "mbu_jax.unet"),
        ("mbu_jax/layers.py", "import triton.language as tl", "triton.language"),
        ("mbu_jax/layers.py", "from triton_kernels import x", "triton_kernels"),
        ("mbu_jax/layers.py", "import experiments.train", "experiments.train"),
        ("triton_kernels/__init__.py", "import jax.numpy as jnp", "jax.numpy"),
        ("mbu_jax/masking.py", "from flax import nnx", "flax"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, path: str, line: str, chain: str) -> None:
    for name in ("layers", "quantizers", "masking", "unet", "ops/conv/api"):
        (tmp_path / "mbu_jax" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mbu_jax" / f"{name}.py").write_text("import math\n")
    assert violations(source_files(tmp_path)) == []
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(line + "\n")
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert f"{module} -> {chain}" in violations(source_files(tmp_path))


def test_an_indirect_breach_is_found(tmp_path: Path) -> None:
    package = tmp_path / "mbu_jax"
    package.mkdir()
    (package / "masking.py").write_text("from mbu_jax import costs\n")
    (package / "costs.py").write_text("import jax\n")
    assert violations(source_files(tmp_path)) == [
        "mbu_jax.masking -> mbu_jax.costs -> jax",
        "mbu_jax.masking -> mbu_jax.costs",
    ]


def test_the_public_package_only_re_exports() -> None:
    for node in parse(ROOT / "mbu_jax/__init__.py").body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_docstring or is_names or isinstance(node, ast.ImportFrom), ast.unparse(node)


def test_the_public_names_are_all_there() -> None:
    package = importlib.import_module("mbu_jax")
    assert package.__all__
    assert sorted(set(package.__all__)) == sorted(package.__all__)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_triton_kernels_is_ours() -> None:
    """Triton's own repository has a package of this name too."""
    spec = importlib.util.find_spec("triton_kernels")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == (ROOT / "triton_kernels/__init__.py").resolve()


IMPORT_EVERYTHING_WITHOUT = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())

def fail(name):
    raise

import mbu_jax, experiments
for package in (mbu_jax, experiments):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", fail):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_the_library_imports_without_triton_tensorflow_and_torch() -> None:
    absent = {"triton", "jax_triton", "tensorflow", "torch"}
    result = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c",
         IMPORT_EVERYTHING_WITHOUT.replace("{absent}", repr(absent))],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    ours = {name for name in source_files() if not inside(name, "triton_kernels") and "." in name}
    assert ours <= set(result.stdout.split())


type Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions(
    body: list[ast.stmt], prefix: str = ""
) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public classes, functions and methods (``__call__`` among them), with dotted names."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public_definitions([*node.body, *node.orelse], prefix)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") and node.name != "__call__":
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def missing_in_docstring(node: ast.ClassDef | Function) -> str | None:
    """Say what the house style asks of a docstring and this one lacks, or None."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    # An override is documented where it is declared.
    if "override" in decorators:
        return None
    docstring = ast.get_docstring(node)
    if not docstring:
        return "no docstring"
    if isinstance(node, ast.ClassDef):
        return None
    a = node.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg]
    arguments = [name for name in names if name not in ("self", "cls")]
    # A property has nothing to list.
    if decorators & {"property", "cached_property"} or not arguments:
        return None
    sections = set(re.findall(r"^(Args|Returns|Yields):$", docstring, re.MULTILINE))
    if "Args" not in sections:
        return "no Args section"
    absent = [name for name in arguments if not re.search(rf"^ +\**{name}\b.*:", docstring, re.M)]
    if absent:
        return f"Args without {', '.join(absent)}"
    returns_something = node.returns is not None and ast.unparse(node.returns) != "None"
    if returns_something and not sections & {"Returns", "Yields"}:
        return "no Returns section"
    return None


def is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))


def test_public_names_have_the_docstrings_that_the_style_asks() -> None:
    bad = []
    for module, path in source_files().items():
        if not inside(module, "mbu_jax") or is_private(module):
            continue
        for name, node in public_definitions(parse(path).body):
            if lack := missing_in_docstring(node):
                bad.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}: {lack}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("source", "lack"),
    [
        ("def f(): pass", "no docstring"),
        ("def f() -> int:\n '''One.'''", None),
        ("def f(x):\n '''One.'''", "no Args section"),
        ("def f(x, *, y):\n '''One.\n\n Args:\n   x: a.\n '''", "Args without y"),
        ("def f(x) -> int:\n '''One.\n\n Args:\n   x: a.\n '''", "no Returns section"),
        ("@override\ndef f(x) -> int: pass", None),
        ("def f(x) -> None:\n '''One.\n\n Args:\n   x: a.\n '''", None),
        ("def f(x) -> int:\n '''One.\n\n Args:\n   x: a.\n\n Returns:\n   b.\n '''", None),
    ],
)
def test_a_poor_docstring_is_found(source: str, lack: str | None) -> None:
    ((_, node),) = public_definitions(ast.parse(source).body)
    assert missing_in_docstring(node) == lack


def modules_with_examples() -> list[str]:
    return [name for name, path in source_files().items() if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docstrings are read from the source: doctest's finder passes over wrapped functions."""
    if inside(module, "triton_kernels"):
        pytest.importorskip("triton")
    monkeypatch.chdir(tmp_path)
    names = vars(importlib.import_module(module))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    report: list[str] = []
    for node in ast.walk(parse(source_files()[module])):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring and ">>> " in docstring:
            name = f"{module}.{getattr(node, 'name', '')}"
            test = doctest.DocTestParser().get_doctest(docstring, dict(names), name, None, None)
            runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
    assert runner.tries > 0


def test_no_example_is_skipped() -> None:
    skipped = [
        str(path.relative_to(ROOT))
        for path in source_files().values()
        if "doctest: +SKIP" in path.read_text("utf-8")
    ]
    assert not skipped, "\n".join(skipped)


def tracked_text() -> dict[str, str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    texts = {}
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                texts[name] = content.decode("utf-8", errors="replace")
    return texts


# Assembled, so that this file passes its own test.
MACHINE_PATH = re.compile(
    r"(?<![\w.~}\-])/(?:" + "|".join(("work", "root", "home", "Users")) + ")/"
)


def test_no_text_names_a_directory_of_one_machine() -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_text().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("directory", ["work", "root", "home"])
def test_a_path_of_one_machine_is_found(directory: str) -> None:
    assert MACHINE_PATH.search(f"see /{directory}/somebody/file")
    assert not MACHINE_PATH.search(f"https://example.org/{directory}/page")


def test_the_lock_file_names_the_public_registry_alone() -> None:
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r'registry = "([^"]*)"', lock)) == {"https://pypi.org/simple"}
    hosts = set(re.findall(r'url = "(https?://[^/"]*)', lock))
    assert hosts == {"https://files.pythonhosted.org"}


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert importlib.import_module("mbu_jax").__version__ == project["version"]
