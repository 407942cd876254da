"""What a run asks is read back with the verdict that it came from, and loses it with what makes it safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.export.aarch64 import aarch64
from fuzzvm.export.errors import ExportError
from fuzzvm.export.exported_test import Ordering, exported_test_of
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_read_unlock, mmap_write_downgrade, mmap_write_lock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.litmus import run
from fuzzvm.litmus.parser import parse
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.ops import Steps
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
"""Cases of which all states take from 5 s to minutes: three threads, or two cycles of patching."""

INSTRUCTIONS = re.compile(
    r"(LDR|LDAR|LDAPR) W\d+,\[X\d+(,X\d+)?\]|(STR|STLR) (W\d+|WZR),\[X\d+(,X\d+)?\]|MOV W\d+,#\d+"
    r"|EOR X\d+,X\d+,X\d+|ADD X\d+,X\d+,X\d+|SWPA? W\d+,W\d+,\[X\d+\]|CAS(A|L|AL)? W\d+,(W\d+|WZR),\[X\d+\]"
    r"|D[MS]B ISH(LD|ST)?|ISB|DC CVAU,X\d+|IC IVAU,X\d+|NOP|B \.\+8|L\d+:|"
)
DECLARATION = re.compile(r'\w+=\d+;|\d+:X\d+=(\w+|label:"P\d+:L\d+"|instr:"(NOP|B \.\+8)");')


def exported(path: Path) -> str:
    case = read(path)
    return aarch64(exported_test_of(case, mitigation_of(case)))


def safe_run(
    name: str,
    walker_steps: int,
    scenario: str = "pmd-promotion",
    memory: str = "arm64",
    walker: int = 1,
    promoter: int = 0,
) -> str:
    """Export the run in which the walker takes that many steps, then the promoter all it can, then the walker."""
    system = System(shipped.get(scenario), registry.get(name), memory)
    execution = execute(system.machine(), Follow([walker] * walker_steps + [promoter]))
    assert execution.failure is None
    case = TestCase(system.scenario, name, memory, execution.schedule, Expectation.of(execution))
    return aarch64(exported_test_of(case, registry.get(name)))


def test_there_are_failing_runs() -> None:
    assert len(FAILING) > 50


@pytest.mark.product
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


@pytest.mark.product
@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_failing_run_is_sometimes(path: Path) -> None:
    result = run(exported(path), path.name, speedcheck="fast")
    assert result.observation == "Sometimes"
    assert not result.cut


@pytest.mark.parametrize(
    "path", [path for path in FAILING if not LONG.search(path.name)][::8], ids=lambda path: path.stem
)
def test_failing_run_is_sometimes_of_all_its_states(path: Path) -> None:
    assert run(exported(path), path.name).observation == "Sometimes"


def test_what_is_refused_is_what_has_no_counterpart() -> None:
    """Every failing case of the corpus is exported, or is of x86_64, or fails in another way."""
    for folder in ("regressions", "necessity"):
        for path in sorted((CORPUS / folder).glob("*.toml")):
            case = read(path)
            if case.expect.verdict == "bug" and path not in FAILING:
                assert case.scenario.arch == "x86_64" or "use-after-free" not in (case.expect.error or "")


SCENARIOS = ["pmd-promotion", "pud-promotion", "two-walkers", "five-levels", "contpte"]


@pytest.mark.product
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["static-key", "mmap-lock-always", "vmap-trylock", "rcu-free"])
def test_safe_runs_are_never(name: str, scenario: str) -> None:
    """However far the walker comes before the promoter runs: whatever there is to ask, the answer is no."""
    data = shipped.get(scenario).to_data()["cpus"]
    walks = ["cat_kernel_page_tables" in str(calls) for calls in data]
    walker, promoter = walks.index(True), walks.index(False)
    asked = set()
    for steps in range(60):
        try:
            text = safe_run(name, steps, scenario, "sc", walker, promoter)
        except ExportError:
            continue
        except ScheduleError:
            break  # the walk has ended
        asked.add(text.partition("\n{\n")[2])
    assert asked
    for text in asked:
        result = run(f"AArch64 safe\nVariant=Ifetch\n{{\n{text}", name, speedcheck="fast")
        assert result.observation == "Never" and not result.cut


def test_safe_run_is_never_of_all_its_states() -> None:
    for name, walker_steps in (("static-key", 35), ("mmap-lock-always", 2)):
        assert run(safe_run(name, walker_steps), name).observation == "Never"


def test_what_two_threads_update_is_said_to_be_in_one_order() -> None:
    (path,) = [path for path in FAILING if path.stem.endswith("94066f1c77ac")]
    text = exported(path)
    said = set(re.findall(r"^\(\* (\w+): updated in the order of the run, by CAS", text, re.MULTILINE))
    assert said and all(text.count(f"={place};") > 1 for place in said)
    assert "by CAS" not in safe_run("mmap-lock-always", 2)


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize(
    ("name", "walker_steps"), [("static-key", 23), ("static-key", 35), ("mmap-lock-always", 2), ("vmap-trylock", 11)]
)
def test_safe_run_is_never(name: str, walker_steps: int, memory: str) -> None:
    assert run(safe_run(name, walker_steps, memory=memory), name, "fast").observation == "Never"


def test_the_merged_scheme_is_what_the_test_of_the_commit_says() -> None:
    commit = (CORPUS / "litmus" / "ptdump" / "ptdump.litmus").read_text(encoding="utf-8")
    mine = safe_run("static-key", 23)
    assert run(mine, "mine", "fast").observation == run(commit, "commit").observation == "Never"
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
    assert run(changed, name, "fast").observation == "Sometimes"


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
        exported_test_of(case, registry.get("none"))


class Downgrades(Mitigation):
    """The free keeps everybody away up to the clear, and writers after it."""

    name = "downgrades"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_write_lock(k, k.init_mm)

    def before_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_write_downgrade(k, k.init_mm)

    def after_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


def test_a_lock_that_is_downgraded_has_no_counterpart() -> None:
    system = System(shipped.get("pmd-promotion"), Downgrades, "sc")
    execution = execute(system.machine(), Follow([1]))
    assert execution.failure is None
    case = TestCase(system.scenario, "downgrades", "sc", execution.schedule, Expectation.of(execution))
    with pytest.raises(ExportError, match=r"init_mm_mmap_lock is downgraded"):
        exported_test_of(case, Downgrades)


def test_no_thread_begins_or_ends_with_a_barrier() -> None:
    case = read(FAILING[-1])
    for thread in exported_test_of(case, mitigation_of(case)).threads:
        assert not isinstance(thread[0], Ordering) and not isinstance(thread[-1], Ordering)
