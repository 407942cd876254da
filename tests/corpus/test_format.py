"""Corpus files: round trip, and one line for everything that can be wrong with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus import store
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import FORMAT, Expectation, TestCase, parse, read
from fuzzvm.corpus.image_table import ImageTable
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.scenario import shipped

CASE = TestCase(
    shipped.get("pmd-promotion"),
    "none",
    "sc",
    parse_schedule("1*4 0*9 1"),
    Expectation("bug", "use-after-free-read", "ptdump_pte_entry"),
    "by hand",
)
TEXT = store.to_text(CASE)


@pytest.mark.parametrize("name", shipped.shipped())
def test_round_trip(name: str) -> None:
    for schedule in ("", "0", "0*3 1.2.1*4 0", " ".join(f"{n % 3}*{n + 1}" for n in range(200))):
        case = TestCase(shipped.get(name), "static-key", "sc", parse_schedule(schedule), Expectation("safe"), "x")
        assert parse(store.to_text(case)) == case


def test_the_name_says_what_is_run_and_then_what_the_whole_text_is() -> None:
    again = replace(CASE, origin="found by somebody else")
    assert again.identity() == CASE.identity() and again.former_file_name() == CASE.former_file_name()
    assert again.file_name() != CASE.file_name() and again.file_name()[:-11] == CASE.file_name()[:-11]
    other = replace(CASE, schedule=CASE.schedule[:-1])
    assert other.file_name()[:-11] != CASE.file_name()[:-11]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"format = {FORMAT}", "format = 99", "format 99 is newer"),
        (f"format = {FORMAT}", "format = 0", "there is no format 0"),
        (f"format = {FORMAT}", 'format = "1"', "no format number"),
        (f"format = {FORMAT}\n", "", "no format number"),
        ('memory = "sc"', 'memory = "powerpc"', "no memory model 'powerpc'"),
        ('memory = "sc"', "memory = 3", "memory must be a string"),
        ("1*4 0*9 1", "1*4 x 1", "'x' is not a step"),
        ("1*4 0*9 1", "1*9999999 0*9999999", "more than"),
        ('verdict = "bug"', 'verdict = "perhaps"', "verdict must be safe or bug"),
        ('"use-after-free-read"', '"bad-luck"', "no error 'bad-luck'"),
        ('arch = "arm64"', 'arch = "vax"', "no architecture 'vax'"),
        ("levels = 4", "levels = 9", "levels must be one of"),
        ("fanout = 2", "fanout = 3", "fanout must be a power of two"),
        ("fanout = 2", "fanout = true", "fanout must be int"),
        ("cat_kernel_page_tables()", "rm_rf()", "no call 'rm_rf'"),
        ("cat_kernel_page_tables()", "__import__('os').system('id')", "not a call with named arguments"),
        ("nr_pages=2", "nr_pages='2'", "nr_pages must be int"),
        ("[expect]", "[expects]", "unknown key 'expects'"),
        ('mitigation = "none"', 'mitigation = "none"\nsurprise = 1', "unknown key 'surprise'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, message: str) -> None:
    broken = TEXT.replace(old, new, 1)
    assert broken != TEXT
    with pytest.raises(CorpusError) as error:
        parse(broken, "case.toml")
    assert message in str(error.value)
    assert str(error.value).startswith("case.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", range(0, len(TEXT), 7))
def test_a_file_cut_short_is_no_test_case(length: int) -> None:
    cut = TEXT[:length]
    try:
        case = parse(cut, "case.toml")
    except CorpusError as error:
        assert "\n" not in str(error)
    else:
        assert case == CASE


def test_a_line_is_named_where_it_is_known() -> None:
    with pytest.raises(CorpusError, match=r"case\.toml:\d+: fanout must be"):
        parse(TEXT.replace("fanout = 2", "fanout = 3"), "case.toml")


def test_binary_and_large_files(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\x00\xff\xfe" * 100)
    with pytest.raises(CorpusError, match="UTF-8"):
        read(binary)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (2 << 20))
    with pytest.raises(CorpusError, match="larger than"):
        read(large)
    with pytest.raises(CorpusError):
        read(tmp_path)


def test_what_is_left_out_is_part_of_a_case() -> None:
    case = replace(CASE, mitigation="static-key", without=("patch-ic", "patch-ipi"))
    assert parse(store.to_text(case)) == case
    assert case.file_name() != replace(case, without=()).file_name()
    assert "without" not in TEXT


@pytest.mark.parametrize("wrong", ['["patch-me"]', '"patch-ic"', "[1]"])
def test_an_unknown_ordering_point_is_one_line(wrong: str) -> None:
    text = TEXT.replace("memory =", f"without = {wrong}\nmemory =", 1)
    with pytest.raises(CorpusError) as error:
        parse(text, "some.toml")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("some.toml:")


IMAGE = ImageTable(
    "ab" * 32, "7.3.4", "arm64", "4K", 3, "lse", "gcc 12", ("mend.patch 12ab",), "fuzzvm image build -o DIR"
)
OF_IMAGE = replace(CASE, mitigation="", expect=Expectation("bug", "wild-access", "__ptep_get"), image=IMAGE)
IMAGE_TEXT = store.to_text(OF_IMAGE)


def test_a_case_of_an_image_is_read_back_and_known_by_its_digest() -> None:
    assert parse(IMAGE_TEXT) == OF_IMAGE
    assert "mitigation" not in IMAGE_TEXT
    assert OF_IMAGE.file_name().startswith("linux-7-3-4-abababab-wild-access-")
    elsewhere = replace(OF_IMAGE, image=replace(IMAGE, build="fuzzvm image build --tree there -o DIR"))
    assert elsewhere.identity() == OF_IMAGE.identity()
    other = replace(OF_IMAGE, image=replace(IMAGE, digest="cd" * 32))
    assert other.identity() != OF_IMAGE.identity()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('memory = "sc"', 'memory = "sc"\nmitigation = "none"', "mitigation and [image] exclude each other"),
        ('memory = "sc"', 'memory = "sc"\nwithout = []', "without and [image] exclude each other"),
        ("abab", "ABAB", "digest of [image] must be 64 hexadecimal digits"),
        ("levels = 3", 'levels = "3"', "levels of [image] must be a number"),
        ('"mend.patch 12ab"', "7", "patches of [image] must be a list of strings"),
        ('atomics = "lse"', "", "atomics of [image] must be a string"),
        ('atomics = "lse"', 'atomics = "lse"\nsurprise = 1', "unknown key 'surprise' in [image]"),
        ("-o DIR", "\\u001b[2J", "build of [image] has a character that cannot be printed"),
        ('"wild-access"', '"bad-luck"', "no error 'bad-luck'"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(old: str, new: str, message: str) -> None:
    broken = IMAGE_TEXT.replace(old, new, 1)
    assert broken != IMAGE_TEXT
    with pytest.raises(CorpusError) as error:
        parse(broken, "case.toml")
    assert message in str(error.value)


def test_a_run_of_the_model_has_no_error_of_compiled_code() -> None:
    with pytest.raises(CorpusError, match="no error 'wild-access'"):
        parse(TEXT.replace("use-after-free-read", "wild-access", 1))
