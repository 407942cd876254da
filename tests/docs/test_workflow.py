"""The GitHub Actions example of docs/check.md: it is YAML, and its steps end as the statuses of a check say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_pages import ROOT

yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed (pip install pyyaml)")

FAKE = """\
#!/bin/sh
while [ $# -gt 0 ] && [ "$1" != --mail ]; do shift; done
[ "$STATUS" = 2 ] || echo Subject: > "$2"
exit "$STATUS"
"""


def steps() -> list[dict[str, Any]]:
    text = (ROOT / "docs/check.md").read_text()
    workflow = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    # "on" is a boolean of YAML 1.1
    assert workflow.keys() == {True, "jobs"}
    (job,) = workflow["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_every_step_runs_or_uses_something() -> None:
    assert all(("run" in step) != ("uses" in step) for step in steps())


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 1), (2, 2), (125, 0)])
def test_the_check_ends_as_it_says(tmp_path: Path, status: int, ends: int) -> None:
    (script,) = (step["run"] for step in steps() if "fuzzvm check" in step.get("run", ""))
    (tmp_path / "fuzzvm").write_text(FAKE)
    (tmp_path / "fuzzvm").chmod(0o755)
    # as GitHub runs it
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATUS": str(status)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ends, done.stderr
    assert ("::warning::" in done.stdout) == (status == 125)
    assert (tmp_path / "check.txt").exists() == (status != 2)
