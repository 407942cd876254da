"""Reads herd7's litmus format for AArch64 (grammar.lark) into a `program.Test`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.exceptions import VisitError

from fuzzvm.litmus.faults import FAULTS
from fuzzvm.litmus.headers import cache_type, translation_of
from fuzzvm.litmus.program import (
    Code,
    Condition,
    Constant,
    Declaration,
    Entry,
    FaultPlace,
    Immediate,
    Instruction,
    Label,
    LitmusError,
    Memory,
    Name,
    Operand,
    Place,
    Relative,
    Shift,
    Shown,
    Test,
    Thread,
    Valuation,
    entry_name,
    show_instruction,
)
from fuzzvm.litmus.refusal import refusal

_THREAD = re.compile(r"P(\d{1,4})(\.F)?", re.ASCII)
_REGISTER = re.compile(r"[WX](\d{1,4})", re.ASCII)
_ENTRY = "pte_"
_PAGE = "phy_"
"""What names begin with that herd7 takes for page-table entries and physical addresses."""
_FAULT = re.compile(r"[A-Z]\w+|.+:\w+", re.ASCII)
"""The kind of a fault, which a location's name is not taken for."""
_BITS = frozenset({"valid", "af", "db", "dbm"})
MAX_DIGITS = 20
"""Digits of a number: 64 bits have no more."""
MAX_DEPTH = 100
"""How deeply a condition may be nested; parsing and evaluating one take a few frames of the stack for each level."""
MAX_SHIFT = 63


def parse(text: str) -> Test:
    """Return the test that a text holds. Raises LitmusError naming the line and what is wrong."""
    try:
        tree = _parser().parse(text, start="test")
    except UnexpectedInput as error:
        raise _syntax_error(error, text) from None
    _check_depth(tree)
    test: Test = _transform(tree)
    return test


def _check_depth(tree: Any) -> None:
    """Raise LitmusError where the parse tree is too deep to be walked by recursion."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in getattr(node, "children", ())]
    if level:
        inner = level[0]
        while getattr(inner, "children", ()):
            inner = inner.children[0]
        raise LitmusError("nested too deeply", getattr(inner, "line", None) or 1)


def parse_instruction(text: str, line: int) -> Instruction:
    """Return the instruction that a text holds. Raises LitmusError, at `line`, if it holds none."""
    try:
        tree = _parser().parse(text, start="instruction")
    except UnexpectedInput:
        raise LitmusError(f"{text!r} is no instruction", line) from None
    instruction: Instruction = _transform(tree)
    return Instruction(instruction.mnemonic, instruction.operands, line)


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = (files("fuzzvm.litmus") / "grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start=["test", "instruction"], maybe_placeholders=False)


def _transform(tree: Any) -> Any:
    try:
        return _Build().transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, LitmusError):
            raise error.orig_exc from None
        raise


def _syntax_error(error: UnexpectedInput, text: str) -> LitmusError:
    line = error.line if isinstance(error.line, int) and error.line > 0 else text.count("\n") + 1
    at = len(text)
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
    elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
        at = error.token.start_pos or 0
    return LitmusError(refusal(text, at), line)


class _Build(Transformer[Any, Any]):
    """Turns the parse tree into a Test, bottom up."""

    def number(self, items: list[Any]) -> int:
        return _integer(items[0])

    def name(self, items: list[Any]) -> Constant:
        return Name(_location(items[0]))

    def entry_of(self, items: list[Any]) -> Token:
        name: Token = items[1]
        return name.update(value=entry_name(_location(name)))

    def entry_name(self, items: list[Any]) -> Constant:
        return Name(str(items[0]))

    def bit_field(self, items: list[Any]) -> tuple[Token, int]:
        name, number = items
        value = _integer(number)
        if str(name) not in _BITS or value not in (0, 1):
            raise LitmusError(f"the field {name}:{number} of a page-table entry is not supported", name.line)
        return name, value

    def page_field(self, items: list[Any]) -> tuple[Token, str]:
        name, page = items[0], str(items[-1])
        if len(items) == 2:
            if not page.startswith(_PAGE):
                raise LitmusError(f"the field {name}:{page} of a page-table entry is not supported", name.line)
            page = page[len(_PAGE) :]
        if str(name) != "oa":
            raise LitmusError(f"the field {name} of a page-table entry is not supported", name.line)
        return name, page

    def entry(self, items: list[tuple[Token, int | str]]) -> Entry:
        page = ""
        fields = []
        for name, value in items:
            if isinstance(value, str):
                page = value
            else:
                fields.append((str(name), value))
        return Entry(page, tuple(fields), items[0][0].line or 1)

    def entry_place(self, items: list[Any]) -> tuple[Place, int]:
        return Place(None, str(items[0])), items[0].line

    def label_of(self, items: list[Any]) -> list[str]:
        return [str(items[0])]

    def fault_name(self, items: list[Any]) -> Token:
        name: Token = items[0]
        return name.update(value=":".join(map(str, items)).removeprefix("D-"))

    def fault(self, items: list[Any]) -> tuple[FaultPlace, int]:
        word, thread, *rest = items
        match = _THREAD.fullmatch(thread)
        if match is None or match[2]:
            raise LitmusError(f"{thread} is no thread that a fault can be of", word.line)
        label = rest.pop(0)[0] if rest and isinstance(rest[0], list) else ""
        location = _location(rest.pop(0)) if rest and not _FAULT.fullmatch(rest[0]) else ""
        kind = str(rest.pop(0)) if rest else ""
        if rest or (kind and kind not in FAULTS):
            raise LitmusError(f"faults of kind {' '.join([kind, *rest])} are not supported", word.line)
        return FaultPlace(int(match[1]), label, location, kind), word.line

    def faulted(self, items: list[Any]) -> Condition:
        place = items[0][0]
        return Condition(f"f{str(place)[1:]}", (place,), lambda state, resolve: bool(state[place]))

    def label(self, items: list[Any]) -> Label:
        return _label(f"{items[0]}:{items[1]}", items[0].line)

    def quoted(self, items: list[Any]) -> Constant:
        kind, text = str(items[0]), str(items[1])[1:-1]
        if kind == "label":
            return _label(text, items[0].line)
        if kind == "instr":
            return Code(parse_instruction(text, items[0].line))
        raise LitmusError(f"value {kind}:{items[1]} is not supported", items[0].line)

    def global_place(self, items: list[Any]) -> tuple[Place, int]:
        return Place(None, _location(items[0])), items[0].line

    def register_place(self, items: list[Any]) -> tuple[Place, int]:
        name = str(items[1]).upper()
        match = _REGISTER.fullmatch(name)
        if match is None or int(match[1]) > 30:
            raise LitmusError(f"register {items[1]} is not supported", items[1].line)
        thread = items[0].update(value=str(items[0]).removeprefix("P"))
        if not str(thread).isdecimal():
            raise LitmusError(f"{items[0]} is no number of a thread", items[0].line)
        return Place(_integer(thread), f"X{int(match[1])}"), items[0].line

    def declaration(self, items: list[Any]) -> Declaration:
        index = next(index for index, item in enumerate(items) if isinstance(item, tuple))
        place, line = items[index]
        value = items[index + 1] if len(items) > index + 1 else None
        return Declaration(place, str(items[0]) if index else "", index > 1, value, line)

    def immediate(self, items: list[Any]) -> Immediate:
        return Immediate(_integer(items[0]))

    def name_operand(self, items: list[Any]) -> Name:
        return Name(str(items[0]))

    def shift_operand(self, items: list[Any]) -> Shift:
        amount = items[1].value
        if not 0 <= amount <= MAX_SHIFT:
            raise LitmusError(f"a shift by {amount}: 0 to {MAX_SHIFT} are possible", items[0].line)
        return Shift(str(items[0]).upper(), amount)

    def relative_operand(self, items: list[Any]) -> Relative:
        return Relative(_integer(items[0].update(value=str(items[0])[1:])))

    def memory_operand(self, items: list[Any]) -> Memory:
        writeback = isinstance(items[-1], Token) and items[-1].type == "BANG"
        rest = items[1:-1] if writeback else items[1:]
        return Memory(str(items[0]).upper(), tuple(rest), writeback)

    def operands(self, items: list[Operand]) -> tuple[Operand, ...]:
        return tuple(items)

    def instruction(self, items: list[Any]) -> Instruction:
        operands = items[1] if len(items) > 1 else ()
        return Instruction(str(items[0]).upper(), operands, items[0].line)

    def label_mark(self, items: list[Any]) -> list[str]:
        return [str(items[0])]

    def cell(self, items: list[Any]) -> tuple[list[str], Instruction | None]:
        labels = [item[0] for item in items if isinstance(item, list)]
        rest = items[len(labels) :]
        return labels, self.instruction(rest) if rest else None

    def row(self, items: list[Any]) -> list[Any]:
        return items

    def code(self, items: list[Any]) -> tuple[list[Thread], dict[int, Thread]]:
        threads: list[Thread] = []
        handlers: dict[int, Thread] = {}
        columns: list[Thread] = []
        for _, instruction in items[0]:
            match = None if instruction is None else _THREAD.fullmatch(instruction.mnemonic)
            if match is None or (not match[2] and int(match[1]) != len(threads)):
                line = 1 if instruction is None else instruction.line
                raise LitmusError("the first row of the code must name the threads P0, P1, ...", line)
            columns.append(Thread())
            if match[2]:
                handlers[int(match[1])] = columns[-1]
            else:
                threads.append(columns[-1])
        for row in items[1:]:
            if len(row) > len(columns):
                line = next((cell[1].line for cell in row if cell[1] is not None), 1)
                raise LitmusError(f"a row of {len(row)} columns for {len(columns)} threads", line)
            for column, (labels, instruction) in zip(columns, row, strict=False):
                for label in labels:
                    column.labels[label] = len(column.code)
                if instruction is not None:
                    column.code.append(instruction)
        return threads, handlers

    def locations(self, items: list[Any]) -> tuple[Shown, ...]:
        return tuple(place for place, _ in items[1:])

    def equality(self, items: list[Any]) -> Condition:
        (place, _), value = items
        shown = str(place)

        def holds(state: Valuation, resolve: Callable[[Place, Constant], int]) -> bool:
            return state[place] == resolve(place, value)

        return Condition(f"{shown}={_shown(value)}", (place,), holds, ((place, value),))

    def inequality(self, items: list[Any]) -> Condition:
        return self.negation([None, self.equality(items)])

    def truth(self, items: list[Any]) -> Condition:
        return Condition("true", (), lambda state, resolve: True, ())

    def negation(self, items: list[Any]) -> Condition:
        inner: Condition = items[1]
        return Condition(f"not ({inner.text})", inner.places, lambda state, resolve: not inner.holds(state, resolve))

    def conjunction(self, items: list[Condition]) -> Condition:
        if len(items) == 1:
            return items[0]
        text = " /\\ ".join(f"({item.text})" if " \\/ " in item.text else item.text for item in items)
        asked = [item.equalities for item in items]
        return Condition(
            text,
            _places(items),
            lambda state, resolve: all(i.holds(state, resolve) for i in items),
            None if None in asked else tuple(equality for each in asked if each is not None for equality in each),
        )

    def disjunction(self, items: list[Condition]) -> Condition:
        if len(items) == 1:
            return items[0]
        text = " \\/ ".join(item.text for item in items)
        return Condition(text, _places(items), lambda state, resolve: any(i.holds(state, resolve) for i in items))

    def final(self, items: list[Any]) -> tuple[str, Condition, tuple[Shown, ...]]:
        locations = items[0] if isinstance(items[0], tuple) else ()
        if len(items) == 1 and locations is items[0]:
            return "forall", self.truth([]), locations  # what herd7 asks of a test that asks nothing
        return str(items[-2]), items[-1], locations

    def test(self, items: list[Any]) -> Test:
        title, *rest = items
        headers = []
        declarations = []
        for item in rest[:-2]:
            if isinstance(item, Declaration):
                declarations.append(item)
            elif isinstance(item, Token) and item.type == "HEADER":
                key, _, value = str(item).partition("=")
                headers.append((key, value.strip(), item.line or 1))
        threads, handlers = rest[-2]
        quantifier, condition, locations = rest[-1]
        name = str(title).split()[1]
        if not name.isprintable():
            raise LitmusError("the title has a character that cannot be printed", title.line)
        test = Test(name, cache_type(headers), declarations, threads, handlers, quantifier, condition, locations)
        test.translation = translation_of(test, headers)
        return test


def _integer(token: Token) -> int:
    text = str(token)
    if len(text.lstrip("+-")) > MAX_DIGITS:
        raise LitmusError(f"number {text[:MAX_DIGITS]}... is longer than 64 bits", token.line or 1)
    return int(text, 16 if "x" in text.lower() else 10)


def _location(token: Token) -> str:
    """Return the name of a location. Raises LitmusError for the physical address of one."""
    name = str(token)
    if name.startswith(_PAGE):
        raise LitmusError(f"physical addresses are supported in page-table entries only: {name}", token.line or 1)
    return entry_name(name[len(_ENTRY) :]) if name.startswith(_ENTRY) else name


def _label(text: str, line: int) -> Label:
    thread, _, name = text.partition(":")
    match = _THREAD.fullmatch(thread if thread[:1] == "P" else f"P{thread}")
    if match is None or match[2] or not name:
        raise LitmusError(f"{text!r} is no label of a thread; tagged addresses are not supported", line)
    return Label(int(match[1]), name)


def _places(items: list[Condition]) -> tuple[Shown, ...]:
    return tuple(place for item in items for place in item.places)


def _shown(value: Constant) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, Label):
        return f'label:"P{value.thread}:{value.name}"'
    if isinstance(value, Code):
        return show_instruction(value.instruction)
    return str(value)
