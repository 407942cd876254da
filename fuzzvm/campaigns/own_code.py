"""Which code of a user's own a campaign may run: what the user names, and nothing that its folder alone names.

A folder may come from anybody. Its settings name mitigations; those that ship, or that an installed package registers,
are there already, and one that lies in a file is run only where the user names it, too: by the same name, or by another
where the file's text is the one that the campaign was begun with. What is run is the text that was looked at: it stands
for the file from then on, in this process and in all that it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fuzzvm.campaigns.errors import CampaignError
from fuzzvm.campaigns.settings import Settings, Written, digest_of_file, files_of, made_by
from fuzzvm.files.errors import FileError
from fuzzvm.files.shell import word
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.mitigations.sent_files import SentFile


def to_run(written: Written, path: Path, named: Sequence[str]) -> Settings:
    """Return the settings of a campaign that is to run; `named` are the mitigations that the user names.

    The campaign needs the fuzzvm, the Python and the mitigations that it was begun with: its coverage and its seeds
    mean nothing to others. `path` is what errors call the settings. Raises CampaignError, MitigationError.
    """
    settings = written.settings
    used: set[str] = set()
    for mitigation in settings.mitigations():
        if registry.is_path(mitigation):
            name, files = _named(mitigation, named, written.files, path)
            used.add(name)
            sent_files.provide(files)
            if any(sent_files.get(file) is None for file in files_of([mitigation])):
                raise CampaignError(f"{path}: {mitigation} is the name of another file here")
    if unknown := [name for name in named if name not in used and name not in settings.mitigations()]:
        raise CampaignError(f"{path}: the campaign does not run {unknown[0]}")
    for what, now in made_by(settings.mitigations()).items():
        if written.made_by.get(what) != now:
            raise _another(path, what, f" ({written.made_by.get(what)}, now {now})")
    return settings


def fix_texts(mitigations: Sequence[str]) -> None:
    """Let the files of mitigations be what they are now for as long as this process runs, whoever edits them.

    Raises FileError.
    """
    sent_files.provide({name: sent_files.read(name) for name in files_of(mitigations)})


def _named(
    wanted: str, named: Sequence[str], digests: Mapping[str, str], path: Path
) -> tuple[str, dict[str, SentFile]]:
    """Return which of the names stands for a mitigation, and the texts of its files by the campaign's names for them.

    Raises CampaignError where none does.
    """
    for name in sorted(named, key=lambda one: one != wanted):
        pairs = _pairs(wanted, name)
        if not pairs:
            continue
        files = {theirs: _read(ours) for theirs, ours in pairs}
        if all(digests.get(theirs) == digest_of_file(file) for theirs, file in files.items()):
            return name, files
        if name == wanted:
            raise _another(path, f"mitigation {wanted}")
    raise CampaignError(
        f"{path}: the campaign runs {wanted}, which is code that runs only where you name it: "
        f"add --mitigation {word(wanted)}, or the name of the same file elsewhere"
    )


def _pairs(wanted: str, given: str) -> list[tuple[str, str]]:
    """Return the campaign's and the user's name of each file, where a name may stand for another; else nothing."""
    ours = registry.split(given)
    theirs = ours if given == wanted else wanted.split("+")
    if len(ours) != len(theirs):
        return []
    pairs = []
    for their, our in zip(theirs, ours, strict=True):
        if registry.is_path(their) and registry.is_path(our):
            (their_file, _, their_class), (our_file, _, our_class) = their.rpartition(":"), our.rpartition(":")
            if their_class != our_class:
                return []
            pairs.append((their_file, our_file))
        elif their != our:
            return []
    return pairs


def _read(name: str) -> SentFile:
    try:
        return sent_files.read(name)
    except FileError as error:
        raise CampaignError(str(error)) from error


def _another(path: Path, what: str, more: str = "") -> CampaignError:
    return CampaignError(f"{path}: the campaign was begun with another {what}{more}; begin a new one")
