"""The process that Atheris runs in: `python -m fuzzvm.runs.guided.child CHANNEL`.

It reads its settings from standard input, as JSON. CHANNEL is the descriptor by which its owner watches it. It writes
one JSON object a line to standard output: progress as `{"runs", "steps", "pairs", "undiscovered", "counters",
"happened"}`, and each failing run as `{"system", "run", "schedule", "error"}`. It ends by itself when its budget is
used up, and when it has found a bug, unless it is to keep going. A broken mitigation is `{"broken": [message, filename,
line]}`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TextIO, TypeVar

from fuzzvm.supervision import inside, stopping
from fuzzvm.supervision.channel import Channel

T = TypeVar("T")

PROGRESS_SECONDS = 0.25


def main() -> None:
    """Fuzz until the budget ends; never returns."""
    # Ctrl-C is for the parent, which ends this process in its own way
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inside.begin(Channel(int(sys.argv[1])))
    # what user code prints is none of the messages
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        _fuzz(json.loads(sys.stdin.readline()), messages)
    except BaseException as raised:  # noqa: BLE001 - user code may raise anything, also where it is loaded
        from fuzzvm.machine.blame import blamed
        from fuzzvm.machine.errors import ProgramError

        error = blamed(raised)
        if isinstance(error, ProgramError):
            print(json.dumps({"broken": [error.message, error.filename, error.line]}), file=messages, flush=True)
        else:
            traceback.print_exception(error)
        # signals have no handlers any more while the interpreter ends
        os._exit(1)


def _fuzz(settings: dict[str, Any], messages: TextIO) -> None:
    import atheris

    from fuzzvm.machine.errors import ProgramError, StoppedError
    from fuzzvm.machine.schedule import format_schedule, parse_schedule
    from fuzzvm.mitigations import registry, sent_files

    # Code coverage is wanted where the calls decide what to do. The machine and the rest of the kernel run the same
    # code whatever the schedule, and instrumented they are three times slower; atheris instruments what is imported
    # for the first time in the block below, so they are imported before it.
    from fuzzvm.runs.coverage import InterleavingCoverage
    from fuzzvm.runs.engines import rotation
    from fuzzvm.runs.guided import codec, mutator
    from fuzzvm.runs.guided.counters import FeatureCounters
    from fuzzvm.runs.happened import Happened
    from fuzzvm.runs.plans.orders import FollowOrders, Orders
    from fuzzvm.runs.plans.plan import plan_in_accesses
    from fuzzvm.runs.walks.runs import Runs

    importlib.import_module("fuzzvm.kernel.ptdump")
    importlib.import_module("fuzzvm.kernel.jump_label")
    with atheris.instrument_imports(include=["fuzzvm"], enable_loader_override=False):
        importlib.import_module("fuzzvm.kernel.vmalloc")
        registry.shipped()

    from fuzzvm.scenario.scenario import Scenario
    from fuzzvm.scenario.system import System

    sent_files.provide_data(settings["files"])
    systems = [
        System(
            Scenario.from_data(target["scenario"]),
            registry.get(target["mitigation"]),
            target["memory"],
            without=target["without"],
        )
        for target in settings["systems"]
    ]
    turns = [systems.index(system) for system in rotation(systems)]
    known = [Orders() for _ in systems]
    coverage = InterleavingCoverage()
    counters = FeatureCounters(atheris)
    happened = Happened()
    walks = Runs(happened)
    deadline = None if settings["seconds"] is None else time.monotonic() + settings["seconds"]
    runs = steps = 0
    reported = time.monotonic()

    def say(**message: object) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    def progress() -> None:
        seen = [(one.runs, one.first) for one in map(happened.of, systems)]
        covered = {"pairs": len(coverage), "undiscovered": coverage.undiscovered()}
        say(runs=runs, steps=steps, counters=counters.active, happened=seen, **covered)

    def end() -> None:
        # the last report is not to be stopped as well
        inside.disarm()
        stopping.withdraw()
        progress()
        # atheris' own exit would wait for libFuzzer to print its statistics
        os._exit(0)

    def ending(callback: Callable[..., T]) -> Callable[..., T]:
        """Let a callback of libFuzzer end this process where the guard stops it: atheris would exit with a failure."""

        def called(*arguments: Any) -> T:
            try:
                return callback(*arguments)
            except StoppedError:
                end()
                raise

        return called

    def test_one_input(data: bytes) -> None:
        nonlocal runs, steps, reported
        now = time.monotonic()
        if (deadline is not None and now >= deadline) or (settings["runs"] is not None and runs >= settings["runs"]):
            end()
        if now - reported >= PROGRESS_SECONDS:
            reported = now
            progress()
        index = codec.system_of(data, len(systems))
        system = systems[index]
        cpus = system.cpus
        _, plan = codec.decode(data, len(systems), cpus if system.memory == "sc" else 2 * cpus)
        chooser = FollowOrders(plan, known[index])
        try:
            execution = walks.execute(system, chooser, coverage)
        except ProgramError as error:
            say(broken=[error.message, error.filename, error.line])
            end()
            return
        chooser.end()
        runs += 1
        steps += execution.steps
        happened.ended(system)
        counters.report([(index, pair) for pair in coverage.now])
        if execution.failure is not None:
            failed = {"schedule": format_schedule(execution.schedule), "error": execution.failure.error}
            say(system=index, run=runs, **failed)
            if not settings["keep_going"]:
                end()

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutator.mutate(data, max_size, Random(seed), known, turns[runs % len(turns)])

    seeds = Path(settings["inputs"])
    for number, (index, schedule) in enumerate(settings["seeds"]):
        plan = plan_in_accesses(systems[index].machine(), parse_schedule(schedule))
        (seeds / f"seed-{number}").write_bytes(codec.encode(index, plan))

    # libFuzzer takes seed 0 for "draw one", so seeds begin at 1
    arguments = [f"-seed={settings['seed'] % (2**31 - 1) + 1}", "-max_len=4096", "-len_control=0", "-verbosity=0"]
    # its alarm would be in the place of that of the guard
    arguments += ["-timeout=0", "-handle_int=0"]
    arguments.append(f"-artifact_prefix={seeds.parent}/")
    atheris.Setup(
        [sys.argv[0], *arguments, str(seeds)],
        ending(test_one_input),
        # none for crossovers: libFuzzer would make half of its inputs by it
        custom_mutator=ending(custom_mutator),
    )
    with inside.bounded(StoppedError, name="the time for the search is over", seconds=settings["seconds"]):
        atheris.Fuzz()


if __name__ == "__main__":
    main()
