"""The phase from documents to tokens: ids, masks, weights, and rows that cannot be tokenized."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizing_fixture import (
    CASES,
    CORPUS,
    OPTIONS,
    OWN_TEMPLATE,
    Phase,
    Tokenized,
    case_phase,
    dialogue,
    read_rows,
    texts,
    write_family,
)  # fmt: skip
from transformers import PreTrainedTokenizerFast

from sftdata import formatting
from sftdata.errors import ConservationError, TemplateError, TokenizerError
from sftdata.formatters.messages import messages as format_messages
from sftdata.recipe import Tokenize
from sftdata.recipe_dedup import Dedup
from sftdata.records import Example, Span, Turn
from sftdata.resolving import _write_decisions, resolve
from sftdata.schemas import TOKENIZED
from sftdata.tables import TableWriter, read_batches
from sftdata.templates.render import Rendered, TrainScope, render_plain, scope_of
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizers.files import read
from sftdata.tokenizing import tokenize_part


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def phase(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Phase:
    """A tokenizer of each family with some template."""
    return case_phase(request.param, tmp_path_factory.mktemp("phase"))


def labels_by_offsets(tokenizer: Tokenizer, rendered: Rendered) -> tuple[list[int], list[bool]]:
    """Return ids and mask of a rendered example: obvious, slow, by the offsets of `tokenizers` on the whole text."""
    encoding = tokenizer.encode(rendered.text, add_special_tokens=False)
    mask = []
    for start, end in encoding.offsets:
        end = max(end, start + 1)
        mask.append(any(low <= start and end <= high for low, high in rendered.trained))
    return encoding.ids, mask


def rendered_alone(phase: Phase, record: dict[str, Any]) -> Rendered:
    """Return a record as its template renders it, without a batch."""
    options = phase.options
    scope = scope_of(options)
    return phase.loaded_template.render(format_messages(record).turns, scope)


def assert_rows_by_offsets(phase: Phase, result: Tokenized, records: list[dict[str, Any]]) -> None:
    """Compare every row with the obvious code."""
    assert result.counts["rows"] == len(records) == len(result.rows) + len(result.quarantine)
    for number, row in enumerate(result.rows):
        record = records[row["row"]]
        ids, mask = labels_by_offsets(result.tokenizer, rendered_alone(phase, record))
        assert (row["input_ids"], result.mask(number)) == (ids, mask)
        assert row["num_trained"] == sum(mask)
        assert len(row["turn_ends"]) == len(record["messages"])
        assert row["turn_ends"] == sorted(row["turn_ends"]) and row["turn_ends"][-1] == len(ids)


harmless = texts.filter(lambda text: not any(mark in text for mark in ("<|", "|>", "s>", "</", "<unk>")))
talks = st.lists(st.tuples(harmless, harmless), min_size=1, max_size=3)


@settings(max_examples=8, deadline=None)
@given(drawn=st.lists(talks, min_size=1, max_size=4))
def test_rows_are_the_whole_text_encoded_and_masked_by_offsets(phase: Phase, drawn: list[Any]) -> None:
    records = [dialogue(*(content for pair in talk for content in pair)) for talk in drawn]
    assert_rows_by_offsets(phase, phase.run(records), records)


TALK = [
    ("你好！What opens the gate?", "The keeper's 灯笼 👩‍👩‍👧 opens it — at dawn."),
    ("  and then \n", "It closes.\n\n- once\n- twice "),
]


def test_rows_are_those_of_apply_chat_template(phase: Phase) -> None:
    records = [dialogue(*TALK[0]), dialogue(*TALK[0], *TALK[1])]
    result = phase.run(records)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(phase.tokenizer_folder)
    expected = [tokenizer.apply_chat_template(record["messages"], tokenize=True)["input_ids"] for record in records]
    assert [row["input_ids"] for row in result.rows] == expected


def test_every_trained_turn_ends_in_its_stop_token(phase: Phase) -> None:
    result = phase.run([dialogue(*TALK[0], *TALK[1]), dialogue("?", "")])
    stop = result.tokenizer.token_to_id(read(phase.tokenizer_folder).special("eos_token"))
    assert stop is not None
    for row, num_answers in zip(result.rows, (2, 1), strict=True):
        runs = list(zip(row["mask_runs"][::2], row["mask_runs"][1::2], strict=True))
        assert len(runs) == num_answers
        assert all(row["input_ids"][start + length - 1] == stop for start, length in runs)


SCOPES = [
    {"train_on_eos": False},
    {"roles_to_train": ["user"]},
    {"roles_to_train": ["user", "assistant"]},
    {"train_on_inputs": True},
    {"roles_to_train": []},
]


@pytest.mark.parametrize("options", SCOPES, ids=str)
@pytest.mark.parametrize("case", [("sentencepiece", "chatml"), ("byte_level", "tokenizer_default")], ids="-".join)
def test_other_scopes_are_masked_by_offsets(tmp_path: Path, case: tuple[str, str], options: dict[str, Any]) -> None:
    phase = case_phase(case, tmp_path, **options)
    records = [dialogue(*TALK[0], *TALK[1]), dialogue("", "x"), dialogue("x", "")]
    result = phase.run(records)
    assert_rows_by_offsets(phase, result, records)
    assert any(row["num_trained"] for row in result.rows) == bool(options.get("roles_to_train", True))


def test_rows_without_a_trained_turn_are_kept_with_an_empty_mask(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    untrained = {"role": "assistant", "content": "no", "train": False}
    result = phase.run([{"messages": [{"role": "user", "content": "x"}, untrained]}, dialogue("only a question")])
    assert [row["mask_runs"] for row in result.rows] == [[], []] and result.counts["kept"] == 2
    assert all(len(row["input_ids"]) > 3 for row in result.rows)


def test_parts_with_their_own_flags_and_weights_are_masked_by_offsets(tmp_path: Path) -> None:
    phase = case_phase(("sentencepiece", "chatml"), tmp_path)
    answer = {"role": "assistant", "content": "half a weight", "weight": 0.5}
    records = [dialogue("x", "", "y", "z"), dialogue("a", "b")]
    records[0]["messages"][1] = answer
    result = phase.run(records)
    assert_rows_by_offsets(phase, result, records)
    assert result.rows[0]["weight_values"] == [0.5] and not result.rows[1]["weight_values"]
    start, length = result.rows[0]["weight_starts"]
    assert [start, length] == result.rows[0]["mask_runs"][:2]
    assert result.counts["weighted_rows"] == 1


def test_marks_of_cleaners_reach_the_mask_and_the_weights() -> None:
    answer = Turn("assistant", (Span(("a",), "one"), Span(("b", 1), "two")), "\n")
    example = Example((Turn("user", (Span(("q",), "x"),)), answer), True, "test")
    marked = formatting.apply_marks(example, [(["q"], "mask_loss", 0), (["b", 1], "weight", 0.25), (["b", 1], "weight", 2)])
    assert marked.turns[0].train is False
    assert marked.turns[1].parts == ((None, 1.0), (None, 0.5))
    masked = formatting.apply_marks(example, [(["a"], "mask_loss", 0)])
    assert masked.turns[1].parts == ((False, 1.0), (None, 1.0)) and masked.turns[0].train is None


def test_a_mark_in_the_documents_is_applied(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    phase.clean = [("tokenizing_marks:half_of_weak_answers", {})]
    result = phase.run([dialogue("x", "a weak answer"), dialogue("x", "a masked answer"), dialogue("x", "fine")])
    assert [row["weight_values"] for row in result.rows] == [[0.5], [], []]
    assert [row["num_trained"] > 0 for row in result.rows] == [True, False, True]


def plain_phase(folder: Path, family: str, form: tuple[str, dict[str, Any]], **special: str | None) -> Phase:
    """Return a phase for examples without a template."""
    phase = Phase(folder, write_family(folder / "source", family, **special), "tokenizer_default")
    phase.format = form
    return phase


@pytest.mark.parametrize("family", ["byte_level", "sentencepiece", "unigram", "wordpiece"])
@pytest.mark.parametrize("bos", ["<s>", None])
@settings(max_examples=5, deadline=None)
@given(pairs=st.lists(st.tuples(harmless, harmless), min_size=1, max_size=4))
def test_source_and_target_stand_between_bos_and_eos(
    tmp_path_factory: pytest.TempPathFactory, family: str, bos: str | None, pairs: list[tuple[str, str]]
) -> None:
    phase = plain_phase(tmp_path_factory.mktemp("plain"), family, ("source_target", {}), bos=bos)
    result = phase.run([{"source": source, "target": target} for source, target in pairs])
    assert len(result.rows) == len(pairs)
    for number, (source, target) in enumerate(pairs):
        turns = [Turn("source", (Span((), source),)), Turn("target", (Span((), target),))]
        rendered = render_plain(turns, bos, "</s>", TrainScope())
        assert rendered.text == f"{bos or ''}{source}{target}</s>"
        ids, mask = labels_by_offsets(result.tokenizer, rendered)
        assert (result.rows[number]["input_ids"], result.mask(number)) == (ids, mask)
        assert mask[-1] and ids[-1] == result.tokenizer.token_to_id("</s>")


def test_plain_text_is_trained_but_for_its_bos(tmp_path: Path) -> None:
    phase = plain_phase(tmp_path, "byte_level", ("text", {}))
    result = phase.run([{"text": CORPUS[0]}, {"text": ""}])
    assert result.decoded(0) == f"<s>{CORPUS[0]}</s>" and result.trained(0) == f"{CORPUS[0]}</s>"
    assert result.decoded(1) == "<s></s>" and result.trained(1) == "</s>"
    assert [row["turn_ends"] for row in result.rows] == [[len(row["input_ids"])] for row in result.rows]


def test_a_mixed_source_keeps_its_order(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    shapes = [dialogue("a"), dialogue("a", "b"), dialogue("a", "b", "c"), dialogue("a", "b", "c", "d")]
    records = [shapes[number % 4] for number in (0, 3, 1, 1, 2, 0, 3, 2)]
    records.insert(3, {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]})
    result = phase.run(records)
    assert [row["row"] for row in result.rows] == list(range(9))
    assert_rows_by_offsets(phase, result, records)


def test_a_template_that_raises_puts_the_row_in_quarantine(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "tokenizer_default"), tmp_path)
    tool = {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}
    result = phase.run([dialogue("a", "b"), tool, dialogue("c", "d")])
    assert [row["row"] for row in result.rows] == [0, 2]
    assert [(row["id"], row["reason"]) for row in result.quarantine] == [("rows.jsonl#1", "template_raised")]
    assert b'"tool"' in result.quarantine[0]["bytes"] and "no tools here" in result.quarantine[0]["place"]
    assert [(entry["step"], entry["action"], entry["reason"]) for entry in result.ledger] == [
        ("template", "quarantine", "template_raised")
    ]
    assert result.counts["quarantine:template_raised"] == result.counts["quarantined"] == 1


def test_a_built_in_template_refuses_single_rows(tmp_path: Path) -> None:
    phase = case_phase(("sentencepiece", "llama2"), tmp_path)
    result = phase.run([dialogue("a", "b"), {"messages": [{"role": "assistant", "content": "first"}]}, dialogue("c", "d")])
    assert [row["row"] for row in result.rows] == [0, 2]
    assert result.quarantine[0]["reason"] == "template_raised"


def test_a_stop_token_that_is_not_recognised_puts_the_row_in_quarantine(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    path = phase.tokenizer_folder / "tokenizer.json"
    value = orjson.loads(path.read_bytes())
    next(token for token in value["added_tokens"] if token["content"] == "<|im_end|>")["single_word"] = True
    path.write_bytes(orjson.dumps(value))
    result = phase.run([dialogue("a", "ends in a letter"), dialogue("a", "ends in a point.")])
    assert [row["row"] for row in result.rows] == [1]
    assert [(row["id"], row["reason"]) for row in result.quarantine] == [("rows.jsonl#0", "mask_unproven")]


def test_documents_that_were_not_kept_are_not_tokenized(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    records = [dialogue("a", "b"), dialogue("c", "d"), dialogue("a", "b")]
    phase.prepare(records)
    spec = {"parts": [str(tmp_path / "documents")], "split": {"validation": 0.0}, "seed": 1}
    spec.update(sources=["talk"], signed=[], near_duplicates=None, dedup=[Dedup().decided([])])
    resolve(tmp_path / "decisions", spec)
    assert tokenize_part(tmp_path / "out", phase.spec())["counts"]["rows"] == 2
    rows = read_rows(tmp_path / "out" / "tokenized.arrow")
    keys = read_rows(tmp_path / "documents" / "keys.arrow")
    assert [(row["row"], row["digest"]) for row in rows] == [(0, keys[0]["digest"]), (1, keys[1]["digest"])]


def test_small_batches_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = case_phase(("sentencepiece", "chatml"), tmp_path)
    records = [dialogue("x" * number, "y </s>" * (number % 3)) for number in range(30)]
    expected = phase.run(records)
    for rows, size in ((7, 1 << 20), (1000, 300), (1000, 1)):
        monkeypatch.setattr(formatting, "BATCH_ROWS", rows)
        monkeypatch.setattr(formatting, "BATCH_BYTES", size)
        again = phase.run(records)
        assert (again.rows, again.counts, again.ledger) == (expected.rows, expected.counts, expected.ledger)
    assert len(expected.rows) == 30 and len(list(read_batches(tmp_path / "out" / "tokenized.arrow"))) == 30


def test_the_table_has_the_schema_and_the_part_is_counted(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    result = phase.run([dialogue("a", "b"), dialogue("c", "d", "e", "f")])
    assert next(iter(read_batches(tmp_path / "out" / "tokenized.arrow"))).schema == TOKENIZED
    assert result.counts["tokens"] == sum(len(row["input_ids"]) for row in result.rows)
    assert result.counts["trained_tokens"] == sum(sum(result.mask(row)) for row in range(2))
    assert result.counts["turns"] == 6 and result.rows[0]["source"] == result.rows[0]["category"] == "talk"


def test_a_part_without_rows_gives_an_empty_table(tmp_path: Path) -> None:
    result = case_phase(("byte_level", "chatml"), tmp_path).run([])
    assert result.rows == [] and result.counts["rows"] == 0


def test_a_lost_row_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    extend = TableWriter.extend_columns

    def lose_one(table: TableWriter, columns: Iterable[Any]) -> None:
        extend(table, [column[:-1] for column in columns])

    phase.prepare([dialogue("a", "b"), dialogue("c", "d")])
    monkeypatch.setattr(TableWriter, "extend_columns", lose_one)
    with pytest.raises(ConservationError, match="rows lost in tokenize"):
        tokenize_part(tmp_path / "out", phase.spec())


def test_plain_text_needs_an_eos_token(tmp_path: Path) -> None:
    phase = plain_phase(tmp_path, "byte_level", ("text", {}), eos=None)
    with pytest.raises(TokenizerError, match="source 'talk' has plain text, but the tokenizer has no eos_token"):
        phase.run([{"text": "x"}])


def test_dialogues_need_a_chat_template(tmp_path: Path) -> None:
    phase = Phase(tmp_path, write_family(tmp_path / "source", "byte_level"), "tokenizer_default")
    with pytest.raises(TokenizerError, match=r"has no chat template; set tokenizer\.chat_template"):
        phase.run([dialogue("a", "b")])


def test_a_broken_tokenizer_in_the_work_folder_is_one_line(tmp_path: Path) -> None:
    phase = case_phase(("byte_level", "chatml"), tmp_path)
    (phase.tokenizer_folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be loaded"):
        phase.run([dialogue("a", "b")])


def test_a_tokenizer_is_learned_from_the_training_rows_only(tmp_path: Path) -> None:
    phase = Phase(tmp_path, None, "vicuna")
    phase.prepare([dialogue("gate", "opens gate opens"), dialogue("zzzz zzzz zzzz", "zzzz")])
    decisions = np.array([True, False])
    _write_decisions(tmp_path / "decisions", [2], decisions, np.zeros(2, dtype=np.int8))
    part = {"part": 0, "documents": str(tmp_path / "documents"), "format": phase.format, "allow_code": False}
    spec = {"path": None, "train": {"algorithm": "bpe", "vocab_size": 300}, "template": "vicuna"}
    made = make_tokenizer(phase.tokenizer_folder, {**spec, "sources": [part], "decisions": str(tmp_path / "decisions")})
    files = read(phase.tokenizer_folder)
    assert made["learned"] and not made["added_tokens"]
    assert files.added_tokens == ["<|endoftext|>", "<s>"] and files.special("eos_token") == "<|endoftext|>"
    vocabulary = files.tokenizer["model"]["vocab"]
    assert "gate" in vocabulary and not any("zz" in piece for piece in vocabulary)
    result = tokenize_part(tmp_path / "out", phase.spec())
    assert result["counts"]["kept"] == 1


def test_a_jinja_file_brings_its_stop_token(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(OWN_TEMPLATE.replace("eos_token", "'<|im_end|>'"), encoding="utf-8")
    phase = case_phase(("byte_level", str(tmp_path / "own.jinja")), tmp_path)
    assert phase.made["added_tokens"] == ["<|im_end|>"]
    result = phase.run([dialogue("a", "b")])
    assert result.trained(0) == "b<|im_end|>" and read(phase.tokenizer_folder).special("eos_token") == "<|im_end|>"
    with pytest.raises(TemplateError, match="unknown chat template"):
        case_phase(("byte_level", "chatlm"), tmp_path / "other")


def test_the_options_are_those_of_the_recipe() -> None:
    assert set(Tokenize.model_fields) - {"sequence_len", "excess_length"} == set(OPTIONS)
