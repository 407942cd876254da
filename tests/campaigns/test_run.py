"""The loop of a campaign with an executor that is not `local`: what is kept when it is cut off at the worst moment."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fuzzvm.campaigns import own_code, settle, sitting, status
from fuzzvm.campaigns.errors import CampaignError
from fuzzvm.campaigns.estimate import undiscovered_by_target
from fuzzvm.campaigns.executor import Died, Done
from fuzzvm.campaigns.folder import Folder
from fuzzvm.campaigns.journal import MANY, Journal
from fuzzvm.campaigns.plain import FuzzCell
from fuzzvm.campaigns.run import State
from fuzzvm.campaigns.settings import EVEN, Settings, digest_of_data, parse
from fuzzvm.campaigns.tasks import CampaignResult, CampaignTask, Searched, perform
from fuzzvm.corpus import store
from fuzzvm.corpus.format import read
from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.estimate import undiscovered
from fuzzvm.scenario import shipped
from fuzzvm.scenario.target import Target
from fuzzvm.verify.matrix import Cell


class Inline:
    """Runs tasks one after the other in this process, the last one first; `kills` says which die instead."""

    def __init__(self, kills: Callable[[CampaignTask], bool] = lambda task: False) -> None:
        self._kills = kills
        self._tasks: deque[tuple[int, CampaignTask]] = deque()

    @property
    def room(self) -> int:
        return 3 - len(self._tasks)

    def submit(self, key: int, task: CampaignTask) -> None:
        self._tasks.append((key, task))

    def wait(self, seconds: float) -> list[Done[CampaignResult] | Died]:
        key, task = self._tasks.pop()
        return [Died(key, "killed")] if self._kills(task) else [Done(key, perform(task))]

    def close(self, seconds: float) -> list[Done[CampaignResult] | Died]:
        self._tasks.clear()
        return []


def settings_of(runs: int = 1500) -> Settings:
    target = Cell("none", shipped.get("pmd-promotion"), "sc")
    return Settings((target,), ("pct", "pos"), 1, None, runs, 1, True, EVEN, 10.0)


def begin(path: Path, executor: Inline) -> State:
    return sitting.begin(path, settings_of(), lambda state: None, executor=lambda settings: executor)


def resume(path: Path) -> State:
    return sitting.resume(path, lambda state: None, executor=lambda settings: Inline())


def test_any_executor_of_four_members_will_do(tmp_path: Path) -> None:
    state = begin(tmp_path / "c", Inline())
    assert (state.runs, state.findings, state.unsettled) == (1500, 1, 0)


class Recording(Inline):
    """Keeps what its tasks came to."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[CampaignResult] = []

    def wait(self, seconds: float) -> list[Done[CampaignResult] | Died]:
        reports = super().wait(seconds)
        self.results += [report.result for report in reports if isinstance(report, Done)]
        return reports


def test_a_pair_is_counted_once_for_each_task_that_it_was_in(tmp_path: Path) -> None:
    recording, again = Recording(), Recording()
    begin(tmp_path / "c", recording)
    sitting.resume(tmp_path / "c", lambda state: None, more_runs=300, executor=lambda settings: again)
    samples = [
        {pair for first in result.covered for pair in first.pairs}
        for result in (*recording.results, *again.results)
        if isinstance(result, Searched)
    ]
    assert len(samples) > MANY and all(samples) and again.results
    times = Counter(pair for sample in samples for pair in sample)
    with closing(Journal(tmp_path / "c" / "journal.sqlite", only_read=True, still=True)) as journal:
        assert journal.pairs() == {(0, pair): min(count, MANY) for pair, count in times.items()}
        assert sum(sums.samples for sums in journal.sums().values()) == len(samples)
        last = journal.samples(0)[-1]
    now = status.read(tmp_path / "c")
    assert now.undiscovered == now.targets[0].undiscovered == undiscovered(times.values(), len(samples))
    # the last sample is of the end
    assert (last.runs, last.pairs, last.undiscovered) == (now.sums.runs, len(times), now.undiscovered)


def test_one_sample_says_nothing_of_what_is_left() -> None:
    assert undiscovered_by_target({(0, 1): 1, (1, 5): 1, (1, 6): 2}, {0: 1, 1: 4, 2: 3}) == {1: 0.0, 2: 0.0}


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    settings = settings_of()
    assert own_code.to_run(parse(settings.to_text(), tmp_path), tmp_path, ()) == settings
    data = json.loads(settings.to_text())
    data["made_by"]["Python"] = "0"
    del data["digest"]
    other = parse(json.dumps(data | {"digest": digest_of_data(data)}), tmp_path)
    assert other.settings == settings
    with pytest.raises(CampaignError, match="begun with another Python"):
        own_code.to_run(other, tmp_path, ())


@pytest.mark.product
@pytest.mark.parametrize("where", ["add_finding", "end_task", "add_failing", "add_pairs", "settle", "commit", "save"])
@pytest.mark.parametrize("time", [1, 2])
def test_cut_off_in_any_write_nothing_is_lost_and_nothing_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, time: int
) -> None:
    """What a kill leaves at that moment: files as they are, and of the journal what was committed."""
    # replays in other processes take most of the time, and write nothing
    monkeypatch.setattr(settle, "differs", lambda case, code, **options: "")
    files = 0
    if where == "save":
        begin(tmp_path / "whole", Inline())
        # the run as it was found is there no more
        files = sum(1 for _ in tmp_path.rglob("whole/*/*.toml")) + 1
    calls = 0
    place = store if where == "save" else Journal
    real = getattr(place, where)

    def cut(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        # the first commit is that of an empty journal; the last file is that of the finding
        if calls == (files - time + 1 if where == "save" else time + (where == "commit")):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(place, where, cut)
    folder = Folder(tmp_path / "c")
    try:
        begin(folder.path, Inline())
    except KeyboardInterrupt:
        assert calls >= time
    monkeypatch.setattr(place, where, real)
    before = {path.name for path in folder.findings.glob("*")}
    journal = Journal(folder.journal, only_read=True)
    named = {finding.file for finding in journal.findings()}
    assert named <= before
    journal.close()
    state = resume(folder.path) if folder.settings.exists() else begin(folder.path, Inline())
    assert (state.runs, state.findings, state.unsettled) == (1500, 1, 0)
    journal = Journal(folder.journal, only_read=True)
    assert [finding.file for finding in journal.findings()] == [path.name for path in folder.findings.iterdir()]
    assert before <= {path.name for path in folder.findings.iterdir()}
    assert sum(sums.tasks for sums in journal.sums().values()) == 3
    assert list(folder.unsettled.iterdir()) == []
    for path in folder.corpus.iterdir():
        read(path)
    journal.close()


def test_a_task_that_dies_is_tried_again_and_not_for_ever(tmp_path: Path) -> None:
    deaths = 0

    def twice(task: CampaignTask) -> bool:
        nonlocal deaths
        deaths += 1
        return deaths <= 2

    assert begin(tmp_path / "c", Inline(twice)).runs == 1500
    with pytest.raises(CampaignError, match=r"task \d .* has cost 3 workers: 3 times killed"):
        begin(tmp_path / "d", Inline(lambda task: True))
    # what was planned is not forgotten
    assert resume(tmp_path / "d").runs == 1500


def test_all_mitigations_come_early() -> None:
    scenarios = tuple(shipped.shipped().values())
    names = ["none", "static-key", "rcu-free"]
    cells = [
        FuzzCell(name, engines.get("pct"), tuple(Target(registry.get(name), one, "sc") for one in scenarios))
        for name in names
        for _ in "ab"
    ]
    found = sitting.targets(cells)
    assert len(found) == len(set(found)) == 3 * len(scenarios)
    assert {target.mitigation for target in found[:3]} == set(names)
