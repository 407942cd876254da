"""The matrix of `fuzzvm verify` as a page, with a page for the story of each failing cell beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from fuzzvm.corpus.command import command
from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.store import to_text
from fuzzvm.files.writing import check_file, own_folder, write
from fuzzvm.mitigations import registry
from fuzzvm.report.html.matrix_page import MatrixCell, matrix_page
from fuzzvm.report.html.story_page import story_page
from fuzzvm.verify.matrix import VerifiedCell


def write_matrix(runs: Sequence[tuple[VerifiedCell, TestCase | None]], path: Path) -> None:
    """Write the page of these runs to `path`, and the stories of those with a case to the folder `<stem>-stories`.

    Each story has its corpus file beside it. Raises FileError where a file cannot be written.
    """
    check_file(path)
    folder = path.with_name(f"{path.stem}-stories")
    cells = []
    for run, case in runs:
        verdict, cell = run.verdict, run.cell
        story = ""
        if case is not None:
            file = folder / case.file_name()
            own_folder(folder)
            write(file, to_text(case), own_name=True)
            page = story_page(case, registry.get(case.mitigation), command("replay", file.name, case.mitigation))
            write(file.with_suffix(".html"), page, own_name=True)
            story = quote(f"{folder.name}/{file.stem}.html")
        cells.append(
            MatrixCell(
                mitigation=cell.mitigation,
                scenario=cell.scenario.name,
                memory=cell.memory,
                bug="" if verdict.failure is None else verdict.failure.error,
                stopped="" if verdict.complete else verdict.stopped or "not searched to the end",
                states=verdict.states,
                seconds=verdict.seconds,
                as_expected=run.as_expected,
                story=story,
                missing=", ".join(verdict.missing),
            )
        )
    write(path, matrix_page(cells))
