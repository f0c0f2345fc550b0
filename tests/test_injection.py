"""Injection: benign rows are what `apply_chat_template` gives, hostile rows hold the template's own control tokens alone.

`make test` takes twelve templates, each with one kind of tokenizer; `make fuzz` lets each meet all four, with more rows.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from family_templates import FAMILIES
from foreign_templates import CASES
from tokenizing_fixture import FRAGMENTS, Phase, Tokenized, dialogue, write_family
from transformers import AutoTokenizer

from sftdata.formatters.messages import messages as format_messages
from sftdata.templates.render import TrainScope

NUM_ROWS = int(os.environ.get("SFTDATA_FUZZ_ROWS", "40"))
"""Of each kind, for each pair of template and tokenizer."""
BUILT_IN = ("chatml", "llama2", "human_assistant", "alpaca", "atom", "vicuna")
JINJA = {name: source for name, (source, *_) in {**CASES, **FAMILIES}.items() if "strftime_now" not in source}
"""All but those that write today's date, which a build keeps from changing."""
TOKENIZERS = ("byte_level", "byte_level_prefix", "sentencepiece", "unigram")
FORGERIES = (
    "<|im_end|>", "<|im_start|>assistant\n", "</s>", "<s>", "<unk>", "<|eot_id|>", "<|start_header_id|>", "[INST]", "</s", "s>",
    "<|im_", "end|>", "<end_of_turn>", "<|end|>", "<think>", "</think>",
)  # fmt: skip
WORDS = [text for text in FRAGMENTS if not any(sign in text for sign in "<>|[]▁")]
WORDS += ["The gate opens.", "灯笼的光", "123", "OK."]


def pairs() -> list[tuple[str, str]]:
    """Return (template, tokenizer): all of them where many rows are asked for."""
    names = [*BUILT_IN, *sorted(JINJA)[:: len(JINJA) // 6][:6]]
    assert len(names) == 12
    if NUM_ROWS > 40:
        return [(name, tokenizer) for name in names for tokenizer in TOKENIZERS]
    return [(name, TOKENIZERS[number % 4]) for number, name in enumerate(names)]


def open_phase(folder: Path, template: str, tokenizer: str) -> Phase:
    source = JINJA.get(template)
    written = write_family(folder / "source", tokenizer, template=source)
    return Phase(folder, written, template if source is None else "tokenizer_default")


def drawn_dialogues(pieces: tuple[str, ...] | list[str], seed: int) -> list[dict[str, Any]]:
    """Return dialogues of one to three pairs of turns, whose texts are put together from pieces."""
    draw = random.Random(seed)

    def text() -> str:
        return "Q" + "".join(draw.choice(pieces) for _ in range(draw.randint(1, 6))) + "."

    return [dialogue(*(text() for _ in range(2 * draw.randint(1, 3)))) for _ in range(NUM_ROWS)]


def run(phase: Phase, records: list[dict[str, Any]]) -> tuple[Tokenized, list[dict[str, Any]]]:
    """Tokenize; return the result, and the records of its rows. A template that rewrites history may refuse a few."""
    result = phase.run(records)
    assert len(result.rows) + len(result.quarantine) == len(records)
    assert len(result.quarantine) <= len(records) // 10, result.quarantine[0]
    return result, [records[row["row"]] for row in result.rows]


@pytest.mark.parametrize(("template", "tokenizer"), pairs())
def test_benign_rows_are_what_transformers_gives(tmp_path: Path, template: str, tokenizer: str) -> None:
    phase = open_phase(tmp_path, template, tokenizer)
    result, records = run(phase, drawn_dialogues(WORDS, seed=1))
    theirs = AutoTokenizer.from_pretrained(phase.tokenizer_folder)
    for row, record in zip(result.rows, records, strict=True):
        assert row["input_ids"] == theirs.apply_chat_template(record["messages"], tokenize=True, return_dict=False)
    assert not result.ledger and len(result.rows) > NUM_ROWS // 2


@pytest.mark.parametrize(("template", "tokenizer"), pairs())
def test_hostile_rows_hold_the_control_tokens_of_the_template_alone(tmp_path: Path, template: str, tokenizer: str) -> None:
    phase = open_phase(tmp_path, template, tokenizer)
    result, records = run(phase, drawn_dialogues([*FORGERIES, *WORDS[:4]], seed=2))
    unknown = result.tokenizer.token_to_id("<unk>") if tokenizer == "unigram" else None  # letters that it lacks
    added = set(result.tokenizer.get_added_tokens_decoder()) - {unknown}
    for row, record in zip(result.rows, records, strict=True):
        harmless = phase.loaded_template.render(
            format_messages(dialogue(*("x" for _ in record["messages"]))).turns, TrainScope()
        ).text
        expected = [token for token in result.tokenizer.encode(harmless, add_special_tokens=False).ids if token in added]
        assert expected, "the template writes no control token: nothing is tested"
        assert [token for token in row["input_ids"] if token in added] == expected
    assert result.counts["control_rows"] > NUM_ROWS // 2
