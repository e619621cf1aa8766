"""The arms asked in steps: batches of items interleaved over the arms, within a budget, every answer kept.

What a step needs is reserved before it is sent. Calls that found no endpoint are tried once more; if they fail again
the run stops and is resumed by the same command, for an answer that never came is not a wrong one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from advisor import arm_names
from advisor.answers import Answers
from advisor.arms import ArmRun, Asked, Bench, prepare
from advisor.budget import Budget, Cost
from advisor.looks import Progress, Step, schedule
from advisor.outcomes import OutcomeTable
from advisor.pilots import kept, most_seconds
from advisor.purse import Purse
from advisor.rule import DecisionSettings
from advisor.spending import LEAST_ITEMS, nominal_levels
from core.engines.base import Result
from core.errors import ConfigError, EngineUnavailable
from core.memory import give_back
from core.progress import say
from core.types import Request

PAUSE_S = 12.0
"""Before calls that found no endpoint are tried once more: beyond the pause in which the engine asks nobody (retries.Breaker)."""


@dataclass
class _Arm:
    asked: Asked
    results: dict[int, Result] = field(default_factory=dict)
    """By index of the bench's row."""
    elapsed_s: float = 0.0
    cached: int = 0


@dataclass
class Running:
    """One run's arms as they stand."""

    bench: Bench
    planned: tuple[str, ...]
    purse: Purse
    order: tuple[int, ...]
    """Indices of the bench's rows in the order in which they are asked."""
    arms: dict[str, _Arm] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    """Arms whose pilot the budget did not hold."""
    again: dict[str, int] = field(default_factory=dict)
    """By arm, requests of calls that found no endpoint and were tried once more."""
    settle: Callable[[], object] = lambda: None
    """Scores what was answered: a judge's votes are booked before more is asked."""

    @property
    def budget(self) -> Budget:
        return self.purse.budget

    def runs(self) -> tuple[ArmRun, ...]:
        """Every arm that was asked, in the plan's order, its rows in the bench's order."""
        out = []
        for name in self.planned:
            arm = self.arms.get(name)
            if arm is None or not arm.results:
                continue
            chosen = sorted(arm.results)
            out.append(
                ArmRun(
                    name,
                    tuple(self.bench.rows[i] for i in chosen),
                    tuple(arm.results[i] for i in chosen),
                    tuple(arm.asked.requests[i] for i in chosen),
                    arm.elapsed_s,
                    arm.cached,
                    arm.asked.build_s,
                )
            )
        return tuple(out)

    def ask(self, step: Step) -> int:
        """Ask as `step` says, as far as the budget goes; returns how many items every arm of it has answered then."""
        names = [name for name in step.arms if name in self.arms or self._prepare(name)]
        reached = 0
        while True:
            size = self._affordable(names, step.items)
            if size <= reached and size < step.items:
                return reached
            for name in names:
                self._ask_arm(name, size)
            give_back()
            if self.budget.limited:
                self.settle()
            reached = size
            if reached == step.items:
                return reached

    def _prepare(self, name: str) -> bool:
        """Build the arm; False where the budget does not hold what training its pilot may cost, and it is left out."""
        seconds = build_seconds(self.bench, name)
        if name in self.left_out:
            return False
        if seconds and not self.budget.holds(Cost(self.budget.base.seconds_usd(seconds))):
            self.left_out.add(name)
            say(f"{name}: training its pilot may take more than the budget has left; it is left out")
            return False
        asked = prepare(self.bench, name)
        if seconds:
            self.budget.spend_seconds(asked.build_s)
        self.arms[name] = _Arm(asked)
        return True

    def _affordable(self, names: Sequence[str], items: int) -> int:
        """The most items, up to `items`, whose open calls the budget holds at their worst price."""
        if not self.budget.limited:
            return items
        cost = Cost()
        for size in range(items):
            cost = cost.plus(self.needs(names, self.order[size]))
            if not self.budget.holds(cost):
                return size
        return items

    def needs(self, names: Sequence[str], row: int) -> Cost:
        """The most that the answers to one row cost that the arms of `names` have not given yet."""
        cost = Cost()
        for arm in (self.arms[name] for name in names):
            if row not in arm.results:
                asked = arm.asked
                cost = cost.plus(
                    self.purse.needs(asked.engine, asked.identity, asked.requests[row], self.bench.rows[row])
                )
        return cost

    def _ask_arm(self, name: str, size: int) -> None:
        arm = self.arms[name]
        rows = [row for row in self.order[:size] if row not in arm.results]
        if not rows:
            return
        requests = [arm.asked.requests[row] for row in rows]
        new = [row for row in rows if self.purse.open(arm.asked.engine, arm.asked.identity, arm.asked.requests[row])]
        answers = self._answers(name, requests)
        arm.results |= dict(zip(rows, answers.results, strict=True))
        arm.elapsed_s += answers.elapsed_s
        arm.cached += answers.cached
        if new:
            spent = [arm.asked.requests[row] for row in new]
            self.budget.spend(self.budget.base, spent, [arm.results[row] for row in new], answers.new_s)

    def _answers(self, name: str, requests: Sequence[Request]) -> Answers:
        arm = self.arms[name]
        asked = arm.asked

        def ask() -> Answers:
            return self.bench.cache.ask(name, asked.engine, asked.identity, requests)

        try:
            answers = ask()
            lost = [r for r in answers.results if isinstance(r, EngineUnavailable)]
            if lost:
                say(f"{name}: {len(lost)} calls found no endpoint; trying those once more in {PAUSE_S:g} s")
                self.again[name] = self.again.get(name, 0) + sum(result.attempts for result in lost)
                time.sleep(PAUSE_S)
                answers = ask()
                lost = [r for r in answers.results if isinstance(r, EngineUnavailable)]
            if lost:
                raise lost[0]
        except EngineUnavailable as exc:
            raise EngineUnavailable(
                f"{exc}; what {name} and the arms before it were answered is kept: run the same command again to go on"
            ) from exc
        return answers


@contextmanager
def running(bench: Bench, planned: Sequence[str], purse: Purse) -> Iterator[Running]:
    """The arms of a run, none of them asked; pilots' engines are closed at the end."""
    order = sorted(range(len(bench.rows)), key=lambda i: bench.rows[i].id)
    random.Random(bench.settings.seed).shuffle(order)
    run = Running(bench, tuple(planned), purse, tuple(order))
    try:
        yield run
    finally:
        for arm in run.arms.values():
            if arm.asked.engine is not bench.engine:
                arm.asked.engine.close()
        give_back()


def run_steps(
    run: Running, table: Callable[[], OutcomeTable], now: Callable[[], DecisionSettings], full: bool
) -> Progress:
    """Ask until the verdict stands, the items are through, or the budget is.

    Args:
        table: the outcomes of everything answered so far.
        now: the settings with what is known of the arms' costs so far.
        full: ask every arm everything, as is done with few items anyway.

    Raises:
        ConfigError: the budget does not pay for a single item in every arm of the first step; nothing was spent.
        EngineUnavailable: the engine is gone; what was answered is kept.
    """
    progress = Progress(len(run.bench.rows), run.planned, alpha=now().alpha)
    if full or progress.items < LEAST_ITEMS:
        reached = run.ask(Step(run.planned, progress.items))
        if reached < progress.items:
            _out_of_budget(run, progress, reached)
    else:
        _step_by_step(run, progress, table, now)
    progress.asked = {name: len(arm.results) for name, arm in run.arms.items() if arm.results}
    why = "the budget does not hold the training of its pilot"
    progress.dropped |= {arm: {"items": 0, "why": why} for arm in run.planned if arm in run.left_out}
    return progress


def _step_by_step(
    run: Running, progress: Progress, table: Callable[[], OutcomeTable], now: Callable[[], DecisionSettings]
) -> None:
    dear = [arm for arm in run.planned if arm != "tune:head" and build_seconds(run.bench, arm)]
    steps = schedule(progress, now, dear)
    step = next(steps)
    while True:
        reached = run.ask(step)
        if reached < step.items:
            steps.close()
            # Arms that waited are behind; the look that was cut short is that of the arm that has come furthest.
            reached = max((len(arm.results) for arm in run.arms.values()), default=reached)
            _out_of_budget(run, progress, reached)
            # The budget ended it, not the outcomes: the rest of alpha may be spent here.
            sizes = tuple(look["items"] for look in progress.looks if look["items"] < reached)
            progress.alpha = nominal_levels((*sizes, reached), now().alpha)[-1] if reached else progress.alpha
            return
        found = table()
        said = ", ".join(f"{arm} {_right(found, arm)}" for arm in step.arms if arm in run.arms)
        say(f"{step.items} of {progress.items} items: {said}")
        try:
            step = steps.send(found)
        except StopIteration:
            return


def build_seconds(bench: Bench, arm: str) -> float:
    """Most seconds that building the arm takes; 0 where it needs nothing, or has it."""
    if arm_names.family(arm) not in (arm_names.TUNE, arm_names.TUNE_RETRIEVED, arm_names.TUNE_ORACLE):
        return 0.0
    method = arm_names.tuning_method(arm)
    if arm_names.family(arm) == arm_names.TUNE and kept(bench.folder, bench.settings, bench.train, method):
        return 0.0
    return most_seconds(method, len(bench.train))


def _out_of_budget(run: Running, progress: Progress, reached: int) -> None:
    run.budget.stopped = True
    progress.stopped_by = "budget"
    if not any(arm.results for arm in run.arms.values()):
        first = [name for name in run.planned if name in run.arms]
        least = run.needs(first, run.order[0])
        raise ConfigError(
            f"the budget does not pay for one item in {len(first)} arms: that may take {least.calls} calls"
            f" and {least.usd:.6f} USD; raise --budget or --budget-calls"
        )
    say(f"the budget is used up after {reached} items; deciding on what there is")


def _right(table: OutcomeTable, arm: str) -> str:
    counts = table.counts(arm)
    return f"{counts.total:g}/{counts.n}"
