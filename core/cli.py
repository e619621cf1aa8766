"""The `tunefork` command: a table of commands, each loaded only when it runs.

`tunefork --help` must answer in under 0.3 s, so this file imports click alone;
a command's module (and torch, chromadb ... behind it) is imported on use. The
table holds names, not imports: core never imports the rooms above it.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import NamedTuple

import click


class Entry(NamedTuple):
    module: str
    """Module with a click command called `command`."""
    help: str


COMMANDS: dict[str, Entry] = {
    "demo": Entry("advisor.commands.demo", "Run the whole loop on the shipped examples."),
    "advise": Entry("advisor.commands.advise", "Measure which remedy a use case needs, and say why."),
    "decide": Entry("advisor.commands.decide", "Verdict from a ready outcome table; needs no model."),
    "estimate": Entry("advisor.commands.estimate", "Memory, time, data and money of a remedy."),
    "build": Entry("advisor.commands.build", "Build what the verdict says."),
    "report": Entry("advisor.commands.report", "Where the report of a use case is, and its summary."),
    "ingest": Entry("rag.commands.ingest", "Index documents for a use case."),
    "rebuild": Entry("rag.commands.rebuild", "Make a use case's index anew from its documents."),
    "verify": Entry("rag.commands.verify", "Check a use case's index, part by part."),
    "query": Entry("rag.commands.query", "Passages a use case's index returns for a text."),
    "eval-retrieval": Entry("rag.commands.eval_retrieval", "Recall, MRR and nDCG of a use case's index."),
    "tune-retrieval": Entry("rag.commands.tune_retrieval", "Choose how passages are searched for, by measurement."),
    "tune": Entry("advisor.commands.tune", "Train an adapter or a head for a use case."),
    "rollback": Entry("tuning.commands.rollback", "Put another version of an adapter or head in force."),
    "export": Entry("tuning.commands.export", "An adapter as a full model, or as GGUF for llama.cpp and Ollama."),
    "serve": Entry("serve.commands.serve", "Serve every use case behind one OpenAI-compatible API."),
    "canary": Entry("serve.commands.canary", "Try another remedy on a share of a use case's requests."),
    "chat": Entry("serve.commands.chat", "Ask a use case from the terminal."),
    "keys": Entry("serve.commands.keys", "API keys of the server: make, list, revoke."),
    "usage": Entry("serve.commands.usage", "What each key and use case has used of the server."),
    "list": Entry("core.commands.list", "The use cases of this workspace."),
    "show": Entry("core.commands.show", "One use case: settings, verdict, artifacts, runs."),
    "revert": Entry("core.commands.revert", "Put an earlier remedy of a use case in force again."),
    "delete": Entry("rag.commands.delete", "Remove a use case and all it holds."),
    "doctor": Entry("core.commands.doctor", "What this machine can run, and what is missing."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if not ctx.resilient_parsing:
            from core.memory import one_arena

            one_arena()
        command = import_module(entry.module).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from core.errors import UnknownName

            raise UnknownName("command", args[0], COMMANDS, hint="(`tunefork --help` lists all)")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"tunefork {version('tunefork')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def tunefork() -> None:
    """Which remedy does this use case need, retrieval or tuning? Measure, decide, build, serve."""


def main(args: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 the user's mistake, 1 ours, 130 stopped by Ctrl-C."""
    _quiet_dependencies()
    try:
        tunefork.main(args=args, prog_name="tunefork", standalone_mode=False)
        return 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.exceptions.Abort:
        return _fail("stopped; run the same command again to go on where it stopped", 130)
    except click.ClickException as exc:
        ctx = getattr(exc, "ctx", None)
        hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
        return _fail(" ".join(exc.format_message().split()) + hint, 2)
    except KeyboardInterrupt:
        return _fail("stopped; run the same command again to go on where it stopped", 130)
    except BrokenPipeError:
        # The reader of our stdout left (`tunefork list | head`): point stdout at
        # nothing, so the interpreter's own flush at exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as exc:  # noqa: BLE001 - the one broad catch of the command line
        return _report(exc)


_BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def _report(exc: Exception) -> int:
    from core.errors import TuneforkError, UserError

    if os.environ.get("TUNEFORK_DEBUG"):
        raise exc
    if isinstance(exc, UserError):
        return _fail(str(exc), 2)
    # Libraries written in Rust (safetensors, tokenizers) say it in words of their own.
    if (isinstance(exc, OSError) and exc.errno == errno.ENOSPC) or f"(os error {errno.ENOSPC})" in str(exc):
        return _fail(f"the disk is full{_at(exc)}; free some space and run the same command again", 2)
    if isinstance(exc, OSError) and exc.errno in _BARRED and exc.filename:
        return _fail(f"{exc.filename}: cannot be used ({exc.strerror}); mend its rights, or name another place", 2)
    if isinstance(exc, TuneforkError):
        return _fail(str(exc), 1)
    text = str(exc).strip().splitlines()
    return _fail(
        f"internal error: {type(exc).__name__}: {text[0] if text else 'no message'} (TUNEFORK_DEBUG=1 shows the traceback)",
        1,
    )


def _at(exc: Exception) -> str:
    name = getattr(exc, "filename", None)
    return f" (writing {name})" if name else ""


def _fail(text: str, code: int) -> int:
    click.echo(f"tunefork: {text}", err=True)
    return code


def _quiet_dependencies() -> None:
    """Turn off the telemetry of dependencies and every hub look-up nobody asked for."""
    for name, value in {
        "ANONYMIZED_TELEMETRY": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    sys.exit(main())
