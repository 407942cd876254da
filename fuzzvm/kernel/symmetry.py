"""Where the numbers of CPUs are kept: what changes when CPUs that run the same calls swap their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locks import UNLOCKED
from fuzzvm.kernel.rcu import RcuState
from fuzzvm.kernel.rwsem import RwsemState
from fuzzvm.machine.ops import Address, Operation


class Renaming:
    """Gives CPUs new names: CPU `i` becomes CPU `names[i]`. Only the words of locks and of RCU hold names of CPUs."""

    def __init__(self, kernel: Kernel, names: Sequence[int]) -> None:
        self.names = tuple(names)
        self._owners = {lock.address for lock in kernel.locks}

    def value(self, address: Address, value: Any) -> Any:
        """Return what a location holds after the renaming."""
        if isinstance(value, RwsemState):
            return RwsemState(
                None if value.writer is None else self.names[value.writer],
                tuple(self.names[cpu] for cpu in value.readers),
                tuple((self.names[cpu], writes) for cpu, writes in value.waiters),
            )
        if isinstance(value, RcuState):
            return value.renamed(self.names)
        if address in self._owners and value != UNLOCKED:
            return self.names[value - 1] + 1
        return value

    def maps(self, old: Operation, new: Operation) -> bool:
        """Return whether one operation is the other after the renaming."""
        return type(old) is type(new) and all(
            self._part_maps(getattr(old, field.name), getattr(new, field.name)) for field in fields(old)
        )

    def _part_maps(self, old: Any, new: Any) -> bool:
        if type(old) is not type(new):
            return False
        if not is_dataclass(old) or isinstance(old, type):
            return bool(old == new)
        for field in fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            # the updates and conditions of locks say "cpu", or an owner, which is a CPU plus one
            expected = before
            if field.name == "cpu":
                expected = self.names[before]
            elif field.name == "owner" and before != UNLOCKED:
                expected = self.names[before - 1] + 1
            if expected != after:
                return False
        return True
