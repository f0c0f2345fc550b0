"""Tokens as a person sees them: whole characters, trained and context apart, and nothing that steers a terminal or a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from build_support import write_small_recipe
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizing_fixture import write_family

import sftdata
from sftdata.cli import main
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Shards
from sftdata.views import terminal
from sftdata.views.decoding import KINDS, Decoder, Run
from sftdata.views.inspect import Token, inspect, whole_characters
from sftdata.views.preview import preview
from sftdata.views.visible import mark, mark_change, one_line, visible
from sftdata.views.why import Event

RARE = "龘靐齉, 👩‍🚀 and naïve words  with spaces"
"""Characters that no small vocabulary has whole."""


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece", "unigram", "wordpiece"])
def decoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """A build with each kind of tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    write_family(folder / "tokenizer", request.param)
    rows = [{"question": f"{RARE} {n}?", "answer": f"{n} 龘. {RARE}"} for n in range(5)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    form = {"source_target": {"source": "question", "target": "answer", "chat": True}}
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": form}
    tokenizer = {"path": "tokenizer", "chat_template": "chatml"}
    recipe = write_small_recipe(folder, sources=[source], tokenizer=tokenizer, split={}, mix={}, pack={}, clean=[])
    return sftdata.open_shards(sftdata.build(recipe, out=folder / "out").folder)


def test_tokens_put_together_are_the_text(decoded: Shards) -> None:
    decoder = Decoder(decoded)
    row = inspect(decoded, row=0)
    ids = decoded.splits["train"].row(0)["input_ids"]
    [segment] = row.segments
    text = decoder.text(ids)
    assert "".join(token.text for token in segment.tokens) == "".join(run.text for run in segment.runs)
    assert "".join(run.text for run in segment.runs).split() == text.split() and len(text) > 40
    assert sum(run.num_tokens for run in segment.runs) == len(segment.tokens) == len(ids)
    trained = [token.label != IGNORE_INDEX for token in segment.tokens]
    assert trained == [token.kind.startswith("trained") for token in segment.tokens] and 0 < sum(trained) < len(ids)


def test_characters_of_several_tokens_stay_whole(small: Path) -> None:
    decoder = Decoder(sftdata.open_shards(small))
    ids = np.array(decoder._encoder.tokenizer.encode("a龘b", add_special_tokens=False).ids, dtype=np.int32)
    assert len(ids) == 5 and decoder.texts(ids) == ["a", "", "", "龘", "b"]
    labels = np.where(np.arange(5) < 2, IGNORE_INDEX, ids)
    assert [run.text for run in decoder.runs(ids, labels)] == ["a", "龘b"]
    assert decoder.texts(ids[:3]) == ["a", "", "�"], "a document may be cut inside a character"
    groups = whole_characters([Token(0, "", text, 0, KINDS[0]) for text in decoder.texts(ids)])
    assert [(group.text, len(group.tokens)) for group in groups] == [("a", 1), ("龘", 3), ("b", 1)]


class _Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs).get("class")))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_shows_every_token_and_escapes_it(tmp_path: Path) -> None:
    rows = [{"instruction": "<script>alert(1)</script>", "output": "<b>\x1b[31m&lt;\u202e</b>"}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "instruction"}
    recipe = write_small_recipe(tmp_path, sources=[source], clean=[], split={}, mix={})
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    result = CliRunner().invoke(main, ["inspect", str(folder), "--html", str(tmp_path / "new" / "row.html")])
    assert result.exit_code == 0 and result.stdout == "", result.stderr
    page = _Text((tmp_path / "new" / "row.html").read_text(encoding="utf-8"))
    kinds = [kind for tag, kind in page.tags if tag == "span"][len(KINDS) :]
    assert not {"script", "b"} & {tag for tag, _ in page.tags} and set(kinds) == set(KINDS)
    assert page.text.count("user⏎\n<script>alert(1)</script>") == 3
    assert page.text.count("<b>⟨U+001B⟩[31m&lt;⟨U+202E⟩</b>") == 3
    seen = inspect(folder)
    assert len(kinds) == sum(len(whole_characters(segment.tokens)) for segment in seen.segments) > 20


def test_terminal_never_gets_what_would_steer_it(small: Path) -> None:
    runs = [Run("context", "a\x1b[2J\n", 1), Run("trained", "b\u202e", 1), Run("trained control", "<e>\n", 1)]
    assert terminal.painted(runs) == "a⟨U+001B⟩[2J⏎\n⟦b⟨U+202E⟩<e>⏎⟧"
    event = Event("prepare", "slop", "r\x07", "drop", "x", 1, "y\x1b", "z\ny\x1b", "")
    assert list(terminal.event_lines(event)) == [
        "prepare slop (r⟨U+0007⟩): drop in turn 1, x: y⟨U+001B⟩", "  text: z⏎\x1b[31my⟨U+001B⟩\x1b[0m",
    ]  # fmt: skip
    result = CliRunner().invoke(main, ["inspect", str(small)])
    assert "⟦trained⟧ context" in result.stdout and result.stdout.count("<|im_end|>⟧") > 3 and "\x1b" not in result.stdout


@given(st.text(), st.text())
def test_changed_places_make_the_texts_again(first: str, second: str) -> None:
    before, after = mark_change(first, second)
    assert "".join(before) == first and "".join(after) == second
    assert before.before == after.before and before.after == after.after
    assert (not before.middle and not after.middle) == (first == second)
    assert "".join(mark(first, second)) == first and mark(first, second).middle in (second, "")


@given(st.text())
def test_visible_texts_hold_no_control_characters(text: str) -> None:
    assert one_line(text).isprintable() or not any(ord(char) < 0xA0 and not char.isprintable() for char in one_line(text))
    assert "\n" not in one_line(text) and visible(visible(text)) == visible(text)


@given(st.lists(st.text(st.sampled_from("ab"), max_size=400), max_size=5))
def test_long_texts_are_shortened_in_the_middle(texts: list[str]) -> None:
    runs = [Run("context", text, 1) for text in texts]
    whole, short = ("".join(run.text for run in some) for some in (runs, terminal.shortened(runs)))
    limit = terminal.HEAD + terminal.TAIL
    if len(whole) <= limit + 80:
        assert short == whole
    else:
        left_out = len(whole) - limit
        assert short == f"{whole[: terminal.HEAD]} … {left_out:,} characters … {whole[-terminal.TAIL :]}"


def test_preview_names_the_steps_and_every_record(tmp_path: Path) -> None:
    found = preview(write_small_recipe(tmp_path), rows=6)
    assert [source.steps for source in found.sources] == [
        ["jsonl", "unicode", "slop", "dedup", "instruction"], ["csv", "dedup", "source_target"],
    ]  # fmt: skip
    assert all(len(source.records) == source.num_records == 6 for source in found.sources)
