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
LAYERS = ["machine", "kernel", "mitigations", "scenario"]
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


def test_generic_kernel_code_knows_no_architecture() -> None:
    for path in sorted((ROOT / "kernel").glob("*.py")) + sorted((ROOT / "mitigations").glob("*.py")):
        named = [name for name in imports(path.read_text(encoding="utf-8")) if name.startswith("fuzzvm.kernel.arch.")]
        assert not named, f"{path} imports {named}"
