"""Does an answer refuse? Saying "I don't know" is neither right nor confidently wrong, and is counted apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from unicodedata import normalize

from core.errors import ConfigError

HEAD_CHARS = 240
"""A refusal leads the answer. Further in, the same words are as often a quotation or one clause of an answer."""

_NOT = r"(?:\s+(?:not|never)|n't)"
_SOURCE = (
    r"(?:documents?|passages?|contexts?|texts?|articles?|sources?|excerpts?|materials?|information|content|snippets?)"
)
_GIVEN = r"(?:given|provided|available|supplied|retrieved|above|following|current)"
_SAYS = r"(?:mention|contain|provide|say|state|specify|include|answer|give|discuss|address|cover|indicate|describe|have|tell)"
_QUE = r"(?:documentos?|pasajes?|contextos?|textos?|fragmentos?|fuentes?|informaci[oó]n|art[ií]culos?)"
_DICE = r"(?:menciona|contiene|proporciona|dice|indica|especifica|incluye|responde|da|habla|trata|aparece|ofrece)n?"

ENGLISH = (
    r"\bi(?:'m| am)\s+(?:really |just |simply |still )?(?:not (?:sure|certain|aware|able|familiar)|unable|uncertain)\b",
    r"\bi(?:'ve| have)?\s+(?:really |just |simply |currently )?(?:have )?(?:no (?:idea|clue|information|knowledge|answer|access)|"
    r"(?:do not|don't|cannot|can't|can not|could not|couldn't|did not|didn't|won't|would not)\s+(?:\w+ly\s+)?"
    r"(?:know|answer|find|determine|say|tell|provide|have|assist|help|see|access|give|confirm|comply|fulfill?))\b",
    rf"\b(?:is|are|was|were|does|do|could|can){_NOT}\s+(?:be\s+|been\s+|explicitly\s+|directly\s+|clearly\s+|seem to be\s+)*"
    r"(?:found|mentioned|specified|provided|stated|contained|available|covered|given|present|discussed|included|"
    rf"addressed|answered|determined|appear|known)\b(?:[^.\n]{{0,40}}\b{_SOURCE}\b|\s*[.!]?\s*$)",
    rf"\b(?:the|this|these|those|none of the|any of the)?\s*(?:{_GIVEN}\s+)?{_SOURCE}\b[^.\n]{{0,20}}?"
    rf"\b(?:do|does|did){_NOT}\s+(?:explicitly\s+|directly\s+|specifically\s+|actually\s+|seem to\s+|appear to\s+)*{_SAYS}\b",
    rf"\bno\s+(?:relevant\s+|specific\s+|such\s+)*(?:information|mention|answer|data|details?|evidence)\b[^.\n]{{0,40}}"
    rf"\b(?:in|by|from|within)\b[^.\n]{{0,20}}\b{_SOURCE}\b",
    r"^(?:there is |there's |i found |i have )?no\s+(?:relevant\s+|specific\s+)*(?:information|mention|answer|data)\s*"
    r"(?:available|provided|found|given|about|on|regarding)\b",
    rf"\bnot\s+(?:in|found in|mentioned in|specified in|provided in|stated in|contained in|covered in|available in)\s+"
    rf"(?:the|this|these|any|our|your)?\s*(?:{_GIVEN}\s+)?{_SOURCE}\b",
    r"\b(?:not enough|insufficient|lack of)\s+(?:information|context|data)\b[^.\n]{0,40}(?:answer|determine|question|say|tell|$)",
    rf"\bnone of (?:the|these|those)\s+(?:{_GIVEN}\s+)?{_SOURCE}\s+{_SAYS}s?\b",
    r"\b(?:cannot|can't|can not|could not|couldn't)\s+be\s+(?:determined|answered|inferred|found|known)\b",
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|assistant)\b[^.\n]{0,60}\b(?:not|n't|cannot|unable)\b",
    r"^(?:i'?m (?:sorry|afraid)|i apologi[sz]e|sorry|unfortunately)\b[^\n]{0,80}\b(?:not|n't|cannot|unable|no)\b",
    r"^(?:the answer is\s+)?(?:unknown|n/?a|unanswerable|not answerable|no answer|not (?:specified|stated|mentioned|"
    r"available|provided|given|known|found)|i don't know|idk|undetermined|answer not found)\s*[.!]?$",
)
SPANISH = (
    r"\bno\s+(?:lo\s+)?(?:s[eé](?:\s|[.,!;]|$)|conozco|puedo\s+(?:responder|contestar|encontrar|determinar|proporcionar|saber|ayudar|decir)|"
    r"tengo\s+(?:suficiente\s+|esa\s+|esta\s+|la\s+|ninguna\s+)*(?:informaci[oó]n|acceso|datos|respuesta)|encuentro|estoy segur[oa])",
    rf"\b(?:el|los|la|las|este|estos|esta|ning[uú]n)\s+{_QUE}\b[^.\n]{{0,40}}?\bno\s+(?:(?:se|lo|la)\s+)?{_DICE}\b",
    rf"\bno\s+(?:se|est[aá]|aparece|figura|hay)\b[^.\n]{{0,40}}?\ben\s+(?:el|los|la|las|este|estos)\s+{_QUE}\b",
    r"\bno\s+(?:se\s+(?:menciona|especifica|indica|proporciona|encuentra)|hay)\s+(?:ninguna\s+|suficiente\s+|esa\s+)*"
    r"(?:informaci[oó]n|respuesta|datos)\b",
    r"\bno\s+(?:es posible|se puede)\s+(?:responder|determinar|saber|contestar)\b",
    r"\b(?:informaci[oó]n|datos)\s+insuficientes?\b",
    r"^(?:lo siento|lamentablemente|desafortunadamente|disculpa|perd[oó]n)\b[^\n]{0,80}\bno\b",
    r"^(?:desconocid[oa]|sin respuesta|no (?:disponible|especificad[oa]|se sabe|se menciona)|n/?a)\s*[.!]?$",
)
CHINESE = (
    r"(?:^|[，。：,.!！\s]|我们?|本人|您?的?问题|答案)(?:也|还|暂时|目前)?(?:不知道|不清楚|不确定|无法(?:回答|确定|得知|判断|找到|提供|获取|知道|给出)|不能(?:回答|确定|提供)|没有办法回答|难以确定)",
    r"(?:文档|文章|文中|文本|段落|上下文|资料|材料|原文|来源|信息|内容|文件)[^。\n]{0,12}?"
    r"(?:没有|并未|未|并没有|不)(?:明确)?(?:提到|提及|提供|说明|包含|给出|指出|涉及|找到|显示|回答|记载|包括)",
    r"(?:没有|缺乏|未找到|找不到|没找到|无)(?:足够的|相关的?|有关的?|任何|可用的?)*(?:信息|资料|答案|内容|数据)",
    r"信息不足|无答案|^(?:未知|未提及|未提供|没有答案|不详)[。！.]?$",
    r"^(?:抱歉|对不起|很抱歉|不好意思|很遗憾)[^\n]{0,40}(?:无法|不能|没有|不知道|未)",
)


def is_refusal(text: str, own: Sequence[str] = ()) -> bool:
    """Whether `text` declines to answer, in English, Spanish or Chinese, or by one of the user's `own` patterns.

    Own patterns are regular expressions, searched in the whole text whatever the case. An empty answer is no
    refusal: a broken model must not look like a careful one.

    Raises:
        ConfigError: an own pattern is not a regular expression.
    """
    plain = normalize("NFKC", text).replace("’", "'").strip().casefold()
    if not plain:
        return False
    if own and _own(tuple(own)).search(plain):
        return True
    return _built_in().search(plain[:HEAD_CHARS]) is not None


@lru_cache(maxsize=1)
def _built_in() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in (*ENGLISH, *SPANISH, *CHINESE)), re.MULTILINE)


@lru_cache(maxsize=16)
def _own(patterns: tuple[str, ...]) -> re.Pattern[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as exc:
            raise ConfigError(f"refusal pattern {pattern!r} is not a regular expression: {exc}") from exc
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
