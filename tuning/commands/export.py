"""`tunefork export NAME`"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from core.errors import ConfigError
from core.workspace import open_workspace


@click.command("export")
@click.argument("name")
@click.option(
    "--merge", type=click.Path(path_type=Path), metavar="FOLDER", help="Write a full model, the adapter merged in."
)
@click.option(
    "--gguf", type=click.Path(path_type=Path), metavar="FILE", help="Write a GGUF file for llama.cpp and Ollama."
)
@click.option(
    "--adapter-only", is_flag=True, help="With --gguf: the adapter alone, to be used with a GGUF of its base."
)
@click.option("--version", help="Version of the adapter; default: the one in force.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    name: str, merge: Path | None, gguf: Path | None, adapter_only: bool, version: str | None, as_json: bool
) -> None:
    """Take use case NAME's adapter out of Tunefork: as a full model, as GGUF, or both.

    The merged model's logits are compared with those of base and adapter before anything is kept. The chat template
    travels along in both forms, with its hash.
    """
    if merge is None and gguf is None:
        raise ConfigError("nothing to export; give --merge FOLDER, --gguf FILE or both")
    if adapter_only and (gguf is None or merge is not None):
        raise ConfigError("--adapter-only goes with --gguf FILE alone")
    workspace = open_workspace()
    folder = workspace.use_case(name)
    adapter = folder.adapters.active() if version is None else folder.adapters.folder / version
    if adapter is None or not adapter.is_dir():
        known = ", ".join(folder.adapters.all()) or "none"
        raise ConfigError(f"use case {name!r} has no adapter {version or 'in force'}; versions: {known}")
    from core.models import local_folder
    from tuning.adapters import load_origin
    from tuning.gguf_export import export_adapter, export_model
    from tuning.merge import copy_model, merge_adapter

    origin = load_origin(adapter)
    if origin.method == "head":
        raise ConfigError(
            f"{adapter.name} of use case {name!r} is a head, which is not a language model; adapters and full models are"
            " exported"
        )
    if origin.method == "full" and adapter_only:
        raise ConfigError(f"{adapter.name} of use case {name!r} is a full model; leave --adapter-only out")
    base = local_folder(origin.base_model, workspace.models) if origin.method == "lora" else adapter
    document: dict[str, Any] = {"use_case": name, "version": adapter.name, "template_sha256": origin.template_sha256}
    if adapter_only:
        assert gguf is not None
        export_adapter(adapter, origin.base_model, base, gguf)
    else:
        for target in (merge, gguf):
            if target is not None and target.exists():
                raise ConfigError(f"{target}: is there already; name a new one")
        if origin.method == "full":
            if merge is not None:
                copy_model(adapter, merge)
                document["model"] = {"folder": str(merge)}
            if gguf is not None:
                export_model(adapter, gguf, f"{name} {adapter.name}")
            _tell(document, gguf, as_json)
            return
        with TemporaryDirectory(dir=None if merge is None else merge.parent) as scratch:
            merged = merge or Path(scratch) / "merged"
            report = merge_adapter(adapter, origin.base_model, base, merged)
            document["merge"] = report.to_json() | {"folder": None if merge is None else str(merge)}
            if gguf is not None:
                export_model(merged, gguf, f"{name} {adapter.name}")
    _tell(document, gguf, as_json)


def _tell(document: dict[str, Any], gguf: Path | None, as_json: bool) -> None:
    if gguf is not None:
        document["gguf"] = {"file": str(gguf), "size_bytes": gguf.stat().st_size}
    click.echo(json.dumps(document, ensure_ascii=False) if as_json else _summary(document))


def _summary(document: dict[str, Any]) -> str:
    lines = [f"exported {document['use_case']} {document['version']}"]
    if (check := document.get("merge")) is not None:
        lines.append(
            f"  merged: logits differ by at most {check['merged_difference']:.2g} in fp32; saved, the same token is most"
            f" probable at {check['same_next_token']:.1%} of {check['positions']} positions"
        )
        if check["folder"]:
            lines.append(f"  {check['folder']}")
    if (model := document.get("model")) is not None:
        lines.append(f"  {model['folder']}, a full model as it was trained")
    if (made := document.get("gguf")) is not None:
        lines.append(f"  {made['file']} ({made['size_bytes'] / 1e6:.0f} MB)")
    return "\n".join(lines)
