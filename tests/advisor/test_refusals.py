"""Refusals are told from answers, in three languages, and not found in ordinary answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.refusals import is_refusal
from core.errors import ConfigError

REFUSALS = """\
I don't know.
I'm sorry, but I cannot answer that question.
I’m sorry, I don’t have enough information to answer.
I am unable to find the answer.
I couldn't find any information on that.
I have no idea.
The passages do not mention who won the game.
None of the passages mention the name of the king.
The provided context does not contain information about this.
The passage does not directly state the year.
Based on the passages, the answer cannot be determined.
Unfortunately, the context doesn't provide the date.
Not in the documents.
This is not mentioned in the text.
The answer is not found in the given passages.
There is no information about this in the passage.
There is not enough information to answer the question.
No information available.
Unknown
N/A
unanswerable
It is not specified.
As an AI language model, I do not have access to real-time data.
No lo sé.
No sé la respuesta.
Lo siento, no puedo responder a esa pregunta.
El texto no menciona quién ganó.
No hay información sobre eso en el texto.
No se menciona en el documento.
La respuesta no se encuentra en los pasajes.
No tengo suficiente información.
Desconocido
我不知道。
文中没有提到这个问题的答案。
抱歉，我无法回答这个问题。
文档中未提及。
没有足够的信息来回答。
无法确定
根据提供的资料，没有相关信息。"""

ANSWERS = """\
Paris
No
The Denver Broncos did not win.
no, there was no significant difference between the groups.
The patient was not given insulin; the dose is 5 mg.
He said he did not want to continue.
You can top up by card; I have attached the guide.
The fee is not charged for transfers within the EU.
It does not apply to children.
SELECT a FROM t WHERE b = "not given" ;
No, las tasas no aumentaron.
el 5 de mayo
不是
他不同意该计划。"""


@pytest.mark.parametrize("text", REFUSALS.splitlines())
def test_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS.splitlines())
def test_answer(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_a_quotation_far_into_an_answer_is_no_refusal() -> None:
    assert not is_refusal("The witness named the driver. " * 10 + 'Asked for the time he said: "I don\'t know."')


def test_own_patterns_are_searched_whatever_the_case() -> None:
    assert not is_refusal("Bitte wende dich an den Support.")
    assert is_refusal("Bitte wende dich an den SUPPORT.", [r"wende dich an den support"])


def test_own_pattern_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'\(' is not a regular expression"):
        is_refusal("x", ["("])


@pytest.mark.parametrize("name", ["xquad/questions_en", "xquad/questions_es", "xquad/questions_zh", "banking77/train"])
def test_gold_answers_are_next_to_never_taken_for_refusals(shared_data: Path, name: str) -> None:
    with (shared_data / f"{name}.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    golds = [answer for record in records for answer in record.get("answers", [record.get("output")])]
    assert sum(map(is_refusal, golds)) <= 1  # "不确定" is a gold answer of the Chinese set
