"""The classes of AArch64's encoding table that integer code uses, as patterns of bits (Arm ARM C4.1).

`0` and `1` are fixed, letters are free, spaces separate fields. A pattern may contain unallocated encodings.
"""

from __future__ import annotations

import random

PATTERNS = {
    "PC-relative address": "p ii 10000 iiiiiiiiiiiiiiiiiii ddddd",
    "add, sub immediate": "s o f 100010 h iiiiiiiiiiii nnnnn ddddd",
    "logical immediate": "s oo 100100 n rrrrrr ssssss nnnnn ddddd",
    "move wide": "s oo 100101 hh iiiiiiiiiiiiiiii ddddd",
    "bit field": "s oo 100110 n rrrrrr ssssss nnnnn ddddd",
    "extract": "s 00 100111 n 0 mmmmm ssssss nnnnn ddddd",
    "divide": "s 00 11010110 mmmmm 00001 o nnnnn ddddd",
    "shift by register": "s 00 11010110 mmmmm 0010 oo nnnnn ddddd",
    "one source": "s 10 11010110 00000 000 ooo nnnnn ddddd",
    "logical register": "s oo 01010 tt n mmmmm iiiiii nnnnn ddddd",
    "add, sub register": "s o f 01011 tt 0 mmmmm iiiiii nnnnn ddddd",
    "add, sub extended": "s o f 01011 001 mmmmm ooo iii nnnnn ddddd",
    "add, sub carry": "s o f 11010000 mmmmm 000000 nnnnn ddddd",
    "compare conditionally": "s o 1 11010010 mmmmm cccc k 0 nnnnn 0 ffff",
    "select conditionally": "s o 0 11010100 mmmmm cccc 0 p nnnnn ddddd",
    "multiply": "s 00 11011 ooo mmmmm o aaaaa nnnnn ddddd",
    "branch": "o 00101 iiiiiiiiiiiiiiiiiiiiiiiiii",
    "branch conditionally": "01010100 iiiiiiiiiiiiiiiiiii 0 cccc",
    "compare and branch": "s 011010 o iiiiiiiiiiiiiiiiiii ttttt",
    "test and branch": "b 011011 o bbbbb iiiiiiiiiiiiii ttttt",
    "branch to register": "11010110 0 oo 11111 000000 nnnnn 00000",
    "hint": "11010101000000110010 mmmm ooo 11111",
    "barrier": "11010101000000110011 mmmm ooo 11111",
    "write to PSTATE": "1101010100000 ooo 0100 mmmm ooo 11111",
    "maintenance": "1101010100001 ooo 0111 mmmm ooo ttttt",
    "TLB maintenance": "1101010100001 ooo 1000 mmmm ooo ttttt",
    "system register": "11010101 00 l 1 o ooo nnnn mmmm ooo ttttt",
    "SP_EL0": "11010101 00 l 11 000 0100 0001 000 ttttt",
    "TPIDR": "11010101 00 l 11 ooo 1101 0000 0 o o ttttt",
    "DAIF and NZCV": "11010101 00 l 11 011 0100 0010 00 o ttttt",
    "break": "11010100001 iiiiiiiiiiiiiiii 00000",
    "load literal": "oo 011000 iiiiiiiiiiiiiiiiiii ttttt",
    "load, store pair": "oo 101 0 0 xx l iiiiiii uuuuu nnnnn ttttt",
    "load, store unscaled": "zz 111000 oo 0 iiiiiiiii 00 nnnnn ttttt",
    "load, store indexed": "zz 111000 oo 0 iiiiiiiii x1 nnnnn ttttt",
    "load, store register offset": "zz 111000 oo 1 mmmmm e1 e s 10 nnnnn ttttt",
    "load, store unsigned offset": "zz 111001 oo iiiiiiiiiiii nnnnn ttttt",
    "exclusive": "zz 001000 0 l 0 sssss o 11111 nnnnn ttttt",
    "exclusive pair": "1z 001000 0 l 1 sssss o uuuuu nnnnn ttttt",
    "load acquire, store release": "zz 001000 1 l 0 11111 1 11111 nnnnn ttttt",
    "compare and swap": "zz 001000 1 l 1 sssss o 11111 nnnnn ttttt",
    "compare and swap pair": "0z 001000 0 l 1 ssss0 o 11111 nnnnn tttt0",
    "atomic": "zz 111000 a r 1 sssss o ccc 00 nnnnn ttttt",
    "load acquire, RCpc": "zz 111000 101 11111 1100 00 nnnnn ttttt",
    "RCpc unscaled": "zz 011001 oo 0 iiiiiiiii 00 nnnnn ttttt",
    "any": "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f",
}


def word(pattern: str, random_source: random.Random) -> int:
    """Return a random word of a pattern.

    Each field is zero or all ones with probability 1/8 each, so that the zero register, the stack pointer and extreme
    immediates are often there.
    """
    bits: list[str] = []
    for field in pattern.split():
        extreme = random_source.randrange(8)
        drawn = (str(extreme & 1) if extreme < 2 else random_source.choice("01") for _ in field)
        bits += [bit if bit in "01" else other for bit, other in zip(field, drawn, strict=True)]
    assert len(bits) == 32, pattern
    return int("".join(bits), 2)
