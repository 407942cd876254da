"""Schemes stacked: `A+B` is both at once, A outside and B inside."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fuzzvm.kernel.functions import BASE
from fuzzvm.kernel.hooks import WALK_ASSERTIONS, Mitigation, answer
from fuzzvm.mitigations.releases.release import Release

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.kernel.pgtable import Level
    from fuzzvm.machine.ops import Address, Steps


class StackingError(Exception):
    """These schemes cannot be stacked; the message says why, in one line."""


def overrides(scheme: type[Mitigation], hook: str) -> bool:
    """Return whether a scheme has a hook of its own."""
    return getattr(scheme, hook) is not getattr(Mitigation, hook)


class _Stacked(Mitigation):
    """The hooks of several schemes as one: what comes before runs in their order, what comes after the other way.

    Each scheme gets back the tokens that its own hooks have returned.
    """

    parts: ClassVar[tuple[type[Mitigation], ...]]

    @classmethod
    def on(cls, arch: str) -> type[Mitigation]:
        there = tuple(part.on(arch) for part in cls.parts)
        return cls if there == cls.parts else stack(there, cls.name)

    def __init__(self) -> None:
        self._schemes = tuple(part() for part in self.parts)
        self._frees = next((scheme for scheme in self._schemes if overrides(type(scheme), "free_table")), None)

    def attach(self, boot: Boot) -> None:
        for scheme in self._schemes:
            scheme.attach(boot)

    def huge_vmap_allowed(self) -> bool:
        return all(answer(scheme, "huge_vmap_allowed", scheme.huge_vmap_allowed()) for scheme in self._schemes)

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        index = 0
        while index < len(self._schemes):
            go_on = yield from self._schemes[index].before_promotion(k, level)
            if not answer(self._schemes[index], "before_promotion", go_on):
                # those before it have agreed, and expect to be told of the end
                yield from self._promotion_ends(k, level, index)
                return False
            index += 1
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from self._promotion_ends(k, level, len(self._schemes))

    def _promotion_ends(self, k: Kernel, level: Level, agreed: int) -> Steps[None]:
        while agreed:
            agreed -= 1
            yield from self._schemes[agreed].after_promotion(k, level)

    def before_clear(self, k: Kernel, level: Level) -> Steps[tuple[Any, ...]]:
        return (yield from self._begin("before_clear", k, level))

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from self._in_order("after_clear", token, k, level)

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from self._in_order("before_free", token, k, level)

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        assert self._frees is not None
        yield from self._frees.free_table(k, table, level)

    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from self._in_reverse("after_free", token, k, level)

    def before_change_attr(self, k: Kernel) -> Steps[tuple[Any, ...]]:
        return (yield from self._begin("before_change_attr", k))

    def after_change_attr(self, k: Kernel, token: Any) -> Steps[None]:
        yield from self._in_reverse("after_change_attr", token, k)

    def before_split_alloc(self, k: Kernel) -> Steps[None]:
        index = 0
        while index < len(self._schemes):
            yield from self._schemes[index].before_split_alloc(k)
            index += 1

    def after_split_alloc(self, k: Kernel) -> Steps[None]:
        index = len(self._schemes)
        while index:
            index -= 1
            yield from self._schemes[index].after_split_alloc(k)

    def before_collapse(self, k: Kernel) -> Steps[tuple[Any, ...]]:
        return (yield from self._begin("before_collapse", k))

    def before_collapse_free(self, k: Kernel) -> Steps[tuple[Any, ...]]:
        return (yield from self._begin("before_collapse_free", k))

    def after_collapse_free(self, k: Kernel, token: Any) -> Steps[None]:
        yield from self._in_reverse("after_collapse_free", token, k)

    def after_collapse(self, k: Kernel, token: Any) -> Steps[None]:
        yield from self._in_reverse("after_collapse", token, k)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[tuple[Any, ...]]:
        return (yield from self._begin("before_walk", k, mm))

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from self._in_order("walk_locked", token, k, mm)

    def before_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[tuple[Any, ...]]:
        tokens: tuple[Any, ...] = ()
        while len(tokens) < len(self._schemes):
            mine = yield from self._schemes[len(tokens)].before_attempt(k, mm, _of(token, len(tokens)))
            tokens = (*tokens, mine)
        return tokens

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        index = 0
        while index < len(self._schemes):
            go_on = yield from self._schemes[index].before_descend(k, level, pxdp, pxd)
            if not go_on:
                # those before it have agreed, and hold on to the table
                yield from self._ascend(k, level, pxd, index)
                return False
            index += 1
        return True

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        yield from self._ascend(k, level, pxd, len(self._schemes))

    def _ascend(self, k: Kernel, level: Level, pxd: int, agreed: int) -> Steps[None]:
        while agreed:
            agreed -= 1
            yield from self._schemes[agreed].after_descend(k, level, pxd)

    def after_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[bool]:
        again = False
        index = len(self._schemes)
        while index:
            index -= 1
            mine = yield from self._schemes[index].after_attempt(k, mm, _of(token, index))
            again = again or mine
        return again

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from self._in_reverse("walk_unlocking", token, k, mm)

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from self._in_reverse("after_walk", token, k, mm)

    def _begin(self, hook: str, *about: Any) -> Steps[tuple[Any, ...]]:
        """Run a hook that opens something in each scheme; return what each returned."""
        tokens: tuple[Any, ...] = ()
        while len(tokens) < len(self._schemes):
            token = yield from getattr(self._schemes[len(tokens)], hook)(*about)
            tokens = (*tokens, token)
        return tokens

    def _in_order(self, hook: str, token: Any, *about: Any) -> Steps[None]:
        index = 0
        while index < len(self._schemes):
            yield from getattr(self._schemes[index], hook)(*about, _of(token, index))
            index += 1

    def _in_reverse(self, hook: str, token: Any, *about: Any) -> Steps[None]:
        index = len(self._schemes)
        while index:
            index -= 1
            yield from getattr(self._schemes[index], hook)(*about, _of(token, index))


def _of(tokens: Any, index: int) -> Any:
    """Return one scheme's token, of those that the stack's first hook returned; it has none where no scheme has one."""
    return None if tokens is None else tokens[index]


HOOKS = tuple(name for name, member in vars(Mitigation).items() if inspect.isgeneratorfunction(member))


def stack(parts: Sequence[type[Mitigation]], name: str) -> type[Mitigation]:
    """Return a scheme that is several at once, under that name; it has a hook where one of them has it.

    It claims nothing: two schemes that are safe alone can deadlock together, and two that fail alone can be the two
    halves of one that is safe. Raises StackingError where two of them free tables in a way of their own, or are
    releases.
    """
    freeing = [part.name for part in parts if overrides(part, "free_table")]
    if len(freeing) > 1:
        raise StackingError(f"{' and '.join(freeing)} both free tables in a way of their own")
    releases = [part.name for part in parts if issubclass(part, Release)]
    if len(releases) > 1:
        raise StackingError(f"{' and '.join(releases)} are two kernels")
    members: dict[str, Any] = {
        "__doc__": " and ".join(part.name for part in parts) + ", stacked.",
        "name": name,
        "summary": " and ".join(part.name for part in parts),
        "parts": tuple(parts),
        "gives_up": frozenset[str]().union(*(part.gives_up for part in parts)),
        # who takes an assertion away takes it away for all
        "walk_assertion": max((part.walk_assertion for part in parts), key=WALK_ASSERTIONS.index),
        "isolates_first": any(part.isolates_first for part in parts),
        "functions": next((part.functions for part in parts if part.functions is not BASE), BASE),
    }
    for hook in HOOKS:
        if not any(overrides(part, hook) for part in parts):
            members[hook] = getattr(Mitigation, hook)
    return type("Stacked", (_Stacked,), members)
