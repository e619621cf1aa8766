"""`tunefork tune`: the tuning room's command, with passages of the use case's index for `--context`."""

from __future__ import annotations

from advisor.context_passages import index_passages
from tuning.commands.tune import tune_command

command = tune_command(index_passages)
