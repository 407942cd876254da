"""Commands that stand in indented blocks: those with a `$` are run and compared, all others are at least commands.

`test_pages` has the fenced blocks. A block here that shows output begins with `    $ `.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fuzzvm.cli.main import cli
from tests.docs.test_pages import DOCS, PAGES, ROOT, Command, run, shape, steps
from tests.dump import samples

README = ROOT / "README.md"
SHOWN = [README, ROOT / "CONTRIBUTING.md", *PAGES]
STATUS = {"fuzzvm fuzz -m none": 1, "fuzzvm explain": 0, "fuzzvm verify": 0, "fuzzvm ptdump": 0}
"""How the commands end that show their output in an indented block, by how they begin."""


def indented(text: str) -> list[Command]:
    """Return the commands of indented blocks that begin with `$`, each with the lines below it.

    `...` stands for lines that are not shown.
    """
    found: list[Command] = []
    below = False
    for line in text.splitlines():
        if line.startswith("    $ "):
            status = next(status for start, status in STATUS.items() if line[6:].startswith(start))
            found.append(Command(line[6:], (), status))
            below = True
        elif line.strip() and not line.startswith("    "):
            below = False
        elif line.strip() and line != "    ..." and below:
            found[-1] = found[-1]._replace(output=(*found[-1].output, line[4:]))
    return found


@pytest.mark.parametrize("page", [README, DOCS / "ptdump.md"], ids=lambda page: page.name)
def test_what_is_shown_comes_out(page: Path, tmp_path: Path) -> None:
    (tmp_path / "dump.txt").write_text(samples.ARM64, encoding="utf-8")
    commands = indented(page.read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        # a bug is found at once, or never: the ten seconds that the page shows are for the reader
        status, output = run(command._replace(line=command.line.replace("--seconds 10", "--seconds 2")), tmp_path)
        assert status == command.status, output
        printed = [shape(line) for line in output.splitlines()]
        for line in command.output:
            assert shape(line) in printed, f"{command.line}\nhas no line {line!r}:\n{output}"


def test_no_sample_is_passed_over() -> None:
    """Every line that begins with `$` in any page belongs to a command that is run."""
    for page in SHOWN:
        if page in (DOCS / "real-kernel.md", DOCS / "compiled.md"):
            # kernels, sources of them and QEMU are not there; `tox -e kernel` and tests/cli/test_image.py run the like
            continue
        text = page.read_text(encoding="utf-8")
        there = len(re.findall(r"^\s*\$ ", text, re.MULTILINE))
        fenced = [step for step in steps(text) if isinstance(step, Command)] if page != README else []
        assert there == len(fenced) + len(indented(text)), page
        assert not indented(text) or page in (README, DOCS / "ptdump.md"), f"{page}: nobody runs its indented samples"


def mentioned(text: str) -> set[str]:
    """Return every `fuzzvm …` of an indented line or of inline code, without what stands behind it as a comment."""
    lines = re.findall(r"^    (?:\$ )?(fuzzvm .*)$", text, re.MULTILINE)
    lines += [" ".join(span.split()) for span in re.findall(r"`(fuzzvm [^`]*)`", text)]
    return {re.split(r"\s{2,}|\s#", part)[0] for line in lines for part in line.split(" && ")}


def check(line: str) -> None:
    """Raise click.UsageError where there is no such command, or it has no such option."""
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    if words[0].startswith("-") or words[0].isupper():
        return  # an option of `fuzzvm` itself, or a word that stands for any command
    context = click.Context(cli)
    for name in words[0].split("|"):
        command = cli.get_command(context, name)
        if command is None:
            raise click.UsageError(f"no command {name}")
        rest = words[1:]
        if isinstance(command, click.Group) and rest and (rest[0].islower() and rest[0].isalpha()):
            command = command.get_command(context, rest[0])
            if command is None:
                raise click.UsageError(f"no command {name} {rest[0]}")
            rest = rest[1:]
        arguments = [word.split("|")[0].strip("[]…") for word in rest]
        given = [word for word in arguments if word.startswith("-")]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help",
            "-h",
        }
        for option in given:
            if option.partition("=")[0] not in known:
                raise click.UsageError(f"{name} has no option {option}")


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_mentioned_is_a_command_with_such_options(page: Path) -> None:
    for line in sorted(mentioned(page.read_text(encoding="utf-8"))):
        check(line)


def test_a_command_that_is_none_is_found() -> None:
    check("fuzzvm verify -m none --memory sc")
    check("fuzzvm kernel build --tree linux --arch arm64")
    for line in (
        "fuzzvm verify --no-such-option",
        "fuzzvm nonesuch",
        "fuzzvm kernel nonesuch",
        "fuzzvm corpus add --tree",
    ):
        assert line in mentioned(f"    {line}   what it does\n") and line in mentioned(f"so `{line}` it is")
        with pytest.raises(click.UsageError):
            check(line)


def completed(shell: str, variables: dict[str, str], folder: Path) -> str:
    """Run `fuzzvm`, by that name, as a shell does that asks for completions."""
    program = folder / "fuzzvm"
    program.write_text(f"#!{sys.executable}\nfrom fuzzvm.cli.main import main\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        [program], env=environment | {"_FUZZVM_COMPLETE": shell}, capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """What the page on commands says to evaluate is a script of that shell, and commands and options are completed."""
    assert f"_FUZZVM_COMPLETE={shell}_source fuzzvm" in (DOCS / "commands.md").read_text(encoding="utf-8")
    script = completed(f"{shell}_source", {}, tmp_path)
    assert "_FUZZVM_COMPLETE" in script
    if found := shutil.which(shell):
        assert subprocess.run([found, "-n"], input=script, text=True, check=False, capture_output=True).returncode == 0
    word = {"COMP_WORDS": "fuzzvm ver", "COMP_CWORD": "ver" if shell == "fish" else "1"}
    assert "verify" in completed(f"{shell}_complete", word, tmp_path)
    option = {"COMP_WORDS": "fuzzvm verify --pre", "COMP_CWORD": "--pre" if shell == "fish" else "2"}
    assert "--preemptions" in completed(f"{shell}_complete", option, tmp_path)


def test_bash_completes_once_the_script_is_read(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    completed("bash_source", {}, tmp_path)  # writes the program
    asked = (
        'eval "$(_FUZZVM_COMPLETE=bash_source fuzzvm)"; COMP_WORDS=(fuzzvm necess); COMP_CWORD=1; '
        '_fuzzvm_completion fuzzvm; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run([bash, "-c", asked], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "necessity", ran.stderr
