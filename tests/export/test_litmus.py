"""What a run asks is read back with the verdict that it came from, and loses it with what makes it safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.export.aarch64 import aarch64
from fuzzvm.export.errors import ExportError
from fuzzvm.export.question import Ordering, question_of
from fuzzvm.litmus import run
from fuzzvm.litmus.parser import parse
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.support import Follow

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
FAILING = [
    path
    for folder in ("regressions", "necessity")
    for path in sorted((CORPUS / folder).glob("*use-after-free*.toml"))
    if 'arch = "arm64"' in path.read_text(encoding="utf-8")
]
LONG = re.compile(r"deferred-free-|static-key-enable-|-4b4046f7d971")
"""Cases that take our own explorer from 5 s to minutes: three threads, or two cycles of patching."""

INSTRUCTIONS = re.compile(
    r"(LDR|LDAR|LDAPR) W\d+,\[X\d+(,X\d+)?\]|(STR|STLR) (W\d+|WZR),\[X\d+(,X\d+)?\]|MOV W\d+,#\d+"
    r"|EOR X\d+,X\d+,X\d+|ADD X\d+,X\d+,X\d+|SWPA? W\d+,W\d+,\[X\d+\]|CAS(A|L|AL)? W\d+,(W\d+|WZR),\[X\d+\]"
    r"|D[MS]B ISH(LD|ST)?|ISB|DC CVAU,X\d+|IC IVAU,X\d+|NOP|B \.\+8|L\d+:|"
)
DECLARATION = re.compile(r'\w+=\d+;|\d+:X\d+=(\w+|label:"P\d+:L\d+"|instr:"(NOP|B \.\+8)");')


def exported(path: Path) -> str:
    case = read(path)
    return aarch64(question_of(case, mitigation_of(case)))


def safe_run(name: str, walker_steps: int, scenario: str = "pmd-promotion", memory: str = "arm64") -> str:
    """Export the run in which the walker takes that many steps, then the promoter all it can, then the walker."""
    system = System(shipped.get(scenario), registry.get(name), memory)
    execution = execute(system.machine(), Follow([1] * walker_steps + [0]))
    assert execution.failure is None
    case = TestCase(system.scenario, name, memory, execution.schedule, Expectation.of(execution))
    return aarch64(question_of(case, registry.get(name)))


def test_there_are_failing_runs() -> None:
    assert len(FAILING) > 50


@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_text_is_what_herd7_documents(path: Path) -> None:
    text = exported(path)
    test = parse(text)
    assert test.quantifier == "exists" and len(test.threads) >= 2
    head, _, rest = text.partition("\n{\n")
    declarations, _, rest = rest.partition("\n}\n")
    title, *comments = head.splitlines()
    assert re.fullmatch(r"AArch64 [A-Za-z0-9-]+", title)
    for line in comments:
        assert line == "Variant=Ifetch" or re.fullmatch(r"\(\*((?!\*\)).)*\*\)", line)
    for line in declarations.splitlines():
        assert DECLARATION.fullmatch(line), line
    *rows, condition = rest.splitlines()
    for row in rows[1:]:
        assert row.endswith(" ;")
        for cell in row[:-1].split("|"):
            assert INSTRUCTIONS.fullmatch(cell.strip()), cell
    assert re.fullmatch(r"exists \(\d+:X\d+=\d+( /\\ \d+:X\d+=\d+)*\)", condition)
    # what a comment calls a site, herd7 fetches
    assert ("Variant=Ifetch" in text) == ("instr:" in text or "label:" in text)


@pytest.mark.parametrize("path", [path for path in FAILING if not LONG.search(path.name)], ids=lambda path: path.stem)
def test_failing_run_is_sometimes(path: Path) -> None:
    result = run(exported(path), path.name)
    assert result.observation == "Sometimes"
    assert not result.cut


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize(
    ("name", "walker_steps"), [("static-key", 23), ("static-key", 35), ("mmap-lock-always", 2), ("vmap-trylock", 11)]
)
def test_safe_run_is_never(name: str, walker_steps: int, memory: str) -> None:
    assert run(safe_run(name, walker_steps, memory=memory), name).observation == "Never"


def test_the_merged_scheme_is_what_the_test_of_the_commit_says() -> None:
    commit = (CORPUS / "litmus" / "ptdump" / "ptdump.litmus").read_text(encoding="utf-8")
    mine = safe_run("static-key", 23)
    assert run(mine, "mine").observation == run(commit, "commit").observation == "Never"
    for what in ("IC IVAU", "DC CVAU", "SWPA", 'instr:"'):
        assert what in mine and what in commit


@pytest.mark.parametrize(
    ("name", "walker_steps", "what", "instead"),
    [
        ("mmap-lock-always", 2, r"SWPA? (W\d+),(W\d+),\[X\d+\]", r"MOV \2,#0"),
        ("vmap-trylock", 11, r"SWPA? (W\d+),(W\d+),\[X\d+\]", r"MOV \2,#0"),
        ("static-key", 23, r"SWPA? (W\d+),(W\d+),\[X\d+\]", r"MOV \2,#0"),
        ("static-key", 35, r"IC IVAU,X\d+", "NOP"),
    ],
)
def test_without_what_makes_it_safe_it_is_sometimes(name: str, walker_steps: int, what: str, instead: str) -> None:
    text = safe_run(name, walker_steps)
    changed, count = re.subn(what, instead, text)
    assert count
    assert run(changed, name).observation == "Sometimes"


def test_sliced_away_is_no_ordering() -> None:
    """The release of a lock that only the walker takes in this run orders its read before it patches the key off."""
    text = safe_run("static-key", 35)
    walker = [row[:-1].split("|")[1].strip() for row in text.splitlines() if row.endswith(" ;")]
    read = next(index for index, code in enumerate(walker) if re.fullmatch(r"LDR W\d+,\[X\d+,X\d+\]", code))
    assert any(code.startswith("STLR") for code in walker[read:])


def test_what_has_no_counterpart_is_said() -> None:
    for name, why in (("static-key-tlb-conflict", "tlb-conflict is no question"), ("config-off", "x86_64")):
        with pytest.raises(ExportError, match=why):
            exported(next(iter(sorted((CORPUS / "regressions").glob(f"{name}*.toml")))))
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")
    execution = execute(system.machine(), Follow([0]))
    case = TestCase(system.scenario, "none", "sc", execution.schedule, Expectation.of(execution))
    with pytest.raises(ExportError, match="nothing to ask"):
        question_of(case, registry.get("none"))


def test_no_thread_begins_or_ends_with_a_barrier() -> None:
    case = read(FAILING[-1])
    for thread in question_of(case, mitigation_of(case)).threads:
        assert not isinstance(thread[0], Ordering) and not isinstance(thread[-1], Ordering)
