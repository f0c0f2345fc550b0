"""The mask lint: against slow and obvious code over random rows, and in whole builds with planted faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_support import write_small_recipe
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import sftdata
from sftdata.cli import main
from sftdata.mask_lint import MaskLint, bin_edge, findings, next_edge
from sftdata.masking import TokenRuns
from sftdata.pipeline import BuildResult
from sftdata.tokenizers.encoder import Encoded

STOP, BOS = 9, 1


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[list[int], list[bool], list[int], bool]]:
    """Draw (ids, trained, turn ends, kept) of rows."""
    drawn = []
    for _ in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(st.sampled_from([BOS, 2, STOP]), max_size=8))
        trained = [draw(st.booleans()) for _ in ids]
        ends = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=3)))
        drawn.append((ids, trained, ends, draw(st.booleans())))
    return drawn


def runs_of(trained: list[bool]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for index, value in enumerate(trained):
        if value and runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        elif value:
            runs.append((index, 1))
    return runs


@given(rows(), st.booleans())
def test_counts_are_those_of_plain_code(drawn: list[tuple[list[int], list[bool], list[int], bool]], whole_rows: bool) -> None:
    lint = MaskLint([STOP], BOS, whole_rows)
    runs = [(row, first, length) for row, (_, trained, _, _) in enumerate(drawn) for first, length in runs_of(trained)]
    columns = np.array(runs, dtype=np.int64).reshape(-1, 3).T
    encoded = Encoded(
        np.array([token for ids, *_ in drawn for token in ids], dtype=np.int32),
        np.append(0, np.cumsum([len(ids) for ids, *_ in drawn])),
        np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    )
    ends = np.array([end for _, _, ends, _ in drawn for end in ends], dtype=np.int32)
    num_turns = np.array([len(ends) for _, _, ends, _ in drawn], dtype=np.int64)
    lint.add(encoded, TokenRuns(*columns), ends, num_turns, np.array([kept for *_, kept in drawn]))
    expected = dict.fromkeys(lint.counts, 0)
    for ids, trained, turn_ends, kept in drawn:
        last = [turn[-1] for turn in turns_of(ids, trained, turn_ends) if turn]
        last = last[-1:] if whole_rows else last
        found = (1, len(ids), sum(trained), not any(trained), len(last), sum(i != STOP for i in last), ids[:2] == [BOS, BOS])
        for name, count in zip(lint.counts, found, strict=True):
            expected[name] += count * kept
    assert lint.counts == expected
    assert lint.lengths.total() == expected["rows"]


def turns_of(ids: list[int], trained: list[bool], ends: list[int]) -> list[list[int]]:
    """Return the trained tokens of every turn."""
    starts = [0, *ends]
    return [
        [token for token, wanted in zip(ids[a:b], trained[a:b], strict=True) if wanted]
        for a, b in zip(starts, ends, strict=False)
    ]


@given(st.integers(0, 1 << 40))
def test_length_lies_in_its_bin_and_the_bin_is_narrow(length: int) -> None:
    edge = int(bin_edge(np.array([length]))[0])
    assert edge <= length < next_edge(edge) and next_edge(edge) <= max(edge * 1.25, edge + 1)
    assert int(bin_edge(np.array([next_edge(edge)]))[0]) == next_edge(edge)


CHAT = [{"question": f"How many lamps hang in room {n}?", "answer": f"There are {n} lamps, all of brass."} for n in range(30)]


def build(folder: Path, **changes: Any) -> BuildResult:
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT), encoding="utf-8")
    form = {"source_target": {"source": "question", "target": "answer", "chat": True}}
    source = {"name": "lamps", "path": "chat.jsonl", "ingest": "jsonl", "format": form}
    return sftdata.build(write_small_recipe(folder, **{"sources": [source], **changes}), out=folder / "out")


def test_sound_build_has_no_findings_and_counts_by_source(small: Path) -> None:
    manifest = sftdata.open_shards(small).manifest
    assert list(findings(manifest)) == []
    for source in manifest["sources"].values():
        lint = source["mask_lint"]
        assert lint["trained_turns"] == lint["rows"] == source["tokenize"]["kept"] == sum(source["lengths"].values()) > 20
        assert 0 < lint["trained_tokens"] < lint["tokens"] == source["tokenize"]["tokens"]


def test_rows_without_trained_tokens_are_found(tmp_path: Path) -> None:
    result = build(tmp_path, tokenize={"roles_to_train": ["system"]}, limits={"max_drop": 1.0}, pack={})
    assert list(findings(result.manifest)) == ["lamps: 30 of 30 samples have no trained token"]


def test_answer_that_ends_untrained_is_found_and_stops_nobody_wanted_are_not(tmp_path: Path) -> None:
    answer = [{"type": "text", "text": "Two lamps."}, {"type": "text", "text": " No, three.", "train": False}]
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": answer}]
    (tmp_path / "parts.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    source = {"name": "parts", "path": "parts.jsonl", "ingest": "jsonl", "format": {"messages": {"messages": "messages"}}}
    found = list(findings(build(tmp_path, sources=[source], split={}).manifest))
    assert found == ["parts: 1 of 1 trained turns do not end in a stop token"]
    silent = build(tmp_path, sources=[source], split={}, tokenize={"train_on_eos": False, "sequence_len": 256})
    assert list(findings(silent.manifest)) == []


def test_template_that_writes_bos_twice_is_found(tmp_path: Path) -> None:
    template = "{{ bos_token + bos_token }}{% for m in messages %}{{ m.role + ' ' + m.content + eos_token }}{% endfor %}"
    (tmp_path / "twice.jinja").write_text(template)
    (tmp_path / "tokenizer").mkdir()
    tokenizer = {"train": {"vocab_size": 400}, "chat_template": "llama2"}
    with_bos = build(tmp_path, tokenizer=tokenizer).folder / "tokenizer"
    (tmp_path / "tokenizer").rmdir()
    with_bos.rename(tmp_path / "tokenizer")
    found = list(findings(build(tmp_path, tokenizer={"path": "tokenizer", "chat_template": "twice.jinja"}).manifest))
    assert found == ["lamps: 30 of 30 samples begin with two BOS tokens"]


@pytest.mark.parametrize("strategy", ["packed", "best_fit"])
def test_answers_that_are_cut_are_found(tmp_path: Path, strategy: str) -> None:
    length = {"packed": 40, "best_fit": 256}[strategy]
    result = build(tmp_path, tokenize={"sequence_len": length}, pack={"strategy": strategy}, mix={})
    lint = result.manifest["sources"]["lamps"]["mask_lint"]
    assert (0 < lint["cut_answers"] <= lint["trained_turns"]) == (strategy == "packed")
    split = result.manifest["splits"]["train"]["packing"]["num_split_samples"]
    assert lint["cut_answers"] <= split + result.manifest["splits"]["validation"]["packing"]["num_split_samples"]


def test_answers_shortened_to_fit_are_found(tmp_path: Path) -> None:
    result = build(tmp_path, tokenize={"sequence_len": 20, "excess_length": "truncate_end"}, pack={}, mix={})
    lint = result.manifest["sources"]["lamps"]["mask_lint"]
    assert 0 < lint["cut_answers"] <= result.manifest["counts"]["plan"]["cut_rows"]


def test_build_says_its_findings_in_its_last_lines(tmp_path: Path) -> None:
    build(tmp_path)
    options = ["--out", str(tmp_path / "out"), "--set", "tokenize.sequence_len=40", "--set", "pack.strategy=packed"]
    result = CliRunner().invoke(main, ["build", str(tmp_path / "recipe.yaml"), *options])
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[-2] == "labels to look at:" and "trained turns do not stand whole in one row" in lines[-1]
