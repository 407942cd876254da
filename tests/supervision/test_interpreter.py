"""Further Pythons: they look for modules where this one does, and not where the command happens to be given."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from fuzzvm.supervision.interpreter import environment, python

ROOT = Path(__file__).resolve().parents[2]


def test_the_current_folder_is_not_looked_in(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("print('it ran')")
    for arguments in (("-c", "import json, fuzzvm"), ("-m", "json.tool", "--help")):
        done = subprocess.run(
            python(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        )
        assert "it ran" not in done.stdout


def test_no_other_module_starts_one() -> None:
    starting = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "fuzzvm").rglob("*.py"))
        if re.search(r"sys\.executable", path.read_text(encoding="utf-8"))
    ]
    # threads.py runs a program that it has written itself, by its path
    assert starting == ["fuzzvm/bench/threads.py", "fuzzvm/supervision/interpreter.py"]
