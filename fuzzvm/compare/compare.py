"""Where compiled code and the model differ, operation by operation, in the scenarios that both can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fuzzvm.compare.align import Difference, Row, aligned, differences
from fuzzvm.compare.collapse import OnlyImages, collapsed, joined
from fuzzvm.compare.compiled_side import CompiledSide
from fuzzvm.compare.model_side import ModelSide
from fuzzvm.compare.names import Names, names_of
from fuzzvm.compare.operations import Visible
from fuzzvm.compare.reasons import Reason, reason_for
from fuzzvm.compare.recorded import Order, Recorded, TooLongError, orders, record
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.images.calls import image_task, why_not
from fuzzvm.images.geometry import Geometry
from fuzzvm.kbuild.modelled import Modelled
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

ARCH = "arm64"
LAZY_MMU = ("linux-6.18", "linux-7.3")
"""Releases that set PTEs in lazy MMU mode (mm/vmalloc.c since 6.16)."""
WITHOUT_ROOT_BLOCKS = "with 3 levels of 4K pages a PUD is an entry of the root, and the model maps no block by it"

OWN = (
    Scenario(
        "arm64",
        "4K",
        3,
        4,
        (),
        (
            (
                Vmap(0, 2, max_page_shift="pte"),
                Vunmap(0, 2),
                Vmap(4, 4, max_page_shift="pmd"),
                Vunmap(4, 4),
                Vmap(0, 4, max_page_shift="pmd"),
            ),
            (CatKernelPageTables(), CheckWxPages()),
        ),
        name="first-mappings",
        summary="pages and a block are mapped for the first time, unmapped, and a table is replaced by a block",
    ),
)
"""Scenarios of the comparison's own: code that no scenario that ships runs with one CPU before the other."""


@dataclass(frozen=True)
class Call:
    """A call that was compared: `rows` are both sides' operations, in the order of CPUs in which it was met first."""

    scenario: str
    order: str
    cpu: int
    text: str
    rows: tuple[Row, ...]
    alike: int
    only_images: tuple[OnlyImages, ...]


@dataclass
class MetDifference:
    """A difference: where it was met first, how often, and why it does no harm; None where it is drift."""

    difference: Difference
    call: Call
    reason: Reason | None
    times: int = 1

    @property
    def drift(self) -> bool:
        """Whether nothing explains it."""
        return self.reason is None


@dataclass(frozen=True)
class Failed:
    """A run that failed on one side and not on the other, or otherwise there."""

    scenario: str
    order: str
    compiled: Failure | None
    model: Failure | None


@dataclass
class Comparison:
    """What came of comparing an image with a release."""

    release: str
    lazy_mmu: bool
    scenarios: list[str] = field(default_factory=list)
    """Those that were run."""
    calls: list[Call] = field(default_factory=list)
    found: list[MetDifference] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Scenarios that were not run, with the reason."""
    not_compared: dict[str, int] = field(default_factory=dict)
    """What the model, or images, do not have, and how often it was accessed."""
    functions: dict[str, int] = field(default_factory=dict)
    """Operations that both sides have, by modelled function."""
    one_sided: dict[str, str] = field(default_factory=dict)
    """Modelled functions with operations on one side alone: 'image' or 'model'."""
    elsewhere: int = 0
    """Number of the modelled functions that another architecture has."""
    not_met: tuple[Modelled, ...] = ()
    """Modelled functions of the architecture that had no operation in any call that was compared."""

    @property
    def drift(self) -> bool:
        """Whether something differs that nothing explains."""
        return bool(self.failed) or any(one.drift for one in self.found)


def compare(
    image: Image, release: str, scenarios: Sequence[Scenario], told: Callable[[str], None] = lambda text: None
) -> Comparison:
    """Compare an image with a release of the model in the scenarios that both can run.

    `told` hears of each scenario. Raises ImageError for another architecture, what `image_task` and `System` raise, and
    ProgramError where the image needs what is not supported.
    """
    if image.manifest.arch != ARCH:
        raise ImageError(f"images of {image.manifest.arch} are not compared: {ARCH} alone is")
    mitigation = registry.get(release)
    names = names_of(image.manifest.arch)
    comparison = Comparison(release, release in LAZY_MMU)
    tally = _Tally(comparison)
    known: set[object] = set()
    for scenario in scenarios:
        why = why_left_out(image, scenario)
        if why:
            comparison.left_out[scenario.name] = why
            continue
        # the image's levels and page size are both sides'; with them, two scenarios may be the same
        asked = _asked(image, scenario, lazy_mmu=comparison.lazy_mmu)
        if asked.anonymous() in known:
            comparison.left_out[scenario.name] = "with the image's levels it is one that was compared"
            continue
        known.add(asked.anonymous())
        told(scenario.name)
        try:
            _compare(image, asked, mitigation, names, tally)
        except TooLongError as error:
            comparison.left_out[scenario.name] = str(error)
    tally.finish(names)
    return comparison


def _asked(image: Image, scenario: Scenario, *, lazy_mmu: bool) -> Scenario:
    manifest = image.manifest
    return replace(scenario, levels=manifest.levels, page_size=manifest.page_size, lazy_mmu=lazy_mmu, walk_rereads=True)


def why_left_out(image: Image, scenario: Scenario) -> str:
    """Return why a scenario cannot be compared, '' where it can."""
    why = "what TLBs may hold is not compared" if scenario.tlb else why_not(image, scenario)
    if why:
        return why
    try:
        asked = _asked(image, scenario, lazy_mmu=False)
    except ScenarioError as error:
        return str(error)
    calls = [one for calls in (asked.setup, *asked.cpus) for one in calls if isinstance(one, Vmap)]
    block = asked.fanout**2
    if image.manifest.levels == 3 and any(one.max_page_shift == "pud" and one.nr_pages >= block for one in calls):
        return WITHOUT_ROOT_BLOCKS
    return ""


def _compare(image: Image, scenario: Scenario, mitigation: type[Mitigation], names: Names, tally: _Tally) -> None:
    geometry = Geometry.of(image, scenario.fanout)
    task = image_task(image, scenario, "sc", assume=False, tracked=False)
    compiled = CompiledSide(task, geometry, names)
    model = ModelSide(System(scenario, mitigation, "sc"), geometry, names)
    runs = [
        (order, record(compiled, order, geometry.entries), record(model, order, geometry.entries))
        for order in orders(scenario)
    ]
    tally.run(scenario)
    for run in runs:
        tally.add(scenario, *run)


class _Tally:
    """Gathers what calls have shown; the same call with the same operations counts once."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._calls: set[object] = set()
        self._found: dict[object, MetDifference] = {}
        self._compiled: set[str] = set()
        self._model: set[str] = set()

    def run(self, scenario: Scenario) -> None:
        self._comparison.scenarios.append(scenario.name)

    def add(self, scenario: Scenario, order: Order, compiled: Recorded, model: Recorded) -> None:
        comparison = self._comparison
        if (compiled.failure and compiled.failure.error) != (model.failure and model.failure.error):
            comparison.failed.append(Failed(scenario.name, str(order), compiled.failure, model.failure))
        for name, times in (*compiled.left_out.items(), *model.left_out.items()):
            comparison.not_compared[name] = comparison.not_compared.get(name, 0) + times
        for cpu, calls in enumerate(scenario.cpus):
            for number, call in enumerate(calls):
                ours, theirs = compiled.calls.get((cpu, number), []), model.calls.get((cpu, number), [])
                self._add_call(scenario, order, cpu, str(call), ours, theirs)

    def _add_call(
        self,
        scenario: Scenario,
        order: Order,
        cpu: int,
        text: str,
        compiled: Sequence[Visible],
        model: Sequence[Visible],
    ) -> None:
        kept, alike, only_images = collapsed(joined(compiled), scenario.fanout)
        rows = tuple(aligned(kept, joined(model)))
        known = (text, tuple((row.compiled, row.model) for row in rows), alike, tuple(only_images))
        if known in self._calls:
            return
        self._calls.add(known)
        call = Call(scenario.name, str(order), cpu, text, rows, alike, tuple(only_images))
        self._comparison.calls.append(call)
        for row in rows:
            if row.compiled and row.model:
                function = row.model.function
                self._comparison.functions[function] = self._comparison.functions.get(function, 0) + 1
            self._compiled.update([row.compiled.function] if row.compiled else [])
            self._model.update([row.model.function] if row.model else [])
        for difference in differences(rows):
            identity = difference.identity()
            if identity in self._found:
                self._found[identity].times += 1
            else:
                found = MetDifference(difference, call, reason_for(difference))
                self._found[identity] = found
                self._comparison.found.append(found)

    def finish(self, names: Names) -> None:
        comparison = self._comparison
        comparison.elsewhere = names.elsewhere
        both = self._compiled | self._model
        for function in sorted(both & names.compared):
            if function not in self._model or function not in self._compiled:
                comparison.one_sided[function] = "image" if function in self._compiled else "model"
        comparison.not_met = tuple(one for one in names.functions if one.name not in both)
