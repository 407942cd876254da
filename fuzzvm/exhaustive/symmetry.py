"""CPUs that run the same calls are alike: of states that differ in their names alone, one is enough.

Clarke, Emerson, Jha and Sistla, "Symmetry reductions in model checking", CAV 1998. The one that is kept is the
smallest. Local states of one CPU are taken to those of another by their history: what one did with its responses, the
other does with the renamed ones. That they do the same is checked for each, so a mitigation that treats CPUs
differently is found out, and its task searched without this reduction.
"""

from __future__ import annotations

from itertools import permutations, product

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.flat import FlatShared
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.machine.task import Task

MAX_RENAMINGS = 120


class AsymmetryError(Exception):
    """CPUs with the same calls do not do the same."""


class _Image:
    """What one renaming makes of states; remembers it for shared and for local states."""

    def __init__(self, space: Space, names: tuple[int, ...]) -> None:
        assert isinstance(space.shared, FlatShared)
        self._space = space
        self._shared = space.shared
        self.renaming = space.task.renaming(names)
        self._shared_images: dict[int, int] = {}
        self._local_images: list[dict[int, Node]] = [{0: automaton.nodes[0]} for automaton in space.automata]
        self._targets = [(lane, space.lanes[names[lane.cpu]].shift) for lane in space.lanes]

    def of(self, state: int) -> int:
        """Return a state after the renaming."""
        number = state & SHARED_MASK
        image = self._shared_images.get(number)
        if image is None:
            image = self._shared_images[number] = self._shared.renamed(number, self.renaming)
        for lane, shift in self._targets:
            local = lane.local(state)
            image += self.local(lane.cpu, local).number << shift
        return image

    def local(self, cpu: int, local: int) -> Node:
        """Return the local state that a CPU's becomes, one of the CPU that it is renamed to. Raises AsymmetryError."""
        images = self._local_images[cpu]
        found = images.get(local)
        if found is not None:
            return found
        automata = self._space.automata
        missing: list[Node] = []
        node: Node = automata[cpu].nodes[local]
        while node.number not in images and node.origin is not None:
            missing.append(node)
            node = node.origin[0]
        if node.number not in images:
            self._put(cpu, node, automata[self.renaming.names[cpu]].start.target)
        for node in reversed(missing):
            assert node.origin is not None
            self._put(cpu, node, self.edge_target(cpu, *node.origin))
        return images[local]

    def edge_target(self, cpu: int, node: Node, response: int) -> Node | None:
        """Return where the renamed CPU goes where this one, in that local state, gets that response."""
        values = self._space.values
        answer = values[response]
        address = getattr(node.op, "address", None)
        renamed = response if address is None else values.number(self.renaming.value(address, answer))
        image = self.local(cpu, node.number)
        return self._space.automata[self.renaming.names[cpu]].next(image, renamed).target

    def _put(self, cpu: int, node: Node, image: Node | None) -> None:
        if image is None or image.op is None or node.op is None or not self.renaming.maps(node.op, image.op):
            raise AsymmetryError(f"CPUs {cpu} and {self.renaming.names[cpu]} run the same calls differently")
        self._local_images[cpu][node.number] = image


class Symmetry:
    """The renamings under which a task stays the same. `images` is empty where it has none that are known of."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.images: list[_Image] = []
        if isinstance(space.shared, FlatShared) and isinstance(space.start, int):
            self.images = [_Image(space, names) for names in _renamings(space.task)]

    def canonical(self, state: int) -> int:
        """Return the smallest of the states that differ from this one in names alone. Raises AsymmetryError."""
        smallest = state
        for image in self.images:
            other = image.of(state)
            if other < smallest:
                smallest = other
        return smallest

    def mirror(self, cpu: int, node: Node) -> list[tuple[int, Node]]:
        """Make known to the other CPUs what is known of a local state; return their local states that it becomes."""
        found: dict[int, Node] = {}
        for image in self.images:
            other = image.renaming.names[cpu]
            if other != cpu and other not in found:
                for response in list(node.edges):
                    image.edge_target(cpu, node, response)
                found[other] = image.local(cpu, node.number)
        return list(found.items())


def _renamings(task: Task) -> list[tuple[int, ...]]:
    """Return every renaming among CPUs that are alike, without the one that changes nothing."""
    found = []
    for choice in product(*map(permutations, task.alike)):
        names = list(range(task.cpus))
        for group, renamed in zip(task.alike, choice, strict=True):
            for cpu, name in zip(group, renamed, strict=True):
                names[cpu] = name
        if names != list(range(task.cpus)):
            found.append(tuple(names))
    return found if len(found) <= MAX_RENAMINGS else []
