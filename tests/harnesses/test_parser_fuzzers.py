"""The fuzzers of the parsers: what they have kept is harmless, they start, and build.sh makes OSS-Fuzz's layout."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.clock import PATIENCE, no_hang

ROOT = Path(__file__).resolve().parents[2]
PARSERS = ROOT / "harnesses" / "parsers"
FUZZERS = sorted(path.stem for path in PARSERS.glob("fuzz_*.py"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

needs_atheris = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(PARSERS))

    def module(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, PARSERS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return module


def test_there_is_one_for_each_parser() -> None:
    assert FUZZERS == [
        "fuzz_corpus_file",
        "fuzz_litmus",
        "fuzz_mitigation",
        "fuzz_plan",
        "fuzz_ptdump",
        "fuzz_scenario",
        "fuzz_settings",
    ]


@pytest.mark.product
@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_what_was_kept_is_harmless(fuzzer: str, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    module = load(fuzzer)
    if fuzzer == "fuzz_mitigation":
        module.write_files(tmp_path)
        monkeypatch.chdir(tmp_path)
    seeds = sorted((PARSERS / "seeds" / fuzzer).iterdir())
    assert seeds
    for seed in seeds:
        with no_hang():
            module.one_input(seed.read_bytes())


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_the_words_of_a_format_are_a_dictionary_of_libfuzzer(fuzzer: str) -> None:
    for line in (PARSERS / f"{fuzzer}.dict").read_text(encoding="ascii").splitlines():
        assert line.startswith("#") or re.fullmatch(r'"([^"\\]|\\["\\]|\\x[0-9A-F]{2})+"', line), line


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_lines_can_be_put_before_a_fuzzer(fuzzer: str) -> None:
    """OSS-Fuzz measures coverage so, and a future import that is not first is an error."""
    compile("import atexit\n" + (PARSERS / f"{fuzzer}.py").read_text(encoding="utf-8"), fuzzer, "exec")


@pytest.mark.product
@needs_atheris
@pytest.mark.parametrize("fuzzer", ["fuzz_mitigation", "fuzz_ptdump"])
def test_a_few_hundred_inputs(fuzzer: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PARSERS / f"{fuzzer}.py"), "-runs=200", "-seed=1", f"-timeout={PATIENCE:.0f}"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 200 runs" in done.stderr
    assert not list(tmp_path.iterdir())


@needs_atheris
def test_an_input_that_fails_is_reported_and_kept(tmp_path: Path) -> None:
    """A fuzzer whose parser is broken does not pass."""
    broken = tmp_path / "fuzz_broken.py"
    broken.write_text(
        "import os\nfrom frame import fuzz\n"
        "def one_input(data):\n    if b'AArch64' in data: raise RecursionError\n"
        "if __name__ == '__main__':\n    os.chdir('/')\n    fuzz('fuzz_litmus', one_input)\n"
    )
    done = subprocess.run(
        [sys.executable, str(broken), "-runs=500", "-seed=1", f"-timeout={PATIENCE:.0f}"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{PARSERS}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 77  # libFuzzer's status for it
    assert "RecursionError" in done.stderr + done.stdout
    assert len(list(tmp_path.glob("crash-*"))) == 1


# stands in for the one of OSS-Fuzz' image, which bundles a fuzzer with PyInstaller: the same arguments, the same output
COMPILE = """#!/bin/bash -eu
fuzzer=$1; shift
name=$(basename -s .py "$fuzzer")
echo "$name $*" >>"$OUT/../compiled"
printf '#!/bin/sh\\n# LLVMFuzzerTestOneInput\\nexec %s %s "$@"\\n' "$PYTHON" "$fuzzer" >"$OUT/$name"
chmod +x "$OUT/$name"
"""
# installs nothing: the package is there already
PYTHON = """#!/bin/bash -eu
if [ "$1 $2 $3" = "-m pip install" ]; then echo "$*" >>"$OUT/../installed"; exit; fi
exec "$PYTHON" "$@"
"""


@pytest.mark.slow
@needs_atheris
def test_build_sh_leaves_what_oss_fuzz_looks_for(tmp_path: Path) -> None:
    tools, out = tmp_path / "bin", tmp_path / "out"
    for folder in (tools, out):
        folder.mkdir()
    for name, text in (("compile_python_fuzzer", COMPILE), ("python3", PYTHON)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = ENVIRONMENT | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OUT": str(out),
        "SRC": str(ROOT.parent),
        "PYTHON": sys.executable,
    }
    build = ROOT / ".clusterfuzzlite" / "build.sh"
    assert os.access(build, os.X_OK)
    done = subprocess.run([str(build)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed").read_text() == "-m pip install .\n"
    assert [line.split()[0] for line in (tmp_path / "compiled").read_text().splitlines()] == FUZZERS

    wanted = {f"{name}{end}" for name in FUZZERS for end in ("", "_seed_corpus.zip", ".dict", ".options")}
    assert {path.name for path in out.iterdir()} == wanted
    (tmp_path / "nothing").mkdir()
    for name in FUZZERS:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)  # what ClusterFuzzLite runs
        with zipfile.ZipFile(out / f"{name}_seed_corpus.zip") as archive:
            assert archive.testzip() is None and archive.namelist()
        started = subprocess.run(
            [
                str(out / name),
                "-runs=1",
                f"-timeout={PATIENCE:.0f}",
                f"-dict={out / name}.dict",
                str(tmp_path / "nothing"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert started.returncode == 0, started.stderr[-2000:]
        assert "Done" in started.stderr and "Dictionary" in started.stderr


def test_the_files_that_clusterfuzzlite_looks_for() -> None:
    folder = ROOT / ".clusterfuzzlite"
    assert "language: python\n" in (folder / "project.yaml").read_text()
    dockerfile = (folder / "Dockerfile").read_text()
    assert "FROM gcr.io/oss-fuzz-base/base-builder-python\n" in dockerfile
    assert "COPY .clusterfuzzlite/build.sh $SRC/\n" in dockerfile
    workflow = (ROOT / ".github/workflows/clusterfuzzlite.yml").read_text()
    assert "google/clusterfuzzlite/actions/build_fuzzers@v1" in workflow and "language: python" in workflow
