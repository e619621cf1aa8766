"""Training rows as `--context` shows them: passages before the question, as the served remedy will ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.progress import say
from tuning.tune_flags import flag_names

if TYPE_CHECKING:
    from core.rows import Row
    from core.settings import UseCase
    from core.workspace import UseCaseFolder, Workspace
    from tuning.context import ContextRecipe, Supplied, Supplier


class Shown:
    """Rows with passages before their questions, and what origin.json should say of that (`notes`)."""

    def __init__(self, supply: Callable[[Sequence[Row]], Supplied], recipe: ContextRecipe) -> None:
        self._supply = supply
        self._recipe = recipe
        self.notes: dict[str, Any] = {}

    def __call__(self, rows: list[Row]) -> list[Row]:
        from tuning.context import context_rows

        supplied = self._supply(rows)
        made = context_rows(rows, supplied.passages, self._recipe, supplied.ground)
        self.notes = self._recipe.model_dump() | {"with_gold": made.with_gold}
        unknown = made.without_known_gold
        also = f"; for {unknown} none is known that holds the answer" if unknown else ""
        say(f"{made.with_gold} of {len(rows)} rows show their gold passage{also}")
        if made.with_gold < 0.4 * len(rows):
            say("warning: fewer than 40 % of the rows show a gold passage; mark it with `context_ids` or `context`")
        return made.rows


def shown_rows(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, given: Mapping[str, Any], supplier: Supplier | None
) -> Shown | None:
    """What `--context` makes of the rows: with the supplier's passages, else with their own; None without the flag."""
    if not given["context"]:
        return None
    from core.prompts import grounded
    from tuning.context import ContextRecipe, Supplied, own_passages
    from tuning.recipe import parse_recipe

    def supply(rows: Sequence[Row]) -> Supplied:
        supplied = supplier(folder, settings, workspace, rows) if supplier is not None else None
        return supplied or Supplied(own_passages(rows), grounded)

    values = {"gold_share": given["gold_share"], "cite": given["cite"] or None, "seed": settings.seed}
    return Shown(supply, parse_recipe(ContextRecipe, values, flag_names({"gold_share": "gold_share"})))
