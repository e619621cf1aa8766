"""The written reports: safe with any text, complete with any part missing."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest

from advisor.charts import Line, Scale, interval_track, scale_over
from advisor.html_report import MAX_ITEMS, render_html
from advisor.markdown_report import escaped, render_markdown
from advisor.outcomes import OutcomeRow, OutcomeTable
from advisor.report_view import FILTERS, alarms, cut, failed_items, title
from advisor.verdict import decide
from tests.advisor.documents import EVIL, document


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the scripts' text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_text_of_users_and_models_is_never_markup() -> None:
    page = Page(render_html(document(answer=EVIL)))
    assert len(page.scripts) == 1
    assert "hacked" not in page.scripts[0]
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_every_element_is_closed() -> None:
    page = Page(render_html(document()))
    assert (page.open, page.unbalanced) == ([], [])


def test_nothing_is_loaded_from_anywhere() -> None:
    text = render_html(document(answer="see https://example.com/a.js"))
    page = Page(text)
    loading = [attrs[name] for _, attrs in page.elements for name in ("src", "href", "data", "srcset") if name in attrs]
    assert loading
    assert all(url is not None and url.startswith("#") for url in loading)
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert not re.search(r"url\(|@import", style[1])
    assert "default-src 'none'" in text


def test_links_of_the_page_lead_to_its_sections() -> None:
    page = Page(render_html(document()))
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert {str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a"} <= ids


def test_first_screen_says_route_reason_confidence_and_what_n_can_show() -> None:
    given = document()
    assert given["verdict"]["route"] == "tune"
    right = {row["name"]: row["correct"] for row in given["arms"]}
    first = render_html(given).partition('<section id="why"')[0]
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", first, flags=re.S).split())
    assert "Tune the model with a classification head" in text
    assert f"With the pilot tune (head), {right['tune:head']} of 60 items are right" in text
    assert "over 99%" in text
    assert "60 items show a gain of 20 points" in text
    assert "2 items leak." in text
    assert given["verdict"]["reasons"][0] in html.unescape(text)


def test_all_arms_stand_in_the_report_with_their_counts() -> None:
    given = document()
    for text in (render_html(given), render_markdown(given)):
        for row in given["arms"]:
            assert row["name"] in text
            assert FILTERS["percent"](row["rate"]) in text
        assert "tune_retrieved" in text
        assert "documents (--docs PATH)" in text


@pytest.mark.parametrize("key", [*document(8), "arms verdict"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_report_is_written_without_any_one_part(key: str, value: str | None) -> None:
    given = document(8)
    for name in key.split():
        given.pop(name)
        if value is None:
            given[name] = None
    assert "</html>" in render_html(given)
    assert render_markdown(given).startswith("# ")


def test_an_empty_document_claims_nothing() -> None:
    text = render_html({})
    assert "No verdict in this report" in text
    assert text.count("<section") == 1


def test_what_was_measured_besides_is_in_both_reports() -> None:
    given = document()
    page = re.sub(r"<[^>]+>", "", html.unescape(render_html(given)))
    for text in (page, render_markdown(given).replace("\\", "").replace("`", "")):
        for said in (
            "310 of 900",
            "The verdict was clear.",
            "it cannot reach the leader.",
            "Each doubling gains 12 points.",
            "This machine holds it.",
            "from 2,700 queries on",
            "2 of 60 items are contaminated",
            "3 of 60" if text is not page else "Items that a remedy breaks",
            "0.850",
        ):
            assert said in text
    for said in ("judge-7b", "It spent $0.31 of $1.00.", "3 calls failed.", "q9 (correct, wrong) and 2 more"):
        assert said in " ".join(page.split())


def test_totals_alone_give_verdict_arms_and_gains() -> None:
    verdict = decide(
        OutcomeTable.from_totals({"arms": {"closed": {"n": 200, "correct": 40}, "tune": {"n": 200, "correct": 120}}})
    )
    text = render_html({"verdict": json.loads(json.dumps(verdict.to_json()))})
    assert "Tune the model with a LoRA adapter" in text
    assert "120 of 200 items are right" in text
    assert "+40.0" in text


def test_a_graded_table_has_rates_and_no_counts() -> None:
    rows = [
        OutcomeRow(f"q{i}", arm, None, score=score)
        for i in range(30)
        for arm, score in (("closed", 0.2), ("tune", 0.9))
    ]
    verdict = json.loads(json.dumps(decide(OutcomeTable.from_rows(rows)).to_json()))
    assert "the rate is 90%; the base model alone reaches 20%" in render_html({"verdict": verdict})


def test_an_undecided_verdict_shows_what_it_needs() -> None:
    given = document(12, rates={"closed": 0.4, "prompt": 0.5})
    assert given["verdict"]["route"] == "undecided"
    text = html.unescape(render_html(given))
    assert title(given["verdict"]) == "Undecided: the evidence does not settle it"
    assert all(need["why"] in text for need in given["verdict"]["needs"])


def test_file_stays_small_with_many_long_answers_and_names_what_it_leaves_out() -> None:
    given = document(500, answer="<&'\"漢" * 2000)
    text = render_html(given)
    shown = text.count("<details data-cause=")
    assert len(text.encode()) < 1_000_000
    assert 0 < shown <= MAX_ITEMS
    assert f"{shown} of {len(given['ledger']['rows'])} are shown" in text


def test_rare_causes_stay_when_items_are_left_out() -> None:
    given = document(500)
    kept = failed_items(given, 20, 10**6)
    assert len(kept.rows) == 20
    assert {row["cause"] for row in kept.rows} == set(given["ledger"]["counts"])


def test_a_lone_surrogate_in_an_answer_can_be_written() -> None:
    given = document(8, answer="broken \ud800")
    render_html(given).encode()
    render_markdown(given).encode()


def test_markdown_values_are_plain_text_on_one_line() -> None:
    assert escaped("a | b\n# c <b>*x*</b>") == "a \\| b \\# c &lt;b&gt;\\*x\\*&lt;/b&gt;"
    assert escaped("few_shot stays") == "few_shot stays"
    assert EVIL not in render_markdown(document(answer=EVIL))


def test_markdown_tables_have_as_many_cells_in_each_row() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", render_markdown(document(answer="a | b")), re.M)
    assert len(tables) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("points", -0.0001, "0.0"),
        ("points", -0.27, "−27.0"),
        ("percent", 0.8667, "86.7%"),
        ("percent", None, "–"),
        ("percent", float("nan"), "–"),
        ("seconds", 0.21, "210 ms"),
        ("seconds", 3700, "1 h 1 min"),
        ("usd", 0.00001, "<$0.0001"),
        ("usd", 1234.5, "$1,234.50"),
        ("p", 1e-20, "<0.001"),
        ("confidence", 0.9991, "over 99%"),
    ],
)
def test_numbers_are_written_for_readers(name: str, value: float | None, text: str) -> None:
    assert FILTERS[name](value) == text


def test_cut_says_how_much_is_missing() -> None:
    assert cut("abcdef", 4) == "abcd … (2 more characters)"
    assert cut("abcd", 4) == "abcd"


@pytest.mark.parametrize("values", [[0.5], [-0.27, 0.53], [0.001], [3.4, -12.0], [], [float("nan"), 0.2]])
def test_a_scale_holds_its_values_and_zero_with_few_ticks(values: list[float]) -> None:
    scale = scale_over(values)
    assert all(scale.low <= value <= scale.high for value in [0.0, *values] if value == value)
    assert 2 <= len(scale.ticks) <= 14
    assert scale.x(scale.high) == "100.00%"


def test_a_track_puts_values_at_their_share_of_the_width() -> None:
    track = interval_track(0.5, 0.25, 0.75, Scale(0, 1, 0.5), says='"quoted"', bar=True, lines=[Line(0.9, "target")])
    assert '<line class="bar" x1="0.00%" x2="50.00%"' in track
    assert '<line class="span" x1="25.00%" x2="75.00%"' in track
    assert 'class="mark target" x1="90.00%"' in track
    assert 'aria-label="&#34;quoted&#34;"' in track


def test_a_leak_that_the_verdict_warns_of_is_said_once_on_the_first_screen() -> None:
    given = document()
    assert [check["code"] for check in alarms(given)] == ["leakage"]
    given["verdict"]["warnings"] = [{"code": "leakage", "text": "2 of 60 items are contaminated."}]
    assert alarms(given) == []
    first = render_html(given).partition('<section id="why"')[0]
    assert "data: leakage" not in first
    assert "2 of 60 items are contaminated." in first
    assert "2 items leak." in render_html(given), "the table of checks has it all the same"
