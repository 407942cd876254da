"""What a condition asks of each instruction, so that only executions that can meet it need be explored.

A condition that is a conjunction of equalities asks of a register one value. Where the code goes forward only, the last
instruction that writes the register must write that value, and an instruction that may be patched must be executed in
the form that leads there. What else a load may return, or a fetch, belongs to executions that the condition does not
hold in; herd7 calls the others interesting (option -speedcheck).

Those cannot simply be dropped. A thread shows alone, on a timeline that is not complete, that it may put a message
next (see `explore`), and a load that will read from a message yet to come must return something else until then: with
load buffering that is the only way to put the message. So what is not asked for is kept once, as a load that takes
place later than every message (`FUTURE`). This loses no interesting execution. Take one, a prefix of its timeline,
the thread that puts the next message, and the run of that thread on the prefix in which every load that reads from
the prefix reads what it does in the execution. All these loads return what is asked for. The others lie behind the
prefix in the execution, and so does all that is ordered after them: neither a message of the prefix nor the next one
is, so that no floor of those grows by `FUTURE`; nor does what these loads return matter to them, since a dependency
would order them. Nothing is added either: an outcome counts only where every load has returned what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fuzzvm.litmus.encoding import Encoding
from fuzzvm.litmus.program import Code, Immediate, Instruction, Name, Place, Relative, Test, Thread
from fuzzvm.litmus.registers import written
from fuzzvm.litmus.state import Position
from fuzzvm.litmus.writers import Writers, writers_of
from fuzzvm.machine.memory.arm64.timeline import Timeline

FUTURE = 1 << 40
"""A place on the timeline that is later than every message."""

Asked = Callable[[int], bool]
"""Whether a register may end with a value."""


@dataclass(slots=True)
class Interest:
    """What is asked for.

    `values` is by the position of the instruction that writes a register last, `following` the position that must
    come after an instruction that may be patched, `final` what each thread's registers must hold in the end.
    `writers` are the stores that may yet come, None where they are not known.
    """

    values: dict[Position, Asked] = field(default_factory=dict)
    following: dict[Position, Position] = field(default_factory=dict)
    final: dict[int, list[tuple[int, Place, int]]] = field(default_factory=dict)
    writers: Writers | None = None

    @property
    def asks(self) -> bool:
        """Whether anything is asked for at all."""
        return bool(self.final)

    def may_come(self, cpu: int, where: int, asked: Asked, timeline: Timeline) -> bool:
        """Return whether a load that finds nothing that it asks for may find it once further messages are there."""
        return self.writers is None or self.writers.may_come(cpu, where, asked, timeline)


def interest_of(test: Test, values: Encoding, fetched: set[Position]) -> Interest:
    """Return what the condition of a test asks; nothing where it is no conjunction, or is about all states.

    `fetched` are the positions whose instruction is read from memory, where it may have been patched.
    """
    interest = Interest()
    equalities = test.condition.equalities
    if equalities is None or test.quantifier == "forall":
        return interest
    for place, constant in equalities:
        if place.thread is None:
            continue
        number, thread = int(place.name[1:]), place.thread
        wanted = values.final(place, values.constant(constant, 1))
        interest.final.setdefault(thread, []).append((number, place, wanted))
        if not _goes_forward(test, thread):
            continue
        code = test.threads[thread].code
        writers = [index for index, instruction in enumerate(code) if number in written(instruction)]
        if writers:
            interest.values[thread, writers[-1]] = _equal_to(values, place, wanted)
        if len(writers) == 1 and (thread, writers[0] - 1) in fetched and _harmless(code[writers[0] - 1]):
            following = _following(test, values, place, writers[0], wanted)
            if following is not None:
                interest.following[thread, writers[0] - 1] = (thread, following)
    if goes_forward(test):
        interest.writers = writers_of(
            test,
            values,
            written,
            fetched,
            lambda position, compare: position in interest.values and interest.values[position](compare),
        )
    return interest


def _equal_to(values: Encoding, place: Place, wanted: int) -> Asked:
    return lambda value: values.final(place, value) == wanted


def _following(test: Test, values: Encoding, place: Place, index: int, wanted: int) -> int | None:
    """Return where a thread must go on, before `MOV register,#n` at `index`; None if both ways do or neither does."""
    instruction = test.threads[place.thread or 0].code[index]
    if instruction.mnemonic != "MOV" or not isinstance(instruction.operands[1], Immediate):
        return None
    initial = next((given.value for given in test.declarations if given.place == place), 0)
    executed = instruction.operands[1].value == wanted
    skipped = (0 if initial is None else values.final(place, values.constant(initial, 1))) == wanted
    return None if executed == skipped else index if executed else index + 1


def goes_forward(test: Test) -> bool:
    """Return whether no instruction of a test can be executed twice, whatever is patched; then every run ends."""
    return all(_goes_forward(test, thread) for thread in range(len(test.threads)))


def _goes_forward(test: Test, thread: int) -> bool:
    """Return whether no instruction of a thread can be executed twice, whatever is patched."""
    if thread in test.handlers:
        return False
    if any(not _harmless(given.value.instruction) for given in test.declarations if isinstance(given.value, Code)):
        return False
    code = test.threads[thread]
    return all(_forward(instruction, index, code) for index, instruction in enumerate(code.code))


def _harmless(instruction: Instruction) -> bool:
    """Return whether an instruction that code may be patched with writes nothing, and goes on or forward."""
    if instruction.mnemonic == "NOP":
        return True
    (target, *_) = (*instruction.operands, None)
    return instruction.mnemonic == "B" and isinstance(target, Relative) and target.offset > 0


def _forward(instruction: Instruction, index: int, thread: Thread) -> bool:
    mnemonic, _, condition = instruction.mnemonic.partition(".")
    if mnemonic in ("BL", "BLR", "BR", "RET", "ERET", "MSR"):
        return False
    if condition or mnemonic in ("B", "CBZ", "CBNZ"):
        target = instruction.operands[-1]
        if isinstance(target, Relative):
            return target.offset > 0
        return isinstance(target, Name) and thread.labels.get(target.text, 0) > index
    return True
