"""`fuzzvm releases`."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.cli.common import json_option, known_release, print_json
from fuzzvm.cli.output import print_table, say
from fuzzvm.kbuild import modelled
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry

CLAIMS = ("one_walker", "two_walkers", "other_mm", "collapse", "attributes")


@click.command()
@click.option(
    "--check",
    "tree",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="TREE",
    help="Say which of the modelled functions a kernel source tree has otherwise than the model was written from.",
)
@click.option(
    "--release",
    "name",
    metavar="NAME",
    callback=known_release,
    help="With --check: the release to compare with. Default: the newest.",
)
@json_option
def releases(tree: Path | None, name: str | None, as_json: bool) -> int:
    """List the releases of Linux that are modelled, with what is claimed of each, or check a source tree.

    The claims are verdicts of the model for one walker and for two, for a walk of another mm, for CPA's collapse beside
    a walk, and for a change of protection beside that. With --check the exit status is 1 where a function differs.

    \b
    fuzzvm verify --release linux-7.3
    fuzzvm releases --check ~/src/linux
    """
    known = registry.releases()
    if tree is not None:
        return _check(tree, name or list(known)[-1], as_json=as_json)
    if name is not None:
        raise click.UsageError("--release goes with --check; fuzzvm verify --release runs one")
    if as_json:
        print_json(
            {
                "releases": [
                    {
                        "name": release,
                        "summary": scheme.summary,
                        "sources": scheme.sources,
                        "claims": {arch: _claims(scheme, arch) for arch in architectures.names()},
                    }
                    for release, scheme in known.items()
                ]
            }
        )
        return 0
    print_table(
        ("release", "arch", "one walker", "two walkers", "other mm", "collapse", "attributes"),
        [
            (release, arch, *(claim or "-" for claim in _claims(scheme, arch).values()))
            for release, scheme in known.items()
            for arch in architectures.names()
        ],
    )
    for release, scheme in known.items():
        say(f"{release}: {scheme.summary}; read off {scheme.sources}")
    return 0


def _claims(release: type[Mitigation], arch: str) -> dict[str, str | None]:
    """Return the verdicts that a release claims on an architecture, by what they are about; None claims nothing."""
    scheme = release.on(arch)
    return {claim: getattr(scheme, claim) for claim in CLAIMS}


def _check(tree: Path, release: str, *, as_json: bool) -> int:
    found = modelled.drift(tree, release)
    looked_at = sum(release in function.digests for function in modelled.modelled())
    if not looked_at:
        raise click.ClickException(f"nothing is known of the sources of {release}")
    if as_json:
        print_json(
            {
                "tree": str(tree),
                "version": modelled.version(tree),
                "release": release,
                "functions": looked_at,
                "drift": [
                    {
                        "function": one.function.name,
                        "file": one.function.file,
                        "model": one.function.model,
                        "what": one.what,
                    }
                    for one in found
                ],
            }
        )
        return 1 if found else 0
    if found:
        print_table(
            ("function", "file", "what", "model"),
            [(one.function.name, one.function.file, one.what, one.function.model) for one in found],
        )
    say(
        f"{tree} (Linux {modelled.version(tree)}): {len(found)} of {looked_at} modelled functions "
        f"differ from those that {release} was written from"
    )
    return 1 if found else 0
