"""A judge at work: it is measured on labelled answers first, and scores only when it agrees with people.

Where it does not, or where no answers are labelled, the scorer that would have been used without it decides, and the
judge is not asked about a single arm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from advisor.answers import AnswerCache
from advisor.budget import Budget, Cost, Payee
from advisor.cost import Prices
from advisor.labelled import Agreement, Labelled, agreement, lacking
from advisor.purse import Judged
from advisor.reasons import Notice
from advisor.scorers.base import Scorer, without_thought
from advisor.scorers.judge import Case, Verdict, read_vote, settled, verdict_of, vote_request
from core.engines.base import Engine
from core.errors import ConfigError, EngineError, EngineUnavailable
from core.rows import Row
from core.settings import Judge
from core.types import Request

SHOWN_CHARS = 80
MOST_FAILED = 0.1
"""Of the calls on labelled answers: with more, too little was measured to trust or distrust it."""
ANSWER_BYTES = 6
"""A token of an answer that is still to come: English has about four bytes each. Votes on a longer one are not over the
budget either; where it does not hold them, the answer stays unjudged."""
OUT_OF_BUDGET = "the budget is used up"
NOBODY = Payee(Prices(machine_usd_per_hour=0.0), remote=False)
"""Whom votes are paid to where no prices are known."""


@dataclass
class Used:
    """What judging took, votes from earlier runs included."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    again: int = 0
    """Requests beside those that were answered: the endpoint failed first."""
    usd: float = 0.0


@dataclass
class Judging:
    """One judge, its votes so far, and whether they count."""

    settings: Judge
    agreement: Agreement | None
    """None: it could not be measured."""
    trusted: bool
    why: str
    """One sentence: why its scores count, or why not."""
    unjudged: dict[Case, str] = field(default_factory=dict)
    """Answers of arms without a verdict, and what the judge said instead."""
    judged: int = 0
    """Different answers of arms it was asked about."""
    used: Used = field(default_factory=Used)
    cost_of: Judged | None = None
    """The most that judging an answer costs; None where it judges none."""

    def notices(self, scorer: Scorer) -> list[Notice]:
        """Warnings for the verdict; `scorer` is what decided in the end."""
        if not self.trusted:
            text = f"The judge {self.settings.model} decides nothing: {self.why}. Scored by `{scorer.name}` instead."
            return [Notice("judge_not_trusted", text)]
        found = [Notice("judge", f"Scored by the judge {self.settings.model}: {self.why}.")]
        if self.unjudged:
            (case, said) = next(iter(self.unjudged.items()))
            text = (
                f"The judge gave no verdict on {len(self.unjudged)} of {self.judged} answers, as on "
                f"{_short(case.answer)!r}: {said}. They are left out as errors, not scored wrong."
            )
            found.append(Notice("judge_no_verdict", text))
        return found

    def document(self) -> dict[str, Any]:
        """For report.json."""
        measured = None if self.agreement is None else self.agreement
        estimates = ("rate", "kappa", "of_right", "of_wrong")
        return {
            "model": self.settings.model,
            "trusted": self.trusted,
            "why": self.why,
            "least_kappa": self.settings.kappa,
            "votes": self.settings.votes,
            "criteria": self.settings.criteria,
            "agreement": None
            if measured is None
            else {
                "n": measured.rate.n,
                **{key: _estimate(getattr(measured, key)) for key in estimates},
                **{key: getattr(measured, key) for key in ("unjudged", "turned", "unsteady")},
                "disagreements": list(measured.disagreements),
            },
            "judged": self.judged,
            "unjudged": len(self.unjudged),
            **asdict(self.used),
        }


def open_judging(
    settings: Judge,
    labelled: Sequence[Labelled],
    fallback: Scorer,
    open_: Callable[[ExitStack], Engine],
    held: ExitStack,
    cache: AnswerCache,
    seed: int,
    budget: Budget | None = None,
) -> tuple[Judging, Scorer]:
    """The judge, measured on the labelled answers, and the scorer that decides: its own, or `fallback`.

    Args:
        open_: opens its engine, to be closed with the stack it is given; not called where nothing can be measured.
        held: closes the engine of a judge whose scores count.
        budget: what the votes are booked on, and what ends them.

    Raises:
        ConfigError: the budget does not hold the votes on the labelled answers; none of them was asked.
        EngineUnavailable: the judge cannot be reached, or fails too often to be measured; its votes so far are kept.
    """
    short = lacking(labelled)
    if short:
        return Judging(settings, None, False, short), fallback
    with ExitStack() as stack:
        panel = _Panel(open_(stack), settings, cache, seed, budget)
        panel.refuse_dear([item.case for item in labelled])
        verdicts = panel.verdicts([item.case for item in labelled], every_vote=True)
        answered = _answered(settings, labelled, verdicts, panel)
        measured = agreement(*answered)
        said = measured.sentence()
        if measured.kappa.low < settings.kappa:
            why = f"{said}, and the lower end of kappa must reach {settings.kappa:g}"
            return Judging(settings, measured, False, why, used=panel.used), fallback
        judging = Judging(settings, measured, True, said, used=panel.used, cost_of=panel.cost_of)
        held.push(stack.pop_all())
        return judging, _scorer(judging, panel)


def _answered(
    settings: Judge, labelled: Sequence[Labelled], verdicts: Sequence[Verdict], panel: _Panel
) -> tuple[list[Labelled], list[Verdict]]:
    """What agreement is measured on: a call that failed says nothing about the judge."""
    pairs = list(zip(labelled, verdicts, strict=True))
    kept = [(item, v) for item, v in pairs if not (item.case in panel.failures and _speechless(v))]
    failed = len(pairs) - len(kept)
    if failed > MOST_FAILED * len(pairs):
        reason = next(iter(panel.failures.values()))
        raise EngineUnavailable(
            f"the judge {settings.model} failed on {failed} of {len(pairs)} labelled answers ({reason}); "
            "run the same command again once it answers: what it said is kept"
        )
    return [item for item, _ in kept], [verdict for _, verdict in kept]


def _speechless(verdict: Verdict) -> bool:
    return all(vote is None for vote in verdict.votes)


def _scorer(judging: Judging, panel: _Panel) -> Scorer:
    known: dict[Case, Verdict] = {}

    def prepare(pairs: Sequence[tuple[str, Row]]) -> None:
        cases = dict.fromkeys(_case(answer, row) for answer, row in pairs if answer.strip())
        new = [case for case in cases if case not in known]
        for case, verdict in zip(new, panel.verdicts(new), strict=True):
            known[case] = verdict
            judging.judged += 1
            if verdict.right is None:
                judging.unjudged[case] = _unsaid(case, verdict, panel)

    def value(answer: str, row: Row) -> float:
        if not answer.strip():
            return 0.0
        case = _case(answer, row)
        if case not in known:
            prepare([(answer, row)])
        right = known[case].right
        if right is None:
            raise EngineError(f"the judge gave no verdict: {judging.unjudged[case]}")
        return float(right)

    name = f"judge:{judging.settings.model}"
    why = f"Scored by the judge {judging.settings.model}: {judging.why}."
    return Scorer(name, "the judge finds that the answer says what a gold answer says", value, why=why, prepare=prepare)


@dataclass
class _Panel:
    """Asks for votes. The same vote is asked once: answers are cached by content."""

    engine: Engine
    settings: Judge
    cache: AnswerCache
    seed: int
    budget: Budget | None = None
    failures: dict[Case, EngineError] = field(default_factory=dict)
    used: Used = field(default_factory=Used)

    def verdicts(self, cases: Sequence[Case], every_vote: bool = False) -> list[Verdict]:
        """One in each order; where these two do not agree (or always, with `every_vote`) the others as well."""
        votes = self._ask([(case, vote) for case in cases for vote in (0, 1)])
        more = range(2, self.settings.votes)
        open_ = [case for case in dict.fromkeys(cases) if every_vote or not settled(self._read(votes, case, 2))]
        votes |= self._ask([(case, vote) for case in open_ for vote in more])
        found = []
        for case in cases:
            asked = sum((case, vote) in votes for vote in range(self.settings.votes))
            replies = [votes[case, vote] for vote in range(asked)]
            found.append(verdict_of(self._read(votes, case, asked), replies))
        return found

    def _read(self, votes: dict[tuple[Case, int], str], case: Case, asked: int) -> list[bool | None]:
        return [read_vote(votes[case, vote]) for vote in range(asked)]

    def _ask(self, wanted: Sequence[tuple[Case, int]]) -> dict[tuple[Case, int], str]:
        """The replies; "" where the call failed, or the budget did not hold it."""
        wanted = list(dict.fromkeys(wanted))
        paid = self._affordable(wanted)
        replies = dict.fromkeys(wanted, "")
        for case, _ in wanted[len(paid) :]:
            self.failures[case] = EngineError(OUT_OF_BUDGET)
        if not paid:
            return replies
        requests = [self._request(case, vote) for case, vote in paid]
        new = [i for i, request in enumerate(requests) if self._open(request)]
        answers = self.cache.ask("judge", self.engine, self._identity, requests)
        if self.budget is not None:
            results = [answers.results[i] for i in new]
            self.budget.spend(self._payee, [requests[i] for i in new], results, answers.new_s)
        read = written = 0
        for key, result in zip(paid, answers.results, strict=True):
            self.used.again += result.attempts - 1
            if isinstance(result, EngineError):
                self.failures[key[0]] = result
                continue
            replies[key] = result.text
            self.used.calls += 1
            read += result.usage.prompt_tokens
            written += result.usage.completion_tokens
        self.used.input_tokens += read
        self.used.output_tokens += written
        self.used.usd += self._payee.usd(read, written, answers.elapsed_s)
        return replies

    def refuse_dear(self, cases: Sequence[Case]) -> None:
        """Raises ConfigError where the budget does not hold every vote on `cases`."""
        if self.budget is None:
            return
        keys = [(case, vote) for case in dict.fromkeys(cases) for vote in range(self.settings.votes)]
        least = self._most([self._request(case, vote) for case, vote in keys])
        if not self.budget.holds(least):
            raise ConfigError(
                f"the budget does not pay for measuring the judge on its {len(cases)} labelled answers: that may take"
                f" {least.calls} calls and {least.usd:.6f} USD; raise --budget or --budget-calls, or leave the judge out"
            )

    def cost_of(self, row: Row, answer: str | None, most_tokens: int) -> Cost:
        """See `purse.Judged`."""
        shown = "x" * (ANSWER_BYTES * most_tokens) if answer is None else without_thought(answer)
        if not row.answers or not shown.strip():
            return Cost()
        case = _case(shown, row)
        requests = [self._request(case, vote) for vote in range(self.settings.votes)]
        first = [self.cache.text(self._identity, request) for request in requests[:2]]
        if settled([None if reply is None else read_vote(reply) for reply in first]):
            return Cost()
        return self._most(requests)

    def _affordable(self, wanted: list[tuple[Case, int]]) -> list[tuple[Case, int]]:
        """The first of `wanted`, as many as the budget holds at their most."""
        if self.budget is None or not self.budget.limited:
            return wanted
        cost = Cost()
        for at, (case, vote) in enumerate(wanted):
            cost = cost.plus(self._most([self._request(case, vote)]))
            if not self.budget.holds(cost):
                self.budget.leave_out("every vote of the judge")
                return wanted[:at]
        return wanted

    def _most(self, requests: Sequence[Request]) -> Cost:
        open_ = [request for request in requests if self._open(request)]
        return Cost(sum(self._payee.most(request) for request in open_), len(open_))

    def _open(self, request: Request) -> bool:
        return self.cache.text(self._identity, request) is None

    @property
    def _identity(self) -> str:
        return f"judge/{self.engine.model}"

    @property
    def _payee(self) -> Payee:
        return NOBODY if self.budget is None or self.budget.judge is None else self.budget.judge

    def _request(self, case: Case, vote: int) -> Request:
        return vote_request(case, vote, self.settings.criteria, self.settings.max_tokens, self.seed)


def _case(answer: str, row: Row) -> Case:
    return Case(row.input, row.answers, answer.strip())


def _unsaid(case: Case, verdict: Verdict, panel: _Panel) -> str:
    if case in panel.failures and _speechless(verdict):
        return f"the call failed ({panel.failures[case]})"
    if not _speechless(verdict):
        return f"{verdict.votes.count(True)} votes for right, {verdict.votes.count(False)} for wrong"
    return f"it replied {_short(verdict.replies[0])!r}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARS else flat[: SHOWN_CHARS - 3] + "..."


def _estimate(found: Any) -> dict[str, float]:
    return {key: round(getattr(found, key), 4) for key in ("value", "low", "high")}
