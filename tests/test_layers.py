"""The model's layers stand on the standard library and on each other, downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzzvm

ROOT = Path(fuzzvm.__file__).parent
LAYERS = ["files", "supervision", "machine", "kernel", "mitigations", "scenario"]
"""From the lowest up."""
FILES = [(layer, path) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(source: str) -> Iterator[str]:
    """Yield the modules that a source imports, also those under TYPE_CHECKING and in functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from fuzzvm import kernel` imports a module as well
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "fuzzvm" else [node.module]
            )


@pytest.mark.parametrize(("layer", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_imports_are_of_the_standard_library_or_of_lower_layers(layer: str, path: Path) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name in imports(path.read_text(encoding="utf-8")):
        top, *rest = name.split(".")
        if top == "fuzzvm":
            assert rest[0] in allowed, name
        else:
            assert top in sys.stdlib_module_names, name


def test_the_check_sees_every_kind_of_import() -> None:
    source = "import a.b, c\ndef f():\n from d.e import g\nfrom fuzzvm import kernel\n"
    assert sorted(imports(source)) == ["a.b", "c", "d.e", "fuzzvm.kernel"]


def test_the_model_loads_without_any_third_party_module() -> None:
    """-S: no site-packages, so nothing but the standard library and this package can be imported."""
    modules = [".".join(("fuzzvm", *path.relative_to(ROOT).with_suffix("").parts)) for _, path in FILES]
    names = [name.removesuffix(".__init__") for name in modules]
    code = (
        f"import importlib, sys\nsys.path.insert(0, {str(ROOT.parent)!r})\n"
        f"for name in {names!r}:\n    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True)


ARCH = ROOT / "kernel" / "arch"
GENERIC = [path for path in sorted(ROOT.rglob("*.py")) if ARCH not in path.parents]
"""Every file that is not an architecture's: whoever adds one need not think of a list."""


def names_an_architecture(source: str) -> list[str]:
    """Return the architectures that a source imports, by whichever form of import."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    modules = {f"fuzzvm.kernel.arch.{path.stem}" for path in ARCH.iterdir() if path.stem.strip("_") == path.stem}
    return sorted({name for name in found if any(f"{name}.".startswith(f"{module}.") for module in modules)})


@pytest.mark.parametrize("path", GENERIC, ids=[str(path.relative_to(ROOT)) for path in GENERIC])
def test_generic_code_knows_no_architecture(path: Path) -> None:
    assert names_an_architecture(path.read_text(encoding="utf-8")) == []


def test_architectures_know_nothing_of_each_other() -> None:
    for path in sorted(ARCH.rglob("*.py")):
        own = path.relative_to(ARCH).parts[0].removesuffix(".py")
        named = names_an_architecture(path.read_text(encoding="utf-8"))
        assert [name for name in named if name.split(".")[3] != own] == [], path


@pytest.mark.parametrize(
    "source",
    [
        "import fuzzvm.kernel.arch.arm64",
        "from fuzzvm.kernel.arch import x86_64",
        "from fuzzvm.kernel.arch import DumpRow, arm64 as a",
        "from fuzzvm.kernel.arch.x86_64 import set_memory",
        "def f():\n import fuzzvm.kernel.arch.x86_64.alternative",
    ],
)
def test_the_check_sees_every_way_to_name_one(source: str) -> None:
    assert names_an_architecture(source)


def test_generic_code_may_import_the_interface() -> None:
    assert names_an_architecture("from fuzzvm.kernel import arch\nfrom fuzzvm.kernel.arch import DumpRow") == []
    names = {path.relative_to(ROOT).as_posix() for path in GENERIC}
    assert {"kernel/vmap.py", "kernel/vmalloc.py", "scenario/calls.py", "exhaustive/automaton/keys.py"} <= names
