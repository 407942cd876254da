"""The types of an image: offsets and sizes of members, enumerators, signatures of functions, types of variables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.records import VOID


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union, or of one in it. `offset` and `size` are bytes, of the whole that was asked about.

    A bit field has `bits`, their number, and `first_bit`, counted from the start of the whole.
    """

    name: str
    offset: int
    size: int
    type: Type
    first_bit: int | None = None
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function; the name is "" where only a declaration is known."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and returns. `unit` is the file that defines it, "" if only a declaration is known."""

    name: str
    unit: str
    result: Type
    parameters: tuple[Parameter, ...]
    variadic: bool

    def __str__(self) -> str:
        given = [_declare(parameter.type, parameter.name) for parameter in self.parameters]
        given += ["..."] if self.variadic else []
        return f"{_declare(self.result, self.name)}({', '.join(given) or 'void'})"


class Type:
    """A type. `kind` is base, pointer, struct, union, enum, array, typedef, function, void or unknown."""

    def __init__(self, types: Types, number: int) -> None:
        self._types = types
        self.number = number
        self._record: list[Any] = ["void"] if number == VOID else types.records[number]
        self.kind: str = self._record[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and other.number == self.number and other._types is self._types

    def __hash__(self) -> int:
        return hash(self.number)

    def __str__(self) -> str:
        return _declare(self, "")

    @property
    def name(self) -> str:
        """Return its name, "" if it has none."""
        return self._record[1] or "" if self.kind in ("base", "struct", "union", "enum", "typedef") else ""

    @cached_property
    def size(self) -> int:
        """Return its size in bytes. Raises ImageError where it has none: void, functions, what is only declared."""
        kind = self.kind
        size: int | None = None
        if kind in ("base", "struct", "union", "enum", "unknown"):
            size = self.complete()._record[2]
        elif kind == "pointer":
            size = self._record[1]
        elif kind == "typedef":
            size = self.target.size
        elif kind == "array" and None not in self._record[2]:
            size = self.target.size
            for count in self._record[2]:
                size *= count
        if size is None:
            raise ImageError(f"the size of {self} is not known")
        return size

    @property
    def target(self) -> Type:
        """Return what a pointer points to, an array consists of, or a typedef stands for."""
        place = {"pointer": 2, "array": 1, "typedef": 2}.get(self.kind)
        if place is None:
            raise ImageError(f"{self} is no pointer, array or typedef")
        return Type(self._types, self._record[place])

    @property
    def counts(self) -> tuple[int | None, ...]:
        """Return the number of elements of an array, in each dimension; None where it is open."""
        if self.kind != "array":
            raise ImageError(f"{self} is no array")
        return tuple(self._record[2])

    @property
    def values(self) -> dict[str, int]:
        """Return the values of an enum's names."""
        if self.kind != "enum":
            raise ImageError(f"{self} is no enum")
        return dict(self.complete()._record[3])

    @property
    def signed(self) -> bool:
        """Return whether a number of this type has a sign (DW_ATE_signed and DW_ATE_signed_char)."""
        plain = self.resolved()
        return plain.kind == "base" and plain._record[3] in (5, 6)

    def resolved(self) -> Type:
        """Return the type without typedefs."""
        return self.target.resolved() if self.kind == "typedef" else self

    def complete(self) -> Type:
        """Return the definition of what is only declared here, where the image has exactly one."""
        if self.kind in ("struct", "union", "enum") and self._record[2] is None:
            return self._types.named(f"{self.kind} {self.name}")
        return self

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Return the members of a struct or union; those of one without a name in it are its own."""
        return tuple(self._members(0))

    def path_at(self, offset: int) -> str:
        """Return the member or element at an offset as C writes it, ".owner.counter". Raises ImageError for none."""
        of = self.resolved().complete()
        if of.kind in ("struct", "union"):
            for member in of.members:
                if member.bits is None and member.offset <= offset < member.offset + member.size:
                    return f".{member.name}{member.type.path_at(offset - member.offset)}"
        elif of.kind == "array" and len(of.counts) == 1:
            number, rest = divmod(offset, of.target.size)
            return f"[{number}]{of.target.path_at(rest)}"
        elif offset == 0:
            return ""
        raise ImageError(f"{self} has nothing at offset {offset}")

    def _members(self, base: int) -> Iterator[Member]:
        plain = self.resolved().complete()
        if plain.kind not in ("struct", "union"):
            raise ImageError(f"{self} has no members")
        for name, offset, number, first, bits in plain._record[3]:
            of = Type(self._types, number)
            if name is None and of.resolved().kind in ("struct", "union"):
                yield from of._members(base + offset)
            elif name is not None:
                bit = None if first is None else first + base * 8
                yield Member(name, base + offset, _size_or_zero(of), of, bit, bits)


def _size_or_zero(of: Type) -> int:
    """Return the size of a member; an array at the end may be open, and has none."""
    try:
        return of.size
    except ImageError:
        return 0


def _declare(of: Type, name: str) -> str:
    """Return the declaration of a name of a type, as C has it."""
    if of.kind == "void":
        text = "void"
    elif of.kind == "pointer":
        if of.target.kind == "function":
            given = ", ".join(str(Type(of._types, number)) for number in of.target._record[2])
            return f"{Type(of._types, of.target._record[1])} (*{name})({given or 'void'})"
        return _declare(of.target, f"*{name}")
    elif of.kind == "array":
        return _declare(of.target, name) + "".join(f"[{'' if count is None else count}]" for count in of.counts)
    elif of.kind in ("struct", "union", "enum"):
        text = f"{of.kind} {of.name or '{...}'}"
    else:
        text = of.name or of.kind
    return f"{text} {name}".rstrip()


class Types:
    """The types of an image, by name. Raises ImageError for what the image does not have, or has more than one of."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.records: list[list[Any]] = data["records"]
        self._names: dict[str, list[int]] = data["names"]
        self._enumerators: dict[str, list[int]] = data["enumerators"]
        self._functions: dict[str, list[list[Any]]] = data["functions"]
        self._variables: dict[str, list[list[Any]]] = data["variables"]
        self._cache: dict[tuple[str | int, ...], Member] = {}

    def named(self, name: str) -> Type:
        """Return a type by its name: "struct page", "pte_t", or "page" for a struct, union or enum of that name."""
        numbers = self._names.get(name, [])
        if not numbers:
            numbers = [n for kind in ("struct", "union", "enum") for n in self._names.get(f"{kind} {name}", [])]
        # what is only declared is no other type
        known = [
            n
            for n in numbers
            if self.records[n][0] not in ("struct", "union", "enum") or self.records[n][2] is not None
        ]
        if not known:
            raise ImageError(f"the image's debug information does not have the type {name}")
        if len(known) > 1:
            raise ImageError(f"the image has {len(known)} types with the name {name}")
        return Type(self, known[0])

    def aggregate(self, name: str) -> Type:
        """Return a struct or union, by its own name or by that of a typedef for it."""
        found = self.named(name).resolved().complete()
        if found.kind not in ("struct", "union"):
            raise ImageError(f"{name} is no struct or union")
        return found

    def size(self, name: str) -> int:
        """Return the size of a type in bytes."""
        return self.named(name).size

    def member(self, *path: str | int) -> Member:
        """Return a member by its path from a type: ("mm_struct", "mmap_lock", "count").

        A number in it is the index of an array's element.
        """
        if path not in self._cache:
            self._cache[path] = self._member(path)
        return self._cache[path]

    def offset(self, *path: str | int) -> int:
        """Return the offset of a member in bytes, by its path."""
        return self.member(*path).offset

    def _member(self, path: tuple[str | int, ...]) -> Member:
        first = path[0]
        of, offset, found = self.named(str(first)), 0, None
        for depth, step in enumerate(path[1:], start=1):
            plain = of.resolved()
            if isinstance(step, int):
                if plain.kind != "array" or len(plain.counts) != 1:
                    raise ImageError(f"{_path(path[:depth])} is no array")
                element = plain.target
                found = Member(str(step), offset + step * element.size, element.size, element)
            else:
                inner = next((member for member in of.members if member.name == step), None)
                if inner is None:
                    raise ImageError(f"{_path(path[:depth])} has no member {step}")
                bit = None if inner.first_bit is None else inner.first_bit + offset * 8
                found = Member(step, offset + inner.offset, inner.size, inner.type, bit, inner.bits)
            of, offset = found.type, found.offset
        if found is None:
            return Member(str(first), 0, of.size, of)
        return found

    def enumerator(self, name: str) -> int:
        """Return the value of a name of any enum."""
        values = self._enumerators.get(name, [])
        if len(values) != 1:
            raise ImageError(f"the image has {len(values) or 'no'} values for the enumerator {name}")
        return values[0]

    def function(self, name: str, unit: str = "") -> Signature:
        """Return the signature of a function; `unit` says which of several with one name."""
        known = self._functions.get(name, [])
        if not known:
            raise ImageError(f"the image's debug information does not have the function {name}")
        defined = [entry for entry in known if entry[0]] or known
        entries = [entry for entry in defined if not unit or entry[0] == unit] or defined
        if len({(result, *(of for _, of in given), variadic) for _, result, given, variadic in entries}) > 1:
            raise ImageError(f"{name} has several signatures: in {', '.join(entry[0] or '?' for entry in entries)}")
        # a definition says the names of parameters, a declaration may not
        where, result, parameters, variadic = max(entries, key=lambda entry: [bool(label) for label, _ in entry[2]])
        given = tuple(Parameter(label, Type(self, number)) for label, number in parameters)
        return Signature(name, where, Type(self, result), given, variadic)

    def is_function(self, name: str) -> bool:
        """Return whether the debug information knows a function by this name."""
        return name in self._functions

    def variable(self, name: str, address: int | None = None) -> Type:
        """Return the type of a variable; `address` says which of several with one name."""
        known = self._variables.get(name, [])
        placed = [entry for entry in known if entry[1] == address] if address is not None else []
        numbers = {entry[2] for entry in placed or known}
        if not numbers:
            raise ImageError(f"the image's debug information does not have the variable {name}")
        found = [Type(self, number) for number in sorted(numbers)]
        # a declaration may leave the size of an array open
        sized = [of for of in found if of.kind != "array" or None not in of.counts]
        if len(sized or found) > 1:
            raise ImageError(f"the image has several variables with the name {name}")
        return (sized or found)[0]


def _path(steps: tuple[str | int, ...]) -> str:
    first, *rest = steps
    return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)
