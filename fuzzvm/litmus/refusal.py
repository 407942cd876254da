"""Names what the grammar does not know: the declaration, the instruction or the condition that it stands in.

herd7's format has page-table entries, tags, vectors and more, which are syntax that grammar.lark leaves out. A message
about the bracket at which reading ended says nothing to whoever wrote such a test.
"""

from __future__ import annotations

import re

_FINAL = re.compile(r"^[ \t]*(locations|~?exists|forall|filter|final)\b", re.MULTILINE)
_MAX_SHOWN = 80

_KINDS = (
    (re.compile(r"\battrs\s*:"), "memory attributes are not supported"),
    (re.compile(r"\bparel1_t\b"), "values of PAR_EL1 are not supported"),
    (re.compile(r"^filter\b"), "filters are not supported"),
    (re.compile(r"%\w"), "symbolic registers are not supported"),
    (
        re.compile(r"\btag\s*\(|\{\s*:|\w\s*:\s*(red|green|blue|black|white|cyan|yellow|magenta)\b"),
        "tags are not supported",
    ),
    (re.compile(r"\b[A-Za-z_]\w*\s*\[\s*\d*\s*\]|=\s*\{"), "arrays are not supported"),
)
"""What a statement that cannot be read is about; the first that is found in it names it."""


def refusal(text: str, at: int) -> str:
    """Return why the test of a text cannot be read, where reading it ended at an index."""
    clean = _without_comments(text)
    begin = clean.find("{")
    end = _closing(clean, begin)
    if 0 <= begin < at <= end:
        return _named("declaration", _statement(clean, at, begin + 1, end, ";"))
    if end < at < len(clean):
        final = _FINAL.search(clean, end + 1)
        if final is None or at < final.start():
            last = len(clean) if final is None else final.start()
            return _named("instruction", _statement(clean, at, end + 1, last, ";|"))
        return _named("condition", clean[final.start() :])
    if at >= len(clean):
        return "syntax error: the file ends too early"
    if at < begin and not clean[:at].strip():
        return f"no AArch64 test: it begins with {clean[at:][:20].splitlines()[0]!r}"
    return f"syntax error at {text[at:][:20].splitlines()[0]!r}"


def _without_comments(text: str) -> str:
    """Return a text with blanks for its comments, which may hold what looks like a part of the test."""
    parts = []
    end = 0
    while (begin := text.find("(*", end)) >= 0 and (close := text.find("*)", begin + 2)) >= 0:
        parts += [text[end:begin], re.sub(r"[^\n]", " ", text[begin : close + 2])]
        end = close + 2
    return "".join([*parts, text[end:]])


def _closing(text: str, begin: int) -> int:
    """Return the index of the bracket that closes the one at `begin`; the text's length if there is none."""
    depth = 0
    for match in re.finditer(r"[{}]", text[begin:] if begin >= 0 else ""):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return begin + match.start()
    return len(text)


def _statement(text: str, at: int, begin: int, end: int, separators: str) -> str:
    """Return what stands between the separators around an index, within `begin` and `end`."""
    if at < end and text[at] in separators:
        at -= 1  # reading ended behind a statement that lacks its end
    first = max(begin, *(text.rfind(separator, begin, at + 1) + 1 for separator in separators))
    last = min((found for s in separators if (found := text.find(s, max(at, first), end)) >= 0), default=end)
    return text[first:last]


def _named(kind: str, statement: str) -> str:
    words = " ".join(statement.split())
    shown = words if len(words) <= _MAX_SHOWN else f"{words[:_MAX_SHOWN]}..."
    for pattern, reason in _KINDS:
        if kind != "instruction" and pattern.search(words):
            return f"{reason}: {shown}"
    return f"cannot read the {kind} {shown!r}"
