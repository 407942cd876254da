"""The code of an image, ready to run: stops, liveness, source lines, and what its addresses are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.isa.engine import Code
from fuzzvm.compiled.isa.generate import Tracking
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError
from fuzzvm.compiled.isa.liveness import live_registers
from fuzzvm.compiled.lines import Frame
from fuzzvm.compiled.records import JumpSite, Symbol
from fuzzvm.compiled.run.arch import running
from fuzzvm.machine.program import Constant

RETURN = 0xFFFF_0000_DEAD_0000
"""The address that a call of a scenario returns to: nothing of the kernel's lies there."""


class Executable(Constant):
    """The code of an image; all CPUs of all runs share it.

    `boundary` are functions that are not run, by address. With `tracked`, dependencies are carried.
    """

    def __init__(self, image: Image, boundary: Mapping[int, str], probes: Iterable[int] = (), *, tracked: bool) -> None:
        self.image = image
        self.arch = running(image.manifest.arch)
        self._everything = tuple(sorted(self.arch.abi.everything))
        self.boundary = dict(boundary)
        self.probes = frozenset(probes)
        self.sites: dict[int, JumpSite] = {site.code: site for site in image.jump_sites}
        self.tracked = tracked
        undefined = {symbol.address for symbol in image.symbols if not symbol.defined}
        self._undefined = undefined - set(self.boundary)
        stops = {*self.boundary, *self._undefined, *self.probes, *self.sites, RETURN}
        tracking = Tracking() if tracked else None
        fetch = self.arch.fetch(image, self._function_name)
        self.code = Code(fetch, stops, tracking, tells_returns=True, flags=self.arch.flags)
        self.used: set[int] = set()
        """Loads of whose values something comes, by address."""
        self.unused: set[int] = set()
        """Loads that were taken for such of whose values nothing comes, since all began again."""
        self._live: dict[int, dict[int, tuple[int, ...]]] = {}

    def branches_at_boot(self, site: int) -> bool:
        """Return whether the instruction at the site of a static key is a branch before anybody patches it."""
        return self.code.instruction(site).is_branch

    def live(self, pc: int) -> tuple[int, ...]:
        """Return the slots that the code may still read at an address."""
        symbol = self._function(pc)
        if symbol is None:
            return self._everything
        found = self._live.get(symbol.address)
        if found is None:
            found = self._live[symbol.address] = self._analyse(symbol)
        return found.get(pc, self._everything)

    def _analyse(self, function: Symbol) -> dict[int, tuple[int, ...]]:
        instructions: dict[int, Instruction] = {}
        for address in self._addresses(function):
            try:
                instructions[address] = self.code.instruction(address)
            except (ImageError, UnsupportedInstructionError):
                # code that is not run, or this will be said where it is; what leads there reads everything
                continue
        jumps = {site.code: site.target for site in self.sites.values()}
        return live_registers(self.arch.abi, instructions, self._reads, jumps)

    def _addresses(self, function: Symbol) -> Iterable[int]:
        try:
            return list(self.arch.addresses(self.image, function))
        except ImageError:
            return ()

    def _reads(self, address: int) -> frozenset[int]:
        symbol = self._function(address)
        if symbol is None or symbol.address != address or symbol.name.endswith(".cold"):
            return self.arch.abi.everything
        return self.arch.abi.entry_reads(self._arguments(symbol))

    def _arguments(self, symbol: Symbol) -> int | None:
        """Return how many arguments a function has in registers, None where that is not known."""
        try:
            signature = self.image.signature(symbol)
        except ImageError:
            return None
        if signature.variadic or any(parameter.type.kind in ("struct", "union") for parameter in signature.parameters):
            return None
        return len(signature.parameters)

    def _function(self, address: int) -> Symbol | None:
        return self.image.symbol_at(address)

    def _function_name(self, address: int) -> str | None:
        symbol = self._function(address)
        return None if symbol is None else symbol.name

    def frames(self, address: int) -> tuple[Frame, ...]:
        """Return the source lines of an address, innermost first."""
        return self.image.frames(address)
