"""The report in a real browser: whole at any width, light and dark, silent, and its ledger can be searched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from advisor.html_report import render_html
from tests.advisor.documents import EVIL, document

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")

PROBE = """<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0;width:{width}px;height:900px}}</style>
<iframe srcdoc="{page}"></iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const frame = document.querySelector("iframe"), inner = frame.contentDocument, root = inner.documentElement;
  const visible = () => [...inner.querySelectorAll("#items > details")].filter((item) => !item.hidden).length;
  const find = (text) => {{
    inner.getElementById("search").value = text;
    inner.getElementById("search").dispatchEvent(new frame.contentWindow.Event("input"));
    return visible();
  }};
  const cause = (name) => inner.querySelector(`#filter button[data-cause="${{name}}"]`).click();
  for (const part of inner.querySelectorAll("details")) part.open = true;
  const all = visible();
  cause("not_in_corpus");
  const byCause = visible(), both = find("no such words");
  cause("");
  const byText = find("WHERE is needle"), cleared = find("");
  const wide = [...inner.querySelectorAll("body *")].filter((e) => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > {width} + 1);
  const cut = [...inner.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX !== "auto");
  document.getElementById("found").textContent = JSON.stringify({{
    width: root.scrollWidth, all, byCause, both, byText, cleared, hacked: window.hacked === 1,
    background: getComputedStyle(inner.body).backgroundColor, ink: getComputedStyle(inner.body).color,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
    outside: wide.map((e) => e.tagName + "." + e.className), cut: cut.length,
    tracks: inner.querySelectorAll("svg.track").length, curves: inner.querySelectorAll("svg.curve .dot").length,
  }});
}});
</script>"""


def given() -> dict[str, Any]:
    """A report with long words in its answers, and one item to find."""
    found = document(answer=EVIL + " https://example.com/" + "very" * 100)
    found["ledger"]["rows"][3]["input"] = "Where, oh where is it? Needle"
    return found


@cache
def browser(folder: Path, width: int, dark: bool) -> list[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--enable-logging=stderr", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    return [*command, f"--window-size={max(width, 500)},900"]


def dump(command: list[str], url: str) -> tuple[str, list[str]]:
    """The page's DOM once it is loaded, and what it wrote on the console (errors and refused requests)."""
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r".*:CONSOLE.*", done.stderr)


def look(page: str, width: int, dark: bool, folder: Path) -> tuple[dict[str, Any], list[str], bytes]:
    """What Chromium makes of `page` in a frame of that width, its console, and a picture of it."""
    probe, picture = folder / "probe.html", folder / "picture.png"
    probe.write_text(PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    command = browser(folder, width, dark)
    dom, console = dump(command, probe.as_uri())
    subprocess.run([*command, f"--screenshot={picture}", probe.as_uri()], capture_output=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.+?)</pre>', dom)
    assert found is not None, console
    return json.loads(html.unescape(found[1])), console, picture.read_bytes()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["wide-light", "narrow-dark"])
def test_a_real_browser_shows_it_whole_and_finds_items(width: int, dark: bool, tmp_path: Path) -> None:
    report = given()
    seen, console, picture = look(render_html(report), width, dark, tmp_path)
    rows = report["ledger"]["rows"]
    assert console == []
    assert seen["width"] == width, "the page scrolls sideways"
    assert (seen["outside"], seen["cut"]) == ([], 0)
    assert (seen["hacked"], seen["loaded"]) == (False, 0)
    assert (seen["all"], seen["byCause"], seen["both"]) == (len(rows), 1, 0)
    assert (seen["byText"], seen["cleared"]) == (1, len(rows))
    assert seen["tracks"] > len(report["arms"])
    assert seen["curves"] >= 5
    paper, ink = (sum(map(int, re.findall(r"\d+", seen[name])[:3])) for name in ("background", "ink"))
    assert (paper < ink) == dark
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture) > 20_000, "the picture is blank"


def test_a_link_opens_the_ledger_at_some_items(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(given()), encoding="utf-8")
    dom, console = dump(browser(tmp_path, 1280, False), page.as_uri() + "#find=needle")
    shown = re.findall(r"<details data-cause=\"\w+\">", dom)
    assert (len(shown), console) == (1, [])
    assert "1 of " in dom


def test_without_scripts_every_item_is_there_and_no_dead_control(tmp_path: Path) -> None:
    report = given()
    page = tmp_path / "report.html"
    page.write_text(re.sub(r"<script>.*?</script>", "", render_html(report), flags=re.S), encoding="utf-8")
    dom, _ = dump(browser(tmp_path, 1280, False), page.as_uri())
    assert len(re.findall(r"<details data-cause=\"\w+\">", dom)) == len(report["ledger"]["rows"])
    assert '<div id="find" hidden="">' in dom
    assert re.search(r'<div id="filter" hidden=""', dom)
