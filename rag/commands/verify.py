"""`tunefork verify NAME`"""

from __future__ import annotations

import json

import click

from core.errors import ArtifactError
from core.workspace import open_workspace


@click.command("verify")
@click.argument("name")
@click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="Passages embedded and searched for anew."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was checked as one JSON document.")
def command(name: str, samples: int, as_json: bool) -> None:
    """Check a use case's index part by part: counts, hashes, that every passage is there, and vectors made anew.

    Exit 1 when a part is damaged; it is named. `tunefork rebuild NAME` makes the index anew from its documents.
    """
    from rag.verify import verify

    workspace = open_workspace()
    folder = workspace.use_case(name)
    found = verify(folder, folder.settings(), workspace, samples)
    if as_json:
        checks = [{"part": one.part, "sound": one.problem is None, "problem": one.problem} for one in found.checks]
        value = {
            "use_case": found.use_case,
            "version": found.version,
            "sound": found.sound,
            "documents": found.documents,
            "passages": found.passages,
            "checks": checks,
        }
        click.echo(json.dumps(value, ensure_ascii=False))
    else:
        for one in found.checks:
            click.echo(f"  {one.part:<24} {one.problem or 'sound'}")
        counts = f"{found.passages} passages of {found.documents} documents"
        click.echo(f"{found.use_case}: {found.version}, {counts}: {'sound' if found.sound else 'damaged'}")
    if not found.sound:
        bad = [one for one in found.checks if one.problem]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ArtifactError(
            f"the index of {name!r} is damaged: {bad[0].part}: {bad[0].problem}{more}; run: tunefork rebuild {name}"
        )
