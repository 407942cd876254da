"""Keeping a corpus: added, merged, checked, and made smaller without losing what it covers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.corpus import care, store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.machine.execution import execute
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.mitigations import registry
from fuzzvm.runs.case_features import features
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.support import Seeded

REGRESSIONS = Path(__file__).resolve().parents[2] / "corpus" / "regressions"
RACE = next(case for case in map(read, sorted(REGRESSIONS.glob("none-*.toml"))) if case.memory == "sc")
SYSTEM = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")


def random_cases(count: int) -> list[TestCase]:
    """Return what random runs of one system come to."""
    cases = []
    for seed in range(count):
        execution = execute(SYSTEM.machine(), Seeded(seed))
        origin = f"random, seed {seed}"
        cases.append(TestCase(SYSTEM.scenario, "none", "sc", execution.schedule, Expectation.of(execution), origin))
    return cases


def features_of(case: TestCase) -> care.Features:
    return features(case, mitigation_of(case))


def covered(folder: Path) -> care.Features:
    return frozenset().union(*(features_of(read(path)) for path in care.files(folder)))


def test_added_once_and_only_if_it_goes_as_it_expects(tmp_path: Path) -> None:
    good, again, wrong, junk = (tmp_path / name for name in ("good.toml", "again.toml", "wrong.toml", "junk.toml"))
    good.write_text(store.to_text(RACE))
    again.write_text(store.to_text(replace(RACE, origin="found by somebody else")))
    wrong.write_text(store.to_text(replace(RACE, expect=Expectation("safe"))))
    junk.write_text("format = 1\n")
    added = list(care.add([good, again, wrong, junk], tmp_path / "corpus", {}))
    assert [one.new for one in added] == [True, False, False, False]
    assert [one.saved is not None for one in added] == [True, True, False, False]
    assert added[0].saved == added[1].saved == tmp_path / "corpus" / RACE.file_name()
    assert "expected safe, got use-after-free-read" in added[2].problem
    assert [path.name for path in care.files(tmp_path / "corpus")] == [RACE.file_name()]


def test_a_case_below_a_subfolder_is_there_already(tmp_path: Path) -> None:
    store.save(RACE, tmp_path / "corpus" / "regressions")
    (tmp_path / "one.toml").write_text(store.to_text(RACE))
    (added,) = care.add([tmp_path / "one.toml"], tmp_path / "corpus", {})
    assert not added.new and added.saved == tmp_path / "corpus" / "regressions" / RACE.file_name()


def test_the_smaller_set_keeps_all_coverage_and_all_failures(tmp_path: Path) -> None:
    for case in random_cases(24):
        store.save(case, tmp_path)
    before, count = covered(tmp_path), len(care.files(tmp_path))
    keep, needless, unknown = care.reduce(tmp_path, {}, features_of)
    assert len(keep) + len(needless) == count and not unknown
    assert needless and keep
    for one in needless:
        one.path.unlink()
    assert covered(tmp_path) == before
    again = care.reduce(tmp_path, {}, features_of)
    assert not again[1]
    for one in keep:
        others = frozenset().union(*(features_of(o.case) for o in keep if o.case is not None and o != one))
        assert one.case is not None and features_of(one.case) - others, f"{one.path} is needless"


def test_another_scenario_is_other_coverage(tmp_path: Path) -> None:
    other = replace(RACE, scenario=replace(RACE.scenario, lazy_mmu=True))
    assert features_of(RACE) != features(other, registry.get("none"))
    assert not features_of(RACE) & features(other, registry.get("none"))


def test_what_cannot_be_judged_is_kept(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "junk.toml").write_text("no test case")
    store.save(replace(RACE, expect=Expectation("safe")), corpus)
    store.save(replace(RACE, mitigation="./mine.py:Mine"), corpus)
    keep, needless, unknown = care.reduce(corpus, {}, features_of)
    assert not keep and not needless and len(unknown) == 3


NUMBERS = st.lists(st.frozensets(st.integers(0, 12)), min_size=1, max_size=12)


@given(NUMBERS)
def test_a_cover_is_whole_and_has_nothing_needless(sets: list[frozenset[int]]) -> None:
    entries = [(care.Entry(Path(f"{n}.toml"), RACE), features) for n, features in enumerate(sets)]
    kept = {one.path for one in care.enough(entries)}
    chosen = [features for one, features in entries if one.path in kept]
    assert frozenset().union(*chosen) == frozenset().union(*sets)
    for index, features_ in enumerate(chosen):
        assert features_ - frozenset().union(*chosen[:index], *chosen[index + 1 :])


def test_check_finds_each_thing_that_can_be_wrong(tmp_path: Path) -> None:
    path, _ = store.save(RACE, tmp_path)
    assert [one.problem for one in care.check(tmp_path, {})] == [""]
    shutil.copy(path, tmp_path / "zz-copy.toml")
    (tmp_path / "link.toml").symlink_to(path)
    (tmp_path / "z-junk.toml").write_text("junk")
    short = replace(RACE, schedule=parse_schedule("0*4"), expect=Expectation("safe"))
    (tmp_path / short.file_name()).write_text(store.to_text(short))
    other = replace(RACE, scenario=replace(RACE.scenario, lazy_mmu=True), origin="x")
    (tmp_path / "misnamed.toml").write_text(store.to_text(other))
    problems = {one.path.name: one.problem for one in care.check(tmp_path, {})}
    assert problems.pop(path.name) == ""
    assert "symbolic link" in problems.pop("link.toml")
    assert "the same case as" in problems.pop("zz-copy.toml")
    assert problems.pop("z-junk.toml")
    assert problems.pop(short.file_name())
    assert f"its content is named {other.file_name()}" in problems.pop("misnamed.toml")
    assert not problems


def test_a_name_from_when_labels_were_no_part_of_it_is_right(tmp_path: Path) -> None:
    (tmp_path / RACE.former_file_name()).write_text(store.to_text(RACE))
    assert [one.problem for one in care.check(tmp_path, {})] == [""]
    assert store.save(replace(RACE, origin="again"), tmp_path) == (tmp_path / RACE.former_file_name(), False)


def test_the_corpus_that_ships_is_in_order() -> None:
    """That its files replay is tested for each by itself."""
    names = {path.name: read(path) for path in care.files(REGRESSIONS)}
    assert all(name in (case.file_name(), case.former_file_name()) for name, case in names.items())
    assert len({case.identity() for case in names.values()}) == len(names)


def test_merge(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    cases = random_cases(6)
    for case in cases[:4]:
        store.save(case, ours)
    for case in cases[2:]:
        store.save(replace(case, origin="theirs"), theirs / "deep")
    merged = list(care.merge(theirs, ours))
    assert {read(path).identity() for path in care.files(ours)} == {case.identity() for case in cases}
    assert sum(one.new for one in merged) == len({case.identity() for case in cases}) - len(
        {case.identity() for case in cases[:4]}
    )
    with pytest.raises(CorpusError, match="no such folder"):
        list(care.merge(tmp_path / "missing", ours))


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["git", *settings, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    assert git(tmp_path, "init", "-q", "-b", "main").returncode == 0
    return tmp_path


def commit(repository: Path) -> None:
    assert git(repository, "add", "-A").returncode == 0
    done = git(repository, "commit", "-q", "-m", "x")
    assert done.returncode == 0, done.stdout + done.stderr


def test_git_merges_two_corpora_that_found_the_same_in_different_ways(repository: Path) -> None:
    cases = random_cases(8)
    corpus = repository / "corpus"
    store.save(cases[0], corpus)
    commit(repository)
    for branch, found in (("ours", cases[1:6]), ("theirs", cases[3:])):
        git(repository, "checkout", "-q", "-b", branch, "main")
        for case in found:
            store.save(replace(case, origin=f"found on {branch}"), corpus)
        commit(repository)
    done = git(repository, "merge", "-q", "ours")
    assert done.returncode == 0, done.stdout
    # what both found is there twice, and merging tells it apart
    assert {read(path).identity() for path in care.files(corpus)} == {case.identity() for case in cases}
    assert any("the same case as" in one.problem for one in care.check(corpus, {}))
    keep, needless, unknown = care.reduce(corpus, {}, features_of)
    for one in needless:
        one.path.unlink()
    assert keep and not unknown
    assert [one for one in care.check(corpus, {}) if one.problem] == []


def test_by_the_former_name_git_would_have_had_a_conflict(repository: Path) -> None:
    """What the second half of a file's number is for."""
    (repository / "readme").write_text("x")
    commit(repository)
    for branch in ("ours", "theirs"):
        git(repository, "checkout", "-q", "-b", branch, "main")
        (repository / RACE.former_file_name()).write_text(store.to_text(replace(RACE, origin=f"found on {branch}")))
        commit(repository)
    assert "CONFLICT" in git(repository, "merge", "-q", "ours").stdout


def test_git_merges_corpora_of_which_one_was_made_smaller(repository: Path) -> None:
    corpus = repository / "corpus"
    for case in random_cases(20):
        store.save(case, corpus)
    commit(repository)
    git(repository, "checkout", "-q", "-b", "ours", "main")
    for one in care.reduce(corpus, {}, features_of)[1]:
        one.path.unlink()
    commit(repository)
    git(repository, "checkout", "-q", "-b", "theirs", "main")
    for case in random_cases(24)[20:]:
        store.save(case, corpus)
    commit(repository)
    done = git(repository, "merge", "-q", "ours")
    assert done.returncode == 0, done.stdout


def test_git_merges_corpora_that_were_both_made_smaller_and_grew(repository: Path) -> None:
    """Git takes a file that went and one like it that came for one that was renamed, unless it is told not to."""
    corpus = repository / "corpus"
    cases = random_cases(30)
    for case in cases[:20]:
        store.save(case, corpus)
    commit(repository)
    for branch, found in (("ours", cases[20:25]), ("theirs", cases[25:])):
        git(repository, "checkout", "-q", "-b", branch, "main")
        for one in care.reduce(corpus, {}, features_of)[1]:
            one.path.unlink()
        for case in found:
            store.save(replace(case, origin=f"found on {branch}"), corpus)
        commit(repository)
    done = git(repository, "merge", "-q", "-X", "find-renames=100%", "ours")
    assert done.returncode == 0, done.stdout
