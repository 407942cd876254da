"""Arithmetic, logic, moves, bit fields, multiplication, selection (Arm ARM C6.2)."""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.arm64.operands import Extension, Immediate, Name, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import FLAGS, MASK64
from fuzzvm.compiled.arm64.semantics.common import (
    Builder,
    assign,
    condition,
    extended,
    mask,
    read,
    same_width,
    shifted,
    write,
)
from fuzzvm.compiled.isa.effects import Assignment, Effect
from fuzzvm.compiled.isa.expressions import ZERO, Choose, Constant, Expression, Local, Slot, apply

_LOGIC = {
    "and": "{0} & {1}",
    "orr": "{0} | {1}",
    "eor": "{0} ^ {1}",
    "bic": "{0} & ~{1}",
    "orn": "({0} | ~{1}) & {mask:#x}",
    "eon": "({0} ^ ~{1}) & {mask:#x}",
}
_ONES = Constant(1)


def _second(first: Register, rest: tuple[Operand, ...], bits: int) -> Expression:
    """Return the last operand of an arithmetic or logical instruction: immediate, shifted or extended register."""
    match rest:
        case [Immediate(value)]:
            return Constant(value & mask(bits))
        case [Immediate(value), Extension("lsl", 12)]:
            return Constant(value << 12 & mask(bits))
        case [Register() as register] if register.bits == bits:
            return read(register)
        case [Register() as register, Extension() as extension] if extension.kind[1:-1] == "xt":
            return extended(register, extension, bits)
        case [Register() as register, Extension() as extension] if register.bits == bits:
            return shifted(read(register), extension, bits)
    raise OperandError("second operand")


def _sum_flags(a: Expression, b: Expression, carry: Expression | None, bits: int) -> tuple[Expression, Expression]:
    """Return a + b + carry and its flags (Arm ARM, AddWithCarry)."""
    first, second = Local("a", a), Local("b", b)
    if carry is None:
        total = Local("t", apply("{0} + {1}", first, second))
    else:
        total = Local("t", apply("{0} + {1} + {2}", first, second, carry))
    result = Local("s", apply(f"{{0}} & {mask(bits):#x}", total))
    flags = apply(
        f"{{0}} >> {bits - 4} & 8 | (0 if {{0}} else 4) | (2 if {{1}} > {mask(bits):#x} else 0)"
        f" | (({{2}} ^ {{0}}) & ({{3}} ^ {{0}})) >> {bits - 1}",
        result,
        total,
        first,
        second,
    )
    return result, flags


def _difference_flags(a: Expression, b: Expression, bits: int) -> tuple[Expression, Expression]:
    """Return a - b and its flags."""
    first, second = Local("a", a), Local("b", b)
    result = Local("s", apply(f"{{0}} - {{1}} & {mask(bits):#x}", first, second))
    flags = apply(
        f"{{0}} >> {bits - 4} & 8 | (0 if {{0}} else 4) | (2 if {{1}} >= {{2}} else 0)"
        f" | (({{1}} ^ {{2}}) & ({{1}} ^ {{0}})) >> {bits - 1}",
        result,
        first,
        second,
    )
    return result, flags


def _logic_flags(value: Expression, bits: int) -> tuple[Expression, Expression]:
    result = Local("s", value)
    return result, apply(f"{{0}} >> {bits - 4} & 8 | (0 if {{0}} else 4)", result)


def _with_flags(target: Register | None, result: tuple[Expression, Expression]) -> Effect:
    value, flags = result
    return Effect((*(write(target, value) if target is not None else ()), Assignment(FLAGS, flags)))


# Addition, subtraction, logic


def _add(operands: tuple[Operand, ...], _: int, *, subtract: bool, flags: bool) -> Effect:
    match operands:
        case [Register() as target, Register() as left, *rest]:
            bits = same_width(target, left)
            first, second = read(left), _second(left, tuple(rest), bits)
            if flags:
                both = _difference_flags(first, second, bits) if subtract else _sum_flags(first, second, None, bits)
                return _with_flags(target, both)
            return assign(target, apply(f"{{0}} {'-' if subtract else '+'} {{1}} & {mask(bits):#x}", first, second))
    raise OperandError("operands")


def _compare(operands: tuple[Operand, ...], _: int, *, subtract: bool) -> Effect:
    match operands:
        case [Register() as left, *rest]:
            first, second = read(left), _second(left, tuple(rest), left.bits)
            if subtract:
                return _with_flags(None, _difference_flags(first, second, left.bits))
            return _with_flags(None, _sum_flags(first, second, None, left.bits))
    raise OperandError("operands")


def _negate(operands: tuple[Operand, ...], address: int, *, flags: bool) -> Effect:
    match operands:
        case [Register() as target, *rest]:
            zero = Register(None, target.bits)
            return _add((target, zero, *rest), address, subtract=True, flags=flags)
    raise OperandError("operands")


def _add_carry(operands: tuple[Operand, ...], _: int, *, subtract: bool, flags: bool) -> Effect:
    match operands:
        case [Register() as target, Register() as left, Register() as right]:
            bits = same_width(target, left, right)
            second = apply(f"{{0}} ^ {mask(bits):#x}", read(right)) if subtract else read(right)
            carry = apply("{0} >> 1 & 1", Slot(FLAGS))
            both = _sum_flags(read(left), second, carry, bits)
            return _with_flags(target, both) if flags else assign(target, both[0])
    raise OperandError("operands")


def _negate_carry(operands: tuple[Operand, ...], address: int, *, flags: bool) -> Effect:
    match operands:
        case [Register() as target, Register() as right]:
            zero = Register(None, target.bits)
            return _add_carry((target, zero, right), address, subtract=True, flags=flags)
    raise OperandError("operands")


def _logic_value(name: str, left: Register, rest: tuple[Operand, ...], bits: int) -> Expression:
    if len(rest) == 2 and isinstance(rest[1], Extension) and rest[1].kind[1:-1] == "xt":
        raise OperandError(rest[1].kind)
    template = _LOGIC[name].replace("{mask:#x}", f"{mask(bits):#x}")
    return apply(template, read(left), _second(left, rest, bits))


def _logic(operands: tuple[Operand, ...], _: int, *, name: str, flags: bool) -> Effect:
    match operands:
        case [Register() as target, Register() as left, *rest]:
            bits = same_width(target, left)
            value = _logic_value(name, left, tuple(rest), bits)
            return _with_flags(target, _logic_flags(value, bits)) if flags else assign(target, value)
    raise OperandError("operands")


def _test(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register() as left, *rest]:
            return _with_flags(None, _logic_flags(_logic_value("and", left, tuple(rest), left.bits), left.bits))
    raise OperandError("operands")


# Moves


def _mov(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register() as target, Register() as source] if target.bits == source.bits:
            return assign(target, read(source))
        case [Register() as target, Immediate(value)]:
            return assign(target, Constant(value & mask(target.bits)))
    raise OperandError("operands")


def _half(rest: tuple[Operand, ...], bits: int) -> tuple[int, int]:
    """Return the immediate of a MOVZ, MOVN or MOVK, and how far it is shifted."""
    match rest:
        case [Immediate(value)] if 0 <= value < 1 << 16:
            return value, 0
        case [Immediate(value), Extension("lsl", amount)] if (
            0 <= value < 1 << 16 and amount % 16 == 0 and amount < bits
        ):
            return value, amount
    raise OperandError("immediate")


def _mov_half(operands: tuple[Operand, ...], _: int, *, inverted: bool) -> Effect:
    match operands:
        case [Register() as target, *rest]:
            value, amount = _half(tuple(rest), target.bits)
            value <<= amount
            return assign(target, Constant((~value if inverted else value) & mask(target.bits)))
    raise OperandError("operands")


def _movk(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register() as target, *rest]:
            value, amount = _half(tuple(rest), target.bits)
            kept = mask(target.bits) ^ (0xFFFF << amount)
            return assign(target, apply(f"{{0}} & {kept:#x} | {value << amount:#x}", read(target)))
    raise OperandError("operands")


def _mvn(operands: tuple[Operand, ...], address: int) -> Effect:
    match operands:
        case [Register() as target, *rest]:
            return _logic((target, Register(None, target.bits), *rest), address, name="orn", flags=False)
    raise OperandError("operands")


def _adr(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register(bits=64) as target, Immediate(value)]:
            return assign(target, Constant(value & MASK64))
    raise OperandError("operands")


# Shifts and bit fields


def _shift(operands: tuple[Operand, ...], address: int, *, kind: str) -> Effect:
    match operands:
        case [Register() as target, Register() as source, Immediate(amount)]:
            return assign(target, shifted(read(source), Extension(kind, amount), same_width(target, source)))
        case [Register() as target, Register() as source, Register() as amount_register]:
            bits = same_width(target, source, amount_register)
            # the amount is taken modulo the width
            amount_value = apply(f"{{0}} & {bits - 1}", read(amount_register))
            templates = {
                "lsl": f"{{0}} << {{1}} & {mask(bits):#x}",
                "lsr": "{0} >> {1}",
                "asr": f"signed({{0}}, {bits}) >> {{1}} & {mask(bits):#x}",
                "ror": f"({{0}} >> {{1}} | {{0}} << {bits} - {{1}}) & {mask(bits):#x}",
            }
            return assign(target, apply(templates[kind], read(source), amount_value))
    raise OperandError("operands")


def _bit_field(operands: tuple[Operand, ...], _: int, *, name: str) -> Effect:
    match operands:
        case [Register() as target, Register() as source, Immediate(lsb), Immediate(width)]:
            bits = same_width(target, source)
            if lsb < 0 or width < 1 or lsb + width > bits:
                raise OperandError("bit field")
            return assign(target, _field(name, target, source, lsb, width, bits))
    raise OperandError("operands")


def _field(name: str, target: Register, source: Register, lsb: int, width: int, bits: int) -> Expression:
    """Return what an alias of SBFM, BFM or UBFM writes."""
    field, sign = mask(width), 1 << (width - 1)
    value = read(source)
    match name:
        case "ubfx":
            return apply(f"{{0}} >> {lsb} & {field:#x}", value)
        case "ubfiz":
            return apply(f"({{0}} & {field:#x}) << {lsb}", value)
        case "sbfx":
            return apply(f"(({{0}} >> {lsb} & {field:#x}) ^ {sign:#x}) - {sign:#x} & {mask(bits):#x}", value)
        case "sbfiz":
            return apply(f"(({{0}} & {field:#x}) ^ {sign:#x}) - {sign:#x} << {lsb} & {mask(bits):#x}", value)
        case "bfi":
            kept = mask(bits) ^ (field << lsb)
            return apply(f"{{0}} & {kept:#x} | ({{1}} & {field:#x}) << {lsb}", read(target), value)
        case "bfxil":
            kept = mask(bits) ^ field
            return apply(f"{{0}} & {kept:#x} | {{1}} >> {lsb} & {field:#x}", read(target), value)
    raise OperandError(name)


def _bfc(operands: tuple[Operand, ...], address: int) -> Effect:
    match operands:
        case [Register() as target, *rest]:
            return _bit_field((target, Register(None, target.bits), *rest), address, name="bfi")
    raise OperandError("operands")


def _extend(operands: tuple[Operand, ...], _: int, *, kind: str) -> Effect:
    match operands:
        case [Register() as target, Register(bits=32) as source]:
            if kind == "sxtw" and target.bits == 32:
                raise OperandError(kind)
            return assign(target, extended(source, Extension(kind, 0), target.bits))
    raise OperandError("operands")


def _extr(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register() as target, Register() as high, Register() as low, Immediate(lsb)]:
            bits = same_width(target, high, low)
            if not 0 <= lsb < bits:
                raise OperandError("bit field")
            template = f"({{1}} >> {lsb} | {{0}} << {bits - lsb}) & {mask(bits):#x}"
            return assign(target, apply(template, read(high), read(low)))
    raise OperandError("operands")


# Multiplication and division


def _multiply(operands: tuple[Operand, ...], _: int, *, sign: str) -> Effect:
    match operands:
        case [Register() as target, Register() as left, Register() as right, Register() as addend]:
            bits = same_width(target, left, right, addend)
            template = f"{{2}} {sign} {{0}} * {{1}} & {mask(bits):#x}"
            return assign(target, apply(template, read(left), read(right), read(addend)))
        case [Register() as target, Register() as left, Register() as right]:
            bits = same_width(target, left, right)
            return assign(target, apply(f"{sign}({{0}} * {{1}}) & {mask(bits):#x}", read(left), read(right)))
    raise OperandError("operands")


def _multiply_long(operands: tuple[Operand, ...], _: int, *, sign: str, is_signed: bool) -> Effect:
    match operands:
        case [Register(bits=64) as target, Register(bits=32) as left, Register(bits=32) as right, *rest]:
            first, second = (_signed32(read(side)) if is_signed else read(side) for side in (left, right))
            match rest:
                case []:
                    addend: Expression = ZERO
                case [Register(bits=64) as register]:
                    addend = read(register)
                case _:
                    raise OperandError("operands")
            return assign(target, apply(f"{{2}} {sign} {{0}} * {{1}} & {MASK64:#x}", first, second, addend))
    raise OperandError("operands")


def _signed32(value: Expression) -> Expression:
    return apply("({0} ^ 0x80000000) - 0x80000000", value)


def _multiply_high(operands: tuple[Operand, ...], _: int, *, is_signed: bool) -> Effect:
    match operands:
        case [Register(bits=64) as target, Register(bits=64) as left, Register(bits=64) as right]:
            factor = "signed({0}, 64) * signed({1}, 64)" if is_signed else "{0} * {1}"
            return assign(target, apply(f"{factor} >> 64 & {MASK64:#x}", read(left), read(right)))
    raise OperandError("operands")


def _divide(operands: tuple[Operand, ...], _: int, *, is_signed: bool) -> Effect:
    match operands:
        case [Register() as target, Register() as left, Register() as right]:
            bits = same_width(target, left, right)
            template = f"divide_signed({{0}}, {{1}}, {bits})" if is_signed else "{0} // {1} if {1} else 0"
            return assign(target, apply(template, read(left), read(right)))
    raise OperandError("operands")


# Bits


def _unary(operands: tuple[Operand, ...], _: int, *, name: str) -> Effect:
    match operands:
        case [Register() as target, Register() as source]:
            bits = same_width(target, source)
            if name == "rev32" and bits == 32:
                raise OperandError(name)
            templates = {
                "clz": f"{bits} - ({{0}}).bit_length()",
                "cls": f"{bits - 1} - ({{0}} ^ ({mask(bits):#x} if {{0}} >> {bits - 1} else 0)).bit_length()",
                "rbit": f"reverse_bits({{0}}, {bits})",
                "rev": f"reverse_bytes({{0}}, {bits}, {bits // 8})",
                "rev16": f"reverse_bytes({{0}}, {bits}, 2)",
                "rev32": f"reverse_bytes({{0}}, {bits}, 4)",
            }
            return assign(target, apply(templates[name], read(source)))
    raise OperandError("operands")


# Conditions

_CHANGES = {"csel": "{0}", "csinc": "{0} + 1 & %s", "csinv": "{0} ^ %s", "csneg": "-{0} & %s"}
"""What is done to the second register where the condition does not hold."""


def _changed(name: str, value: Expression, bits: int) -> Expression:
    return value if name == "csel" else apply(_CHANGES[name] % hex(mask(bits)), value)


def _select(operands: tuple[Operand, ...], _: int, *, name: str) -> Effect:
    match operands:
        case [Register() as target, Register() as first, Register() as second, Name(condition_name)]:
            bits = same_width(target, first, second)
            otherwise = _changed(name, read(second), bits)
            return assign(target, Choose(condition(condition_name), read(first), otherwise))
    raise OperandError("operands")


def _select_alias(operands: tuple[Operand, ...], _: int, *, name: str) -> Effect:
    """CINC, CINV, CNEG: the change is made where the condition holds."""
    match operands:
        case [Register() as target, Register() as source, Name(condition_name)]:
            bits = same_width(target, source)
            inverse = condition(condition_name, inverted=True)
            return assign(target, Choose(inverse, read(source), _changed(name, read(source), bits)))
    raise OperandError("operands")


def _set(operands: tuple[Operand, ...], _: int, *, ones: bool) -> Effect:
    match operands:
        case [Register() as target, Name(condition_name)]:
            value = Constant(mask(target.bits)) if ones else _ONES
            return assign(target, Choose(condition(condition_name, inverted=True), ZERO, value))
    raise OperandError("operands")


def _conditional_compare(operands: tuple[Operand, ...], _: int, *, subtract: bool) -> Effect:
    match operands:
        case [Register() as left, (Register() | Immediate()) as right, Immediate(flags), Name(condition_name)]:
            first, second = read(left), _second(left, (right,), left.bits)
            both = (
                _difference_flags(first, second, left.bits) if subtract else _sum_flags(first, second, None, left.bits)
            )
            if not 0 <= flags < 16:
                raise OperandError("flags")
            chosen = Choose(condition(condition_name), both[1], Constant(flags))
            return Effect((Assignment(FLAGS, chosen),))
    raise OperandError("operands")


BUILDERS: dict[str, Builder] = {
    "add": partial(_add, subtract=False, flags=False),
    "adds": partial(_add, subtract=False, flags=True),
    "sub": partial(_add, subtract=True, flags=False),
    "subs": partial(_add, subtract=True, flags=True),
    "cmp": partial(_compare, subtract=True),
    "cmn": partial(_compare, subtract=False),
    "neg": partial(_negate, flags=False),
    "negs": partial(_negate, flags=True),
    "adc": partial(_add_carry, subtract=False, flags=False),
    "adcs": partial(_add_carry, subtract=False, flags=True),
    "sbc": partial(_add_carry, subtract=True, flags=False),
    "sbcs": partial(_add_carry, subtract=True, flags=True),
    "ngc": partial(_negate_carry, flags=False),
    "ngcs": partial(_negate_carry, flags=True),
    **{name: partial(_logic, name=name, flags=False) for name in _LOGIC},
    "ands": partial(_logic, name="and", flags=True),
    "bics": partial(_logic, name="bic", flags=True),
    "tst": _test,
    "mov": _mov,
    "movz": partial(_mov_half, inverted=False),
    "movn": partial(_mov_half, inverted=True),
    "movk": _movk,
    "mvn": _mvn,
    "adr": _adr,
    "adrp": _adr,
    **{kind: partial(_shift, kind=kind) for kind in ("lsl", "lsr", "asr", "ror")},
    **{name: partial(_bit_field, name=name) for name in ("ubfx", "ubfiz", "sbfx", "sbfiz", "bfi", "bfxil")},
    "bfc": _bfc,
    **{kind: partial(_extend, kind=kind) for kind in ("uxtb", "uxth", "sxtb", "sxth", "sxtw")},
    "extr": _extr,
    "madd": partial(_multiply, sign="+"),
    "mul": partial(_multiply, sign="+"),
    "msub": partial(_multiply, sign="-"),
    "mneg": partial(_multiply, sign="-"),
    **{name: partial(_multiply_long, sign="+", is_signed=True) for name in ("smaddl", "smull")},
    **{name: partial(_multiply_long, sign="-", is_signed=True) for name in ("smsubl", "smnegl")},
    **{name: partial(_multiply_long, sign="+", is_signed=False) for name in ("umaddl", "umull")},
    **{name: partial(_multiply_long, sign="-", is_signed=False) for name in ("umsubl", "umnegl")},
    "smulh": partial(_multiply_high, is_signed=True),
    "umulh": partial(_multiply_high, is_signed=False),
    "sdiv": partial(_divide, is_signed=True),
    "udiv": partial(_divide, is_signed=False),
    **{name: partial(_unary, name=name) for name in ("clz", "cls", "rbit", "rev", "rev16", "rev32")},
    **{name: partial(_select, name=name) for name in ("csel", "csinc", "csinv", "csneg")},
    "cinc": partial(_select_alias, name="csinc"),
    "cinv": partial(_select_alias, name="csinv"),
    "cneg": partial(_select_alias, name="csneg"),
    "cset": partial(_set, ones=False),
    "csetm": partial(_set, ones=True),
    "ccmp": partial(_conditional_compare, subtract=True),
    "ccmn": partial(_conditional_compare, subtract=False),
}
