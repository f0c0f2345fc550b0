"""Truncation: a slow, obvious account of each mode against the flat one, and whole builds whose rows are read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from build_support import write_small_recipe
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import sftdata
from sftdata.acceptance import Samples
from sftdata.truncation import MODES, LongRows, Runs, truncate
from sftdata.views.verify import verify


class Turn(NamedTuple):
    """Tokens of a turn: `glue` of the template, `content`, one stop token, `after` of the template."""

    glue: int
    content: int
    after: int
    trained: bool


turns = st.builds(Turn, st.integers(0, 3), st.integers(0, 9), st.integers(0, 1), st.booleans())
dialogues = st.lists(st.tuples(st.booleans(), st.lists(turns, min_size=1, max_size=5)), min_size=1, max_size=6)


def tokens_of(dialogue: list[Turn]) -> list[tuple[int, str, bool]]:
    """Return (turn, kind, trained) of every token."""
    tokens = []
    for number, turn in enumerate(dialogue):
        tokens += [(number, "glue", False)] * turn.glue
        tokens += [(number, "content", turn.trained)] * turn.content
        tokens += [(number, "stop", turn.trained)] + [(number, "glue", False)] * turn.after
    return tokens


def runs_of(rows: list[list[tuple[int, str, bool]]], wanted: Any) -> Runs:
    """Return the runs of neighbouring tokens of one turn that are wanted."""
    found = []
    for row, tokens in enumerate(rows):
        begin = None
        for place, token in enumerate([*tokens, (-1, "end", False)]):
            goes_on = begin is not None and token[0] == tokens[begin][0] and wanted(token)
            if begin is not None and not goes_on:
                found.append((row, begin, place - begin))
                begin = None
            if begin is None and wanted(token):
                begin = place
    columns = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Runs(*columns)


def long_rows(drawn: list[tuple[bool, list[Turn]]]) -> tuple[list[list[tuple[int, str, bool]]], LongRows]:
    rows = [tokens_of(dialogue) for _, dialogue in drawn]
    return rows, LongRows(
        np.array([len(tokens) for tokens in rows], dtype=np.int64),
        np.array([chat for chat, _ in drawn]),
        runs_of(rows, lambda token: token[0] >= 0),
        runs_of(rows, lambda token: token[2]),
        runs_of(rows, lambda token: token[1] == "content"),
    )


def kept_places(rows: LongRows, limit: int, mode: str) -> dict[tuple[int, int], list[int]]:
    """Return (row, sample) → the places of the tokens kept."""
    kept = truncate(rows, limit, mode)
    places: dict[tuple[int, int], list[int]] = {}
    for row, sample, start, length in zip(*(column.tolist() for column in kept), strict=True):
        places.setdefault((row, sample), []).extend(range(start, start + length))
    assert list(places) == sorted(places)
    return places


def whole_turns(tokens: list[tuple[int, str, bool]], limit: int) -> list[int]:
    best = 0
    for end in range(1, min(limit, len(tokens)) + 1):
        ends_turn = end == len(tokens) or tokens[end][0] != tokens[end - 1][0]
        if ends_turn and any(token[2] for token in tokens[:end] if token[0] == tokens[end - 1][0]):
            best = end
    return list(range(best))


def cut_end(tokens: list[tuple[int, str, bool]], limit: int) -> list[int]:
    """Take away one token after the other, the prompt's last ones first."""
    if whole := whole_turns(tokens, limit):
        return whole
    first = next((token[0] for token in tokens if token[2]), None)
    if first is None:
        return []
    left = [place for place, token in enumerate(tokens) if token[0] <= first]
    while len(left) > limit:
        content = [place for place in left if tokens[place][1] == "content"]
        prompt = [place for place in content if not tokens[place][2]]
        if not content:
            return []
        left.remove(max(prompt or content))
    return left if any(tokens[place][1] == "content" and tokens[place][2] for place in left) else []


def expected_places(tokens: list[tuple[int, str, bool]], chat: bool, limit: int, mode: str) -> list[list[int]]:
    places = list(range(len(tokens)))
    if mode == "truncate_start":
        found = [places[-limit:]]
    elif mode == "split" and not chat:
        found = [places[first : first + limit] for first in range(0, len(places), limit)]
    elif mode == "truncate_end":
        found = [cut_end(tokens, limit)]
    else:
        found = [whole_turns(tokens, limit)]
    return [some for some in found if any(tokens[place][2] for place in some[1:])]


@pytest.mark.parametrize("mode", MODES)
@given(drawn=dialogues, limit=st.integers(2, 14))
def test_each_mode_keeps_what_a_slow_account_keeps(mode: str, drawn: list[tuple[bool, list[Turn]]], limit: int) -> None:
    all_rows = [(chat, dialogue) for chat, dialogue in drawn if len(tokens_of(dialogue)) > limit]
    if not all_rows:
        return
    tokens, rows = long_rows(all_rows)
    found = kept_places(rows, limit, mode)
    for row, (chat, _) in enumerate(all_rows):
        mine = [places for (owner, _), places in found.items() if owner == row]
        assert mine == expected_places(tokens[row], chat, limit, mode)
        assert all(0 < len(places) <= limit for places in mine)


@given(drawn=dialogues, limit=st.integers(2, 14), whole=st.lists(st.integers(1, 9), max_size=3))
def test_pieces_name_the_tokens_that_are_left(drawn: list[tuple[bool, list[Turn]]], limit: int, whole: list[int]) -> None:
    _, rows = long_rows(drawn)
    kept = truncate(rows, limit, "truncate_end")
    first = np.flatnonzero(np.diff(kept.row, prepend=-1))
    num_ranges = np.diff(np.append(first, len(kept.row)))
    left = [kept.length[low : low + count].sum() for low, count in zip(first, num_ranges, strict=True)]
    samples = Samples(
        np.append(np.arange(len(whole)), 100 + kept.row[first]).astype(np.int32),
        np.array([*whole, *left], dtype=np.int32),
        len(whole) + np.arange(len(first)),
        np.zeros(len(first), dtype=np.int64),
        np.array(left, dtype=np.int64),
        first,
        num_ranges,
        kept.start,
        kept.length,
    )
    places = [list(range(length)) for length in whole]
    for low, count in zip(first.tolist(), num_ranges.tolist(), strict=True):
        ranges = zip(kept.start[low : low + count], kept.length[low : low + count], strict=True)
        places.append([place for start, length in ranges for place in range(start, start + length)])
    half = samples.length // 2
    sample = np.repeat(np.arange(len(places)), 2)
    start, length = np.stack([half * 0, half], axis=1).ravel(), np.stack([half, samples.length - half], axis=1).ravel()
    run, begin, size, joined = samples.pieces(sample, start, length)
    named: list[list[int]] = [[] for _ in sample]
    for number, low, count, goes_on in zip(run.tolist(), begin.tolist(), size.tolist(), joined.tolist(), strict=True):
        assert goes_on == bool(named[number])
        named[number] += range(low, low + count)
    assert [first + second for first, second in zip(named[0::2], named[1::2], strict=True)] == places


LONG = "雨一直下。" + "".join(chr(0x4E00 + 37 * n % 3000) for n in range(90))
"""Of characters that a small tokenizer spells in bytes: more than 96 tokens."""


def build_with(tmp_path: Path, mode: str, records: list[dict[str, Any]], form: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """Build records under a mode with rows of 96 tokens; return the shards, the counts of Plan, and the rows' texts."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": form}
    recipe = write_small_recipe(
        tmp_path, sources=[source], split={"validation": 0.0}, mix={"strategy": "concat"}, pack={"strategy": "best_fit"},
        tokenize={"sequence_len": 96, "excess_length": mode}, limits={"max_drop": 1.0},
    )  # fmt: skip
    result = sftdata.build(recipe, out=tmp_path / "out", workers=1)
    assert verify(result.folder).problems == []
    shards = sftdata.open_shards(result.folder)
    tokenizer = Tokenizer.from_file(str(result.folder / "tokenizer" / "tokenizer.json"))
    texts: list[str] = []
    for batch in shards.splits["train"].flat_batches():
        ids, lengths = batch["input_ids"][1], batch["seq_lengths"][1]
        ends = np.cumsum(lengths)
        rows = [ids[end - count : end].tolist() for end, count in zip(ends, lengths, strict=True)]
        texts += tokenizer.decode_batch(rows, skip_special_tokens=False)
    return shards, result.manifest["counts"]["plan"], texts


ROWS = [{"instruction": LONG + str(n), "output": f"第{n}更了。"} for n in range(5)] + [
    {"instruction": f"几更天了{n}？", "output": LONG} for n in range(5)
] + [{"instruction": f"你是{n}？", "output": "是。"} for n in range(5)]  # fmt: skip


def test_truncated_answers_keep_their_stop_token_and_prompts_are_cut_first(tmp_path: Path) -> None:
    _, counts, texts = build_with(tmp_path, "truncate_end", ROWS, "instruction")
    assert counts["cut_rows"] == 10 and counts["dropped"] == 0 and counts["cut_tokens"] > 0
    assert len(texts) == 15 and all(text.rstrip("\n").endswith("<|im_end|>") for text in texts)
    for n in range(5):
        [row] = [text for text in texts if f"第{n}更了。" in text]
        assert row.startswith("<|im_start|>user\n雨一直下") and "<|im_start|>assistant\n" in row
    emptied = [text for text in texts if text.startswith("<|im_start|>user\n<|im_end|>")]
    assert len(emptied) == 5 and all("<|im_start|>assistant\n雨一直下" in text for text in emptied)


def test_tail_is_kept_from_the_end_of_the_row(tmp_path: Path) -> None:
    shards, counts, texts = build_with(tmp_path, "truncate_start", [{"text": f"{n}{LONG}完{n}"} for n in range(6)], "text")
    assert counts["cut_rows"] == 6
    assert sorted(text.partition("完")[2] for text in texts) == [f"{n}<|im_end|>" for n in range(6)]
    assert all(length == 96 for batch in shards.splits["train"].flat_batches() for length in batch["seq_lengths"][1])


def test_split_text_gives_all_of_it_in_windows(tmp_path: Path) -> None:
    shards, counts, texts = build_with(tmp_path, "split", [{"text": LONG + str(n)} for n in range(4)], "text")
    assert counts["cut_rows"] == 4 and counts["cut_tokens"] == 0 and len(texts) > 4
    life = sftdata.why(shards.folder, "rows.jsonl#2")[0]
    places = sorted((place.start, place.length) for place in life.placements)
    assert len(places) > 1 and all(start % 96 == 0 for start, _ in places)


def test_whole_turns_end_with_an_answer_and_what_has_none_is_dropped(tmp_path: Path) -> None:
    pairs = [("几更天了？", "三更了。"), ("窗外呢？", LONG), ("退下吧。", "是。")]
    texts_by_role = [("user", ask, "assistant", answer) for ask, answer in pairs]
    turns = [{"role": pair[k], "content": pair[k + 1]} for pair in texts_by_role for k in (0, 2)]
    records = [{"messages": turns}, {"messages": turns[2:]}]
    _, counts, texts = build_with(tmp_path, "whole_turns", records, "messages")
    assert counts["cut_rows"] == 1 and counts["drop:excess_length"] == 1
    assert len(texts) == 1 and texts[0].rstrip("\n").endswith("三更了。<|im_end|>")
