"""Which CPUs access which locations, so that what concerns one CPU alone is no step.

A plain access needs no scheduling point where no other CPU can tell when it takes place: where nobody writes the
location, or where no other CPU accesses it at all. Then the CPU does it on contents of its own. What it must not miss
is that the object is freed. Where it may be, one access of several in a row to the same object is a step: the others
change nothing that anybody else reads, so a free between two of them could as well come before the first. Orderings
other than plain say something of other locations too, and are always steps.

Who accesses what is not known before the code has run. So it is assumed that there is no more than has been seen.
Where there is, everything that rests on that is done again (`OutdatedProgramError`) with what is known by then. A
search that ends without that has seen every access of every schedule, and what it assumed holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.ops import Address, object_of
from fuzzvm.machine.program import Constant

_ANYBODY = -1


class _Users:
    """The CPUs that read and write one location, and those that rely on there being no others."""

    __slots__ = ("readers", "relying", "watched", "writers")

    def __init__(self) -> None:
        self.readers: set[int] = set()
        self.writers: set[int] = set()
        self.relying: set[int] = set()
        self.watched = False
        """Whether its contents are to be in the machine's memory: the property looks at them, or an access orders."""

    def quiet_for(self, cpu: int) -> bool:
        """Return whether no other CPU can tell when this one accesses the location."""
        return not self.writers or (not self.watched and self.readers <= {cpu} and self.writers <= {cpu})


class Knowledge(Constant):
    """What is known of one scenario; it grows.

    `boot_objects` is the number of objects at boot, and `content` what a location of one of them holds then. Of objects
    that are allocated later nothing is assumed. While it is `learning`, runs go on where what they rest on turns out to
    be wrong: they are not to be believed, and show what there is to learn. What has been relied on is relied on until
    `begin`, so that a program does the same each time that its responses are the same.
    """

    def __init__(self, boot_objects: int, content: Callable[[Address], int]) -> None:
        self._boot_objects = boot_objects
        self.content = content
        self.learning = False
        self._users: dict[Address, _Users] = {}
        self._freed: set[int] = set()
        self._taken_for_lasting: set[int] = set()
        self.grown = 0
        """How often something new was learnt."""

    def at_boot(self, address: Address) -> bool:
        """Return whether the object of a location is there at boot."""
        return object_of(address) < self._boot_objects

    def watch(self, address: Address) -> None:
        """Take note that the contents of a location are to be in the machine's memory. Raises OutdatedProgramError."""
        users = self._users.setdefault(address, _Users())
        if not users.watched:
            self.grown += 1
            users.watched = True
            if not all(map(users.quiet_for, users.relying)):
                self._outdated()

    def is_constant(self, address: Address) -> bool:
        """Return whether nobody writes a location or frees its object; that is relied on from here on."""
        if object_of(address) >= self._boot_objects:
            return False
        users = self._users.setdefault(address, _Users())
        if _ANYBODY not in users.relying:
            if users.writers or not self.lasting(address):
                return False
            users.relying.add(_ANYBODY)
        return True

    def is_written(self, address: Address) -> bool:
        """Return whether somebody writes a location."""
        users = self._users.get(address)
        return users is not None and bool(users.writers)

    def access(self, address: Address, cpu: int, *, reads: bool, writes: bool, plain: bool) -> bool:
        """Take note of an access; return whether no other CPU can tell when it takes place, which is relied on.

        One that is not `plain` orders others, and can be told. Raises OutdatedProgramError where another CPU has relied
        on there being none.
        """
        if object_of(address) >= self._boot_objects:
            return False
        users = self._users.get(address)
        if users is None:
            users = self._users[address] = _Users()
        if (reads and cpu not in users.readers) or (writes and cpu not in users.writers):
            self._add(users, cpu, reads=reads, writes=writes)
        if not plain:
            self.watch(address)
        if not plain or not (cpu in users.relying or users.quiet_for(cpu)):
            return False
        users.relying.add(cpu)
        return True

    def _add(self, users: _Users, cpu: int, *, reads: bool, writes: bool) -> None:
        self.grown += 1
        # what was taken for constant is, even if the CPU itself writes it now
        constant = bool(users.relying) and not users.writers and writes
        if reads:
            users.readers.add(cpu)
        if writes:
            users.writers.add(cpu)
        if constant or not all(map(users.quiet_for, users.relying)):
            self._outdated()

    def lasting(self, address: Address) -> bool:
        """Return whether nobody frees the object of a location; that is relied on from here on."""
        number = object_of(address)
        if number in self._taken_for_lasting:
            return True
        if number >= self._boot_objects or number in self._freed:
            return False
        self._taken_for_lasting.add(number)
        return True

    def free(self, address: Address) -> None:
        """Take note of a free. Raises OutdatedProgramError where it was relied on that there is none."""
        number = object_of(address)
        if number < self._boot_objects and number not in self._freed:
            self.grown += 1
            self._freed.add(number)
            if number in self._taken_for_lasting:
                self._outdated()

    def _outdated(self) -> None:
        if not self.learning:
            raise OutdatedProgramError

    @contextmanager
    def taught(self) -> Iterator[None]:
        """Be learning until the end of the context, after which nothing that was relied on is to be used."""
        self.learning = True
        try:
            yield
        finally:
            self.learning = False

    def begin(self) -> None:
        """Rely on nothing any more: what rested on it is gone."""
        self._taken_for_lasting.clear()
        for users in self._users.values():
            users.relying.clear()
