"""What a patch series touches: files whose code changes, and the functions of the model among them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.files.reading import read_bytes
from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild.c_functions import definitions, digest, same_code
from fuzzvm.kbuild.changed_functions import ChangedFunction, changed_functions
from fuzzvm.kbuild.modelled import MAX_FILE_BYTES, Modelled, modelled
from fuzzvm.kbuild.patches import Patch

CODE = (".c", ".h", ".S")


@dataclass(frozen=True)
class Touched:
    """What a series does to a tree.

    `changed` are the files of which more than comments and white space changes, `same` those of which no more does;
    both relative to the tree. `functions` are the functions that the kernel model stands for and that it changes,
    `bodies` are all functions of C that it changes.
    """

    changed: tuple[str, ...]
    same: tuple[str, ...]
    functions: tuple[Modelled, ...]
    bodies: tuple[ChangedFunction, ...] = ()


def touched(tree: Path, series: Sequence[Patch], outside: Sequence[str] = ()) -> Touched:
    """Return what a series touches; `outside` are files of which it has no patch, which count as changed.

    Raises KbuildError where it does not apply; the tree is not written to.
    """
    names = sorted({name for patch in series for name in patch.files})
    with tempfile.TemporaryDirectory(prefix="fuzzvm-check-") as folder:
        after = Path(folder)
        for name in names:
            (after / name).parent.mkdir(parents=True, exist_ok=True)
            if (tree / name).is_file():
                shutil.copyfile(tree / name, after / name)
        patching.apply(series, after)
        texts = {name: (_text(tree / name), _text(after / name)) for name in names}
    changed = tuple(name for name, (old, new) in texts.items() if not _alike(name, old, new))
    return Touched(
        (*changed, *outside),
        tuple(name for name in names if name not in changed),
        tuple(
            function
            for function in modelled()
            if function.file in changed and len({_digest(text, function.name) for text in texts[function.file]}) > 1
        ),
        tuple(
            one
            for name in changed
            if name.endswith((".c", ".h"))
            for one in changed_functions(name, texts[name][0] or "", texts[name][1] or "")
        ),
    )


def _text(path: Path) -> str | None:
    return read_bytes(path, MAX_FILE_BYTES).decode("utf-8", "replace") if path.is_file() else None


def _alike(name: str, old: str | None, new: str | None) -> bool:
    """Return whether a file is the same to a compiler, before and after."""
    if old is None or new is None:
        return old == new
    return same_code(old, new) if name.endswith(CODE) else old == new


def _digest(text: str | None, function: str) -> str:
    return digest(definitions(text or "", function))
