"""Patches: what they name, in which forms they come, and what is said of one that does not apply."""

from __future__ import annotations

import base64
import hashlib
import quopri
from pathlib import Path

import pytest

from fuzzvm.files.errors import FileError
from fuzzvm.kbuild import patches
from fuzzvm.kbuild.errors import KbuildError

OLD = "".join(f"line {number}\n" for number in range(1, 31))
DIFF = """\
--- a/mm/a.c
+++ b/mm/a.c
@@ -1,5 +1,5 @@ first
 line 1
 line 2
-line 3
+line three
 line 4
 line 5
@@ -20,5 +20,4 @@ second
 line 20
 line 21
-line 22
 line 23
 line 24
"""
NEW_FILE = """\
diff --git a/mm/new.c b/mm/new.c
new file mode 100644
--- /dev/null
+++ b/mm/new.c
@@ -0,0 +1 @@
+new
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/mm").mkdir(parents=True)
    (tmp_path / "tree/mm/a.c").write_text(OLD)
    return tmp_path / "tree"


def write(tmp_path: Path, text: str, name: str = "x.patch") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_file_of_differences(tree: Path, tmp_path: Path) -> None:
    (patch,) = patches.read(write(tmp_path, DIFF + NEW_FILE))
    assert patch.files == ("mm/a.c", "mm/new.c")
    assert patch.digest == hashlib.sha256((DIFF + NEW_FILE).encode()).hexdigest()
    patches.apply([patch], tree)
    assert "line three" in (tree / "mm/a.c").read_text() and "line 22\n" not in (tree / "mm/a.c").read_text()
    assert (tree / "mm/new.c").read_text() == "new\n"


def test_lines_may_have_moved(tree: Path, tmp_path: Path) -> None:
    (tree / "mm/a.c").write_text("before\n" * 7 + OLD)
    patches.apply(patches.read(write(tmp_path, DIFF)), tree)
    assert "line three" in (tree / "mm/a.c").read_text()


def test_a_mailbox_is_a_series(tree: Path, tmp_path: Path) -> None:
    second = DIFF[: DIFF.index("@@ -20")].replace("+line three", "+line drei: ü").replace("-line 3", "-line three")
    encoded = base64.encodebytes(second.encode()).decode()
    begin = f"From {'0' * 40} Mon Sep 17 00:00:00 2001\nSubject: [PATCH"
    mails = (
        f"{begin} 0/2] cover\n\nno differences\n\n{begin} 1/2] one\n\n{DIFF}\n{begin} 2/2] two\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"
        f"{encoded}\n"
    )
    path = write(tmp_path, mails, "series.mbox")
    series = patches.read(path)
    assert [patch.name for patch in series] == [f"{path} (1 of 2)", f"{path} (2 of 2)"]
    patches.apply(series, tree)
    assert "line drei: ü" in (tree / "mm/a.c").read_text()


def test_the_hunk_that_does_not_apply_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "mm/a.c").write_text(OLD.replace("line 21", "another"))
    path = write(tmp_path, NEW_FILE + DIFF)
    with pytest.raises(KbuildError) as raised:
        patches.apply(patches.read(path), tree)
    assert str(raised.value) == f"{path} does not apply: hunk 2 of mm/a.c, @@ -20,5 +20,4 @@ second"


def test_context_must_be_exact(tree: Path, tmp_path: Path) -> None:
    """patch(1) alone would take the hunk with a line of its context changed."""
    (tree / "mm/a.c").write_text(OLD.replace("line 1\n", "line one\n"))
    with pytest.raises(KbuildError, match=r"hunk 1 of mm/a\.c"):
        patches.apply(patches.read(write(tmp_path, DIFF)), tree)


def test_what_is_there_already_and_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    patch = patches.read(write(tmp_path, DIFF))
    patches.apply(patch, tree)
    with pytest.raises(KbuildError, match=r"does not apply: mm/a\.c has the change already"):
        patches.apply(patch, tree)
    (tree / "mm/a.c").unlink()
    with pytest.raises(KbuildError, match=r"does not apply: the tree has no mm/a\.c"):
        patches.apply(patch, tree)


@pytest.mark.parametrize("text", ["", "no patch\n", "--- x\n+++ y\n", "\x00\xff"])
def test_what_is_no_patch(text: str, tmp_path: Path) -> None:
    with pytest.raises(KbuildError, match="holds no patch"):
        patches.read(write(tmp_path, text))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        patches.read(tmp_path / "none")


@pytest.mark.parametrize("name", ["a/../../etc/passwd", "a//etc/passwd"])
def test_a_file_outside_of_the_tree_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(KbuildError, match="outside of the tree"):
        patches.read(write(tmp_path, DIFF.replace("b/mm/a.c", name)))


def test_nothing_is_written_through_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(OLD)
    (tree / "mm/a.c").unlink()
    (tree / "mm/a.c").symlink_to(tmp_path / "mine")
    with pytest.raises(KbuildError, match="not a regular file"):
        patches.apply(patches.read(write(tmp_path, DIFF)), tree)
    assert (tmp_path / "mine").read_text() == OLD


def test_a_malformed_patch(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(KbuildError, match="malformed patch at line"):
        patches.apply(patches.read(write(tmp_path, DIFF[: DIFF.index(" line 4")] + "x\n")), tree)


SECOND = DIFF[: DIFF.index("@@ -20")].replace("+line three", "+line drei: ü").replace("-line 3", "-line three")


def mail(subject: str, body: str, encoding: str = "8bit") -> str:
    raw = body.encode()
    text = {
        "8bit": body,
        "base64": base64.encodebytes(raw).decode(),
        "quoted-printable": quopri.encodestring(raw).decode(),
    }[encoding]
    return (
        f"From: A <a@example.org>\nSubject: {subject}\nMIME-Version: 1.0\n"
        f"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n{text}\n"
    )


@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_one_mail_is_a_patch(tree: Path, tmp_path: Path, encoding: str) -> None:
    text = mail(
        "[PATCH v2] mm: a = ü",
        f"From: B <b@example.org>\n\nMessage.\n---\n{SECOND.replace('three', '3')}-- \n2.39\n",
        encoding,
    )
    (patch,) = patches.read(write(tmp_path, text))
    assert patch.subject == "mm: a = ü"
    patches.apply([patch], tree)
    assert "line drei: ü\n" in (tree / "mm/a.c").read_text()


def test_line_ends_of_mails_are_those_of_the_tree(tree: Path, tmp_path: Path) -> None:
    text = mail("[PATCH]", DIFF.replace("\n", "\r\n"), "base64")
    patches.apply(patches.read(write(tmp_path, text)), tree)
    assert "line three\n" in (tree / "mm/a.c").read_text()


def test_a_series_is_in_the_order_that_its_subjects_say(tree: Path, tmp_path: Path) -> None:
    begin = "From git@z Thu Jan  1 00:00:00 1970\n"
    cover = mail("[PATCH v3 00/10] cover", " mm/a.c | 2 +-\n 1 file changed\n")
    mails = [("[PATCH v3 10/10] ten", SECOND), ("[PATCH v3 2/10] two", DIFF)]
    text = begin + cover + "".join(begin + mail(subject, body, "quoted-printable") for subject, body in mails)
    series = patches.read(write(tmp_path, text))
    assert [patch.subject for patch in series] == ["two", "ten"]
    patches.apply(series, tree)
    # where they are of several series, nobody knows
    other = begin + mail("[PATCH 1/1] one", NEW_FILE)
    assert [patch.subject for patch in patches.read(write(tmp_path, text + other))] == ["ten", "two", "one"]


def test_a_head_that_is_no_mail_is_passed_over(tree: Path, tmp_path: Path) -> None:
    for head in (
        "Index: linux/mm/a.c\n",
        "Description: what it is for\nAuthor: A\n",
        "Subject: one\nFrom: A\n\nText.\n",
    ):
        patches.apply(patches.read(write(tmp_path, f"{head}{DIFF}")), tree)
        (tree / "mm/a.c").write_text(OLD)
