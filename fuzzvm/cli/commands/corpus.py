"""`fuzzvm corpus add|min|merge|check`: keeps a folder of test cases in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from fuzzvm.cli.code import images_option
from fuzzvm.cli.common import F, json_option, print_json
from fuzzvm.cli.output import say
from fuzzvm.corpus import care
from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import Given, mitigation_of
from fuzzvm.images.given import by_digest
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry

FOLDER = click.Path(path_type=Path, file_okay=False)


def own_option(command: F) -> F:
    """Add --mitigation, any number of times."""
    return click.option(
        "--mitigation",
        "-m",
        "own",
        multiple=True,
        metavar="FILE.py:CLASS",
        help="Run the cases that name this mitigation of your own; without, they are not run.",
    )(command)


def own_mitigations(own: tuple[str, ...]) -> dict[str, type[Mitigation]]:
    """Return the mitigations that may run, by what test cases call them. Raises MitigationError."""
    return {name: registry.get(name) for name in own}


def given(own: tuple[str, ...], folders: tuple[Path, ...]) -> Given:
    """Return the mitigations and images that may run, by what test cases call them.

    Raises MitigationError, ImageError.
    """
    return {**own_mitigations(own), **by_digest(folders)}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def corpus() -> None:
    """Keep a folder of test cases in order.

    One file a case, named by its content. Exit status 1 where a file is refused or something is wrong.
    """


@corpus.command()
@click.argument("folder", type=FOLDER, metavar="CORPUS")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE...")
@own_option
@images_option
@json_option
def add(folder: Path, paths: tuple[Path, ...], own: tuple[str, ...], folders: tuple[Path, ...], as_json: bool) -> int:
    """Add each FILE to CORPUS, if it replays as it expects and is not there yet."""
    return _tell(care.add(paths, folder, given(own, folders)), as_json)


@corpus.command()
@click.argument("folder", type=FOLDER, metavar="CORPUS")
@click.argument("sources", nargs=-1, required=True, type=FOLDER, metavar="FROM...")
@json_option
def merge(folder: Path, sources: tuple[Path, ...], as_json: bool) -> int:
    """Add what is in the folders FROM, and below them, to CORPUS. FROM stays as it is.

    Files are read and not replayed; `fuzzvm corpus check` does that. Links are not followed.
    """
    return _tell((added for source in sources for added in care.merge(source, folder)), as_json)


@corpus.command(name="min")
@click.argument("folder", type=FOLDER, metavar="CORPUS")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@own_option
@json_option
def minimise(folder: Path, dry_run: bool, own: tuple[str, ...], as_json: bool) -> int:
    """Delete the files of CORPUS, and below it, that the others make needless.

    What is kept covers every pair of conflicting operations, in each scenario under each mitigation and memory model,
    that all files cover, and fails in every way that they fail. It is found by greedy set cover: no file in it is
    needless, and it is small, yet not proven to be the smallest there is. A file that cannot be replayed, or does not
    go as it expects, is kept.
    """
    # imported here: coverage belongs to the search, which the other commands do without
    from fuzzvm.runs.case_features import features

    mitigations = own_mitigations(own)

    def features_of(case: TestCase) -> care.Features:
        return features(case, mitigation_of(case, mitigations.get(case.mitigation)))

    keep, needless, unknown = care.reduce(folder, mitigations, features_of)
    for one in needless if not dry_run else ():
        try:
            one.path.unlink()
        except OSError as error:
            raise CorpusError(one.path, error.strerror or str(error)) from error
    if as_json:
        print_json(
            {
                "kept": [str(one.path) for one in keep],
                "deleted": [] if dry_run else [str(one.path) for one in needless],
                "needless": [str(one.path) for one in needless],
                "not_judged": [{"file": str(one.path), "problem": one.problem} for one in unknown],
            }
        )
        return 1 if unknown else 0
    for one in needless:
        say(f"{one.path}: {'needless' if dry_run else 'deleted'}")
    for one in unknown:
        say(f"{one.path}: kept, {one.problem}")
    what = "would be deleted" if dry_run else "deleted"
    say(f"{len(keep)} kept, {len(needless)} {what}, {len(unknown)} not judged")
    return 1 if unknown else 0


@corpus.command()
@click.argument("folder", type=FOLDER, metavar="CORPUS")
@own_option
@images_option
@json_option
def check(folder: Path, own: tuple[str, ...], folders: tuple[Path, ...], as_json: bool) -> int:
    """Say what is wrong with CORPUS, a line each, and nothing else.

    Every file must replay as it expects, have the name of its content, and hold a case that no other one holds.
    """
    checked = list(care.check(folder, given(own, folders)))
    wrong = [one for one in checked if one.problem]
    if as_json:
        problems = [{"file": str(one.path), "problem": one.problem} for one in wrong]
        print_json({"checked": len(checked), "wrong": problems})
    else:
        for one in wrong:
            say(f"{one.path}: {one.problem}")
    return 1 if wrong else 0


def _tell(results: Iterable[care.Added], as_json: bool) -> int:
    """Print what became of each file as it happens; return the exit status."""
    told = []
    for added in results:
        told.append(added)
        if not as_json and added.saved is None:
            say(f"{added.path}: refused, {added.problem}")
        elif not as_json:
            say(f"{added.path}: {'added as' if added.new else 'is there already,'} {added.saved}")
    new, refused = sum(one.new for one in told), sum(one.saved is None for one in told)
    if as_json:
        print_json(
            {
                "added": new,
                "refused": refused,
                "files": [
                    {
                        "file": str(one.path),
                        "saved": None if one.saved is None else str(one.saved),
                        "new": one.new,
                        "problem": one.problem or None,
                    }
                    for one in told
                ],
            }
        )
    else:
        say(f"{new} added, {len(told) - new - refused} there already, {refused} refused")
    return 1 if refused else 0
