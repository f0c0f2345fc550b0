"""The HTML ingestor: bytes become text as in browsers, text keeps its lines, and nothing that a page shows is lost unseen."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import RecipeError
from sftdata.ingestors._html_scan import scan_page
from sftdata.ingestors.html import html
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

SHARED = Path(__file__).resolve().parents[2] / "shared"


def read(folder: Path, page: str | bytes, name: str = "a.html", **options: Any) -> list[Record | Bad]:
    """Ingest `page` as a file and check what holds of every file: keys count from 0, reasons are known."""
    path = folder / name
    path.write_bytes(page if isinstance(page, bytes) else page.encode())
    rows = list(html(InputFile(path, name), **options))
    assert rows and [row.key for row in rows] == [str(number) for number in range(len(rows))]
    assert all(row.reason in QUARANTINE_REASONS for row in rows if isinstance(row, Bad))
    return rows


def fields(row: Record | Bad) -> dict[str, Any]:
    assert isinstance(row, Record), row
    return row.fields


def text_of(folder: Path, page: str | bytes, **options: Any) -> str:
    (row,) = read(folder, page, **options)
    return str(fields(row)["text"])


def bad(folder: Path, page: str | bytes, **options: Any) -> Bad:
    (row,) = read(folder, page, **options)
    assert isinstance(row, Bad), row
    return row


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("<h1>Head</h1><p>one</p><p>two</p>three", "Head\none\ntwo\nthree"),
        ("<p>a <b>bo</b>ld,<i> it</i>alic</p>", "a bold, italic"),
        ("<p>a<br>b<br><br>c</p>", "a\nb\n\nc"),
        ("<p>a&nbsp;b &amp; c&#8217;s \n\t d</p>", "a b & c’s d"),
        ("<ul><li>one<li>two<ul><li>in</li></ul></ul>", "one\ntwo\nin"),
        ("<table><tr><th>a<th>b<tr><td>1<td><p>2</p></table>end", "a\tb\n1\t2\nend"),
        ("<table><tr><td></td><td>b</td></tr><tr><td></td><td>c</td></tr></table>", "\tb\n\tc"),
        ("<p>x</p><pre>\ndef f():\n    return 1\n\n\nf()\n</pre><p>y</p>", "x\ndef f():\n    return 1\n\n\nf()\ny"),
        ("<dl><dt>t</dt><dd>d</dd></dl><hr>e", "t\nd\ne"),
        ("a<!-- c --><script>var s</script><style>p{}</style>b", "ab"),
        ("a<template>t</template><noscript>n</noscript>b", "ab"),
        ("a<p hidden>h</p><p style='color:red; display : none'>d</p><p aria-hidden=true>i</p>b", "ab"),
    ],
)
def test_html_text_has_a_line_for_each_block(tmp_path: Path, body: str, wanted: str) -> None:
    page = f"<!DOCTYPE html><html><head><title>T</title></head><body>{body}</body></html>"
    assert text_of(tmp_path, page, mode="text") == wanted


def test_html_hidden_elements_may_hold_blocks(tmp_path: Path) -> None:
    assert text_of(tmp_path, "<div>a<div hidden>x<p>y</p></div></div><p>b</p>", mode="text") == "a\nb"


PAGE = """<!DOCTYPE html><html lang="en"><head><title> A &amp; B </title>
<link rel="canonical" href="https://example.org/a"><meta property="og:url" content="https://example.org/other">
<meta property="article:published_time" content="2020-01-02T03:04:05Z"></head>
<body><nav>Home</nav><h1>Title</h1><div class=post><p>First</p></div><div class=post><p>Second</p><h1>Own</h1></div>
<div class=post hidden>Third</div></body></html>"""


def test_html_select_gives_a_record_for_each_match(tmp_path: Path) -> None:
    first, second, third = read(tmp_path, PAGE, select=".post", fields={"head": "h1"})
    assert first == Record(
        "0",
        {
            "text": "First",
            "title": "A & B",
            "url": "https://example.org/a",
            "language": "en",
            "date": "2020-01-02T03:04:05Z",
            "head": "Title\nOwn",
        },
    )
    assert isinstance(second, Record) and (second.fields["text"], second.fields["head"]) == ("Second\nOwn", "Own")
    assert isinstance(third, Bad) and third.reason == "no_text"


def test_html_fields_of_a_bare_page_are_empty(tmp_path: Path) -> None:
    assert fields(read(tmp_path, "<p>x</p>")[0]) == {"text": "x", "title": "", "url": "", "language": "", "date": ""}


@pytest.mark.parametrize(
    ("date", "wanted"), [("2020-01-02", "2020-01-02"), ("2020/1/2 08:00", "2020-01-02"), ("2020-13-45", ""), ("soon", "")]
)
def test_html_dates_are_iso(tmp_path: Path, date: str, wanted: str) -> None:
    assert fields(read(tmp_path, f"<meta name=date content='{date}'><p>x</p>")[0])["date"] == wanted


def test_html_main_leaves_boilerplate_out(tmp_path: Path) -> None:
    story = "".join(f"<p>Sentence number {n} of a story, which goes on <b>with</b> more words.</p>" for n in range(30))
    code = "<pre>def f():\n    return 1\n\nf()</pre>"
    page = f"<body><nav>Home Contact</nav><article>{story}{code}<p hidden>HIDDEN</p></article><footer>Imprint</footer></body>"
    text = text_of(tmp_path, page)
    assert text.count("\n") >= 30 and "on with more words" in text
    assert "def f():\n    return 1\n\nf()" in text
    assert not any(word in text for word in ("Home", "Imprint", "HIDDEN"))


STORY = "".join(f"<p>Sentence number {n} of a story, which goes on with more words.</p>" for n in range(20))


@pytest.mark.parametrize("mode", ["main", "main_fast"])
@pytest.mark.parametrize("hiding", ["<template>{}</template>", "<div hidden>{}</div>", "<div style='display:none'>{}</div>"])
def test_html_main_is_never_a_hidden_part(tmp_path: Path, mode: str, hiding: str) -> None:
    page = f"<body>{hiding.format(STORY.replace('story', 'SECRET') * 3)}<article>{STORY}</article>"
    text = text_of(tmp_path, page, mode=mode)
    assert text.count("story") == 20 and "SECRET" not in text


@pytest.mark.parametrize("mode", ["main", "main_fast"])
def test_html_main_joins_the_pieces_of_an_article(tmp_path: Path, mode: str) -> None:
    tale = STORY.replace("story", "tale")
    pieces = f"<div class=story-body>{STORY}</div><div class=ad>BUY</div><div class=story-body>{tale}</div>"
    page = f"<body><div class=menu><a href=/>Home</a></div><main><h1>Head</h1>{pieces}</main><div id=comments>{STORY}</div>"
    text = text_of(tmp_path, page, mode=mode)
    assert (text.count("story"), text.count("tale")) == (20, 20)
    assert not any(word in text for word in ("BUY", "Home", "Head"))


@pytest.mark.parametrize("mode", ["main", "main_fast"])
def test_html_main_keeps_code_tables_and_lists(tmp_path: Path, mode: str) -> None:
    rows = "<table><tr><th>name<th>size<tr><td><a href=/a>first</a><td>1</table><ul><li>one<li>two</ul>"
    text = text_of(tmp_path, f"<article>{STORY}<pre>if x:\n    y()</pre>{rows}{STORY}</article>", mode=mode)
    assert "\nif x:\n    y()\nname\tsize\nfirst\t1\none\ntwo\n" in text


def test_html_main_reads_chinese_as_well(tmp_path: Path) -> None:
    story = "<p>这一天，宫里下了很大的雪，人人都在屋里烤火。</p>" * 12
    page = f"<div class=nav>首页 新闻</div><div id=x>{story}</div><div class=related><a href=/>别的故事</a></div>"
    assert text_of(tmp_path, page) == "\n".join(["这一天，宫里下了很大的雪，人人都在屋里烤火。"] * 12)


def test_html_per_page_joins_the_matches(tmp_path: Path) -> None:
    row = fields(read(tmp_path, PAGE, select=".post", per="page", fields={"title": "h1"})[0])
    assert (row["text"], row["title"]) == ("First\nSecond\nOwn", "Title\nOwn")
    with pytest.raises(RecipeError, match="per: page joins"):
        read(tmp_path, PAGE, per="page")


def test_html_main_of_a_short_page_is_all_but_its_boilerplate(tmp_path: Path) -> None:
    assert text_of(tmp_path, "<nav>Home</nav><p>短<b>文</b></p><footer>Imprint</footer>") == "短文"


@pytest.mark.parametrize(
    "page",
    [
        "<p>好，你好。</p>".encode("utf-8-sig"),
        "<p>好，你好。</p>".encode("utf-16"),
        "<meta charset='gb2312'><p>好，你好。</p>".encode("gb18030"),
        "<meta http-equiv=Content-Type content='text/html; charset=GBK'><p>好，你好。</p>".encode("gb18030"),
        "<meta charset=big5><p>好，你好。</p>".encode("big5"),
        "<meta charset=shift_jis><p>好，你好。</p>".replace("你", "儞").encode("cp932", "ignore"),
        "<p>好，你好。</p>".encode(),
    ],
)
def test_html_bytes_are_decoded_as_browsers_do(tmp_path: Path, page: bytes) -> None:
    assert text_of(tmp_path, page).replace("儞", "你") in ("好，你好。", "好，好。")


@pytest.mark.parametrize("encoding", ["gb18030", "big5"])
def test_html_encoding_is_found_where_none_is_declared(tmp_path: Path, encoding: str) -> None:
    sentence = "今天天气很好，我们一起去公园散步。" if encoding == "gb18030" else "今天天氣很好，我們一起去公園散步。"
    assert text_of(tmp_path, f"<p>{sentence * 5}</p>".encode(encoding)) == sentence * 5


def test_html_wrong_declarations_are_found_out(tmp_path: Path) -> None:
    sentence = "今天天气很好，我们一起去公园散步。"
    assert text_of(tmp_path, f"<meta charset=utf-8><p>{sentence}</p>".encode("gb18030")) == sentence
    assert text_of(tmp_path, f"<meta charset=gb2312><p>{sentence}</p>".encode()) == sentence
    assert text_of(tmp_path, f"<meta charset=utf-8><p>{sentence}".encode() + b"\xff</p>") == sentence + "\ufffd"
    assert text_of(tmp_path, "<p>café</p>".encode("latin-1")) == "café"


def test_html_gb2312_is_widened_to_gb18030(tmp_path: Path) -> None:
    assert text_of(tmp_path, "<meta charset=gb2312><p>朱镕基</p>".encode("gb18030")) == "朱镕基"


@pytest.mark.parametrize(
    ("page", "options", "reason", "place"),
    [
        ("", {}, "no_text", "shows no text"),
        ("<p> </p><script>x</script>", {"mode": "text"}, "no_text", "shows no text"),
        ("<p>x</p>", {"select": "article"}, "no_match", "'article'"),
        ("<div>" * 513 + "x", {}, "html_limits", "513 nested elements"),
        ("<p>x" * 200_001, {}, "html_limits", "200,001 elements"),
        ("<p " + " ".join(f"a{n}=1" for n in range(10_001)) + ">x</p>", {}, "html_limits", "10,001 attributes"),
        (b"x" * ((16 << 20) + 1), {}, "html_limits", "16,777,216 bytes"),
    ],
)
def test_html_that_cannot_be_read_is_bad(
    tmp_path: Path, page: str | bytes, options: dict[str, Any], reason: str, place: str
) -> None:
    row = bad(tmp_path, page, **options)
    assert row.reason == reason and place in row.place
    assert row.raw == (page if isinstance(page, bytes) else page.encode())[:4096]


@pytest.mark.parametrize("mode", ["text", "main"])
def test_html_below_the_depth_that_lxml_reads_is_kept(tmp_path: Path, mode: str) -> None:
    page = "<div>" * 400 + "<p>deep down</p>" + "</div>" * 400 + "<p>after</p>"
    assert text_of(tmp_path, page, mode=mode) == "deep down\nafter"


def test_html_of_one_text_past_ten_megabytes_is_kept(tmp_path: Path) -> None:
    assert len(text_of(tmp_path, "<p>" + "word " * 2_400_000 + "</p>", mode="text")) == 5 * 2_400_000 - 1


def test_html_scan_closes_what_authors_leave_open() -> None:
    assert scan_page("<ul>" + "<li>x" * 2000 + "</ul>").depth == 2
    assert scan_page("<p>x" * 2000).depth == 1
    assert scan_page("<table>" + "<tr><td>a<td>b" * 2000 + "</table>").depth == 3
    assert scan_page("<div></b>" * 600).depth == 600
    assert scan_page("<br><img><hr>" * 600).depth == 1 - 1


def test_html_scan_counts_text_outside_markup() -> None:
    assert scan_page("a <b x='>'>bc</b><!-- <i> --><script>if (a<b) x</script>d&amp;").num_visible == 4
    assert scan_page("a<!-- never closed <p>b").num_visible == 1


@pytest.mark.parametrize("selector", ["div[", "p::x", ":has("])
def test_html_wrong_selector_is_a_recipe_error(tmp_path: Path, selector: str) -> None:
    for options in ({"select": selector}, {"fields": {"x": selector}}):
        with pytest.raises(RecipeError, match="is not CSS"):
            read(tmp_path, "<p>x</p>", **options)


def test_html_modes_and_selectors_must_fit(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a selector"):
        read(tmp_path, "<p>x</p>", mode="select")
    with pytest.raises(RecipeError, match="does not take a selector"):
        read(tmp_path, "<p>x</p>", mode="main", select="p")


def test_html_reads_xhtml_and_compressed_pages(tmp_path: Path) -> None:
    page = '<?xml version="1.0" encoding="gb2312"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>你好</p></body></html>'
    assert fields(read(tmp_path, gzip.compress(page.encode("gb18030")), "a.xhtml.gz")[0])["text"] == "你好"


WORDS = st.lists(st.text(st.sampled_from(list("abc你é&<>'\"")), min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)


@settings(max_examples=int(os.environ.get("SFTDATA_FUZZ_TABLES", "100")), deadline=None)
@given(
    table=st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(WORDS, min_size=width, max_size=width), min_size=1, max_size=5)
    )
)
def test_html_tables_come_back(tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]) -> None:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table)
    text = text_of(tmp_path_factory.getbasetemp(), f"<meta charset=utf-8><table>{rows}</table>", mode="text")
    assert [line.split("\t") for line in text.split("\n")] == table


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                "<",
                ">",
                "<p>",
                "</p>",
                "<!--",
                "-->",
                "<script>",
                "</",
                "<td>",
                "<pre>",
                "x",
                "&",
                "&#0;",
                "\0",
                "'",
                "<![",
                "<?",
            ]
        ),
        max_size=25,
    ),
    mode=st.sampled_from(["text", "main"]),
)
def test_html_never_fails_on_noise(tmp_path_factory: pytest.TempPathFactory, pieces: list[str], mode: str) -> None:
    assert len(read(tmp_path_factory.getbasetemp(), "".join(pieces), mode=mode)) == 1


@pytest.mark.skipif(not (SHARED / "data" / "html" / "pages").is_dir(), reason="the shared pages are not here")
@pytest.mark.parametrize("mode", ["main", "main_fast"])
def test_html_main_part_of_real_pages_scores_well(tmp_path: Path, mode: str) -> None:
    paths = sorted((SHARED / "data" / "html" / "pages").glob("*.html.gz"))
    assert len(paths) >= 90
    found = {path.name.removesuffix(".html.gz"): next(html(InputFile(path, path.name), mode=mode)) for path in paths}  # type: ignore[arg-type]
    predictions = {page: row.fields["text"] if isinstance(row, Record) else "" for page, row in found.items()}
    (tmp_path / "p.json").write_text(json.dumps(predictions), encoding="utf-8")
    command: list[str | Path] = [
        sys.executable,
        SHARED / "tools" / "score_html.py",
        tmp_path / "p.json",
        SHARED / "data" / "html" / "ground-truth.json",
    ]
    score = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(score.split()[-1]) >= 0.97, score
