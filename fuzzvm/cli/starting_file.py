"""The file that a mitigation of one's own starts from: every hook there is, with what it surrounds."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

from fuzzvm.kernel.hooks import Mitigation

_HEAD = '''\
"""{name}: say in one line what this scheme does.

Is there a schedule that makes ptdump touch a freed table?   fuzzvm verify --mitigation {path}:{cls}
Look for one longer, and under weaker memory:                fuzzvm fuzz --mitigation {path}:{cls} --seconds 60
Which barriers does it need?                                 fuzzvm necessity --mitigation {path}:{cls}

Hooks are generators: each yields operations of fuzzvm.machine.ops, or calls kernel functions with `yield from`, and
runs on the CPU that is there. One object serves all CPUs, so no hook keeps in `self` what changes during a run; what
belongs to one teardown or one walk goes from its first hook to the later ones as `token`.
"""

from __future__ import annotations

from typing import Any

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Address, Barrier, Fence, Free, Load, Order, Rmw, Steps, Store


class {cls}(Mitigation):
    """Why can no walker touch a freed table? It can as it stands: no hook does anything yet."""

    name = "{name}"
    summary = "what `fuzzvm mitigations` would say of it"
    # what it claims; without a claim, `fuzzvm verify` expects it to be safe
    # one_walker = "safe"
    # two_walkers = "safe"
    # what never happens under it; else a verdict in which that happens in no schedule is called vacuous
    # gives_up = frozenset({{"promotion", "table-freed", "walked-table-freed"}})

    # Take out of the comments what the scheme needs.
'''


def starting_file(name: str, path: str | None = None) -> tuple[str, str, str]:
    """Return module name, class name and text of the file for a mitigation of that name.

    `path` is how the text names the file itself; `./MODULE.py` where it is left out.

    `name` is words in lower case joined by dashes, underscores or blanks, or a class's name. Raises ValueError for
    anything else.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_ ][A-Za-z0-9]+)*", name):
        raise ValueError(f"{name!r} is no name for a mitigation: letters and digits, words joined by dashes")
    cls = "".join(word[0].upper() + word[1:] for word in words)
    module = "_".join(words).lower()
    shown = (path or f"./{module}.py").replace("\\", "\\\\").replace('"', '\\"')
    text = _HEAD.format(name=module.replace("_", "-"), path=shown, cls=cls)
    return module, cls, text + "".join(f"\n{_commented(hook)}\n" for hook in hooks())


def hooks() -> list[str]:
    """Return the source of every hook of the base class, in its order there."""
    source = textwrap.dedent(inspect.getsource(Mitigation))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    # what is decorated is asked of the class, and is no hook
    methods = [node for node in definition.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
    found = [ast.get_source_segment(source, node, padded=True) for node in methods]
    return [segment for segment in found if segment is not None]


def _commented(code: str) -> str:
    lines = textwrap.indent(textwrap.dedent(code), "    ").splitlines()
    return "\n".join(f"    # {line[4:]}".rstrip() for line in lines)
