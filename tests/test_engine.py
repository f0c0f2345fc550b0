"""The fast engine: it is used where it gives the reference's ids, and what it made is made again where it once did not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import pytest
from build_support import file_bytes, write_small_recipe
from tokenizers import Tokenizer
from tokenizing_fixture import CORPUS, Phase, write_family

import sftdata
from sftdata.tokenizers import encoder as encoders
from sftdata.tokenizers import engine as engines
from sftdata.tokenizers.encoder import Encoder, concatenate
from sftdata.tokenizers.engine import (
    NUM_FIRST,
    NUM_FIRST_PARTS,
    SAMPLE_EVERY,
    EnginesDiffer,
    FastEngine,
    open_fast_engine,
    text_number,
)

RECORDS = [{"messages": [{"role": "user", "content": "The gate"}, {"role": "assistant", "content": "opens"}]}]


class Other:
    """An engine that gives the reference's ids, but for texts that hold a word."""

    def __init__(self, text: str, word: str | None, *, extra: int = 0) -> None:
        self._tokenizer = Tokenizer.from_str(text)
        self._word = word
        self._extra = extra
        self.num_encoded = 0

    def enable_segment_cache(self, max_bytes: int) -> None:
        assert max_bytes

    def encode_batch_flat(self, batch: list[str], add_special_tokens: bool) -> tuple[bytes, bytes]:
        self.num_encoded += len(batch)
        rows = [self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids for text in batch]
        lies = [bool(self._word) and self._word in text for text in batch]
        wrong = [[*row, self._extra] if lie else row for row, lie in zip(rows, lies, strict=True)]
        offsets = np.cumsum([0, *map(len, wrong)], dtype=np.uint64)
        return np.concatenate([np.zeros(0), *wrong]).astype(np.uint32).tobytes(), offsets.tobytes()


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Replace the fast engine by one that is wrong for texts that hold a word."""

    def replace(word: str | None, **options: Any) -> None:
        made = staticmethod(lambda text: Other(text, word, **options))
        monkeypatch.setattr(fastokens, "Tokenizer", type("Made", (), {"from_json_str": made}))
        encoders._encoder.cache_clear()

    yield replace
    encoders._encoder.cache_clear()


def engine_of(folder: Path) -> FastEngine:
    """Return the fast engine of a tokenizer folder."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    engine = open_fast_engine(text, Tokenizer.from_str(text))
    assert engine is not None
    return engine


def test_an_engine_that_differs_on_the_nasty_texts_is_not_used(tmp_path: Path, inject: Callable[..., None]) -> None:
    folder = write_family(tmp_path, "byte_level")
    assert Encoder(folder).engine == "fastokens"
    inject("e\u0301")
    assert Encoder(folder).engine == "fastokens"  # no text of the self-check holds it
    inject("哈")
    assert Encoder(folder).engine == "tokenizers"


def test_texts_that_repeat_are_encoded_from_the_cache_with_the_same_ids(tmp_path: Path) -> None:
    engine = engine_of(write_family(tmp_path, "byte_level"))
    texts = [f"<s>{CORPUS[0]}</s>{number}" for number in range(50)]
    ids, _ = engine.encode(texts, 0)
    expected = [number for text in texts for number in engine._tokenizer.encode(text, add_special_tokens=False).ids]
    assert ids.tolist() == expected
    assert engine._engine.segment_cache_stats()["hits"] >= 49


@pytest.mark.parametrize(("first", "caught"), [(0, True), (NUM_FIRST - 1, True), (NUM_FIRST, False), (SAMPLE_EVERY, True)])
def test_the_first_texts_and_a_sample_of_the_others_are_checked(
    tmp_path: Path, inject: Callable[..., None], first: int, caught: bool
) -> None:
    inject("wrong")
    engine = engine_of(write_family(tmp_path, "byte_level"))
    if not caught:
        assert len(engine.encode(["wrong"], first)[0])
        return
    with pytest.raises(EnginesDiffer, match=r"^'wrong'$"):
        engine.encode(["wrong", "right"], first)


def test_where_every_page_is_a_part_few_texts_are_encoded_twice() -> None:
    numbers = [text_number(part, row) for part in range(3000) for row in range(5)]
    checked = sum(engines._is_checked(number) for number in numbers)
    assert NUM_FIRST_PARTS * 5 < checked < NUM_FIRST_PARTS * 5 + 2 * len(numbers) / SAMPLE_EVERY
    assert [text_number(part, 3) for part in (0, NUM_FIRST_PARTS - 1)] == [3, 3]


def test_an_engine_that_gives_no_ids_or_fails_is_found_out(tmp_path: Path, inject: Callable[..., None]) -> None:
    inject("wrong", extra=1_000_000)
    encoder = Encoder(write_family(tmp_path, "byte_level"))
    with pytest.raises(EnginesDiffer, match=r"^'wrong' and those after it, for which it gave what are no ids"):
        encoder.encode(concatenate(["wrong"]), NUM_FIRST)
    inject("wrong", extra=-1)
    with pytest.raises(EnginesDiffer, match="and those after it, on which it failed"):
        Encoder(write_family(tmp_path, "byte_level"))._fast.encode(["right", 7], NUM_FIRST)  # type: ignore[list-item, union-attr]


def test_a_wrong_row_outside_the_sample_is_found_where_its_bytes_are_not_the_text(
    tmp_path: Path, inject: Callable[..., None]
) -> None:
    inject("wrong")
    encoder = Encoder(write_family(tmp_path, "byte_level"))
    with pytest.raises(EnginesDiffer, match=r"^'wrong'$"):
        encoder.encode(concatenate(["right", "wrong"]), NUM_FIRST)


def test_a_part_is_encoded_again_without_the_fast_engine_where_a_sample_differs(
    tmp_path: Path, inject: Callable[..., None]
) -> None:
    phase = Phase(tmp_path / "phase", write_family(tmp_path / "source", "byte_level"), "chatml")
    expected = phase.run(RECORDS)
    assert expected.engine == "fastokens"
    inject("gate")
    again = phase.run(RECORDS)
    assert again.engine == "tokenizers"
    assert again.rows == expected.rows and len(again.rows) == 1


def test_one_difference_and_every_part_is_made_again_with_the_reference(tmp_path: Path, inject: Callable[..., None]) -> None:
    recipe = write_small_recipe(tmp_path)
    right = sftdata.build(recipe, out=tmp_path / "right", work_dir=tmp_path / "work-right")
    assert right.manifest["tokenizer"]["engines"] == {"fastokens": 3} and right.manifest["warnings"] == []
    inject("rule 7")  # stands in one of the two sources
    made = [sftdata.build(recipe, out=tmp_path / "made", work_dir=tmp_path / "work") for _ in range(2)]
    assert [build.manifest["tokenizer"]["engines"] for build in made] == [{"tokenizers": 3}] * 2
    [warning] = made[0].manifest["warnings"]
    assert "other ids than tokenizers for faq part 2: '" in warning and "rule 7" in warning and "slower" in warning
    assert made[1].num_reused == made[1].num_tasks and made[1].unchanged
    compared = [name for name in file_bytes(tmp_path / "right") if name.endswith(".arrow")]
    assert len(compared) >= 2
    for name in compared:
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "right" / name).read_bytes()


def test_the_check_does_not_depend_on_how_a_part_is_cut_into_batches(tmp_path: Path, inject: Callable[..., None]) -> None:
    inject("wrong")
    engine = engine_of(write_family(tmp_path, "byte_level"))
    texts = [*["right"] * 150, *["wrong"] * 5]
    assert json.dumps(engine.encode(texts, 0)[0].tolist()) == json.dumps(
        [number for first in (0, 70, 140) for number in engine.encode(texts[first : first + 70], first)[0].tolist()]
    )
    with pytest.raises(EnginesDiffer, match=r"^'wrong'$"):
        engine.encode(texts, SAMPLE_EVERY - 152)


def test_without_the_package_tokenizers_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastokens", None)
    assert engines.open_fast_engine("{}", None) is None
    assert Encoder(write_family(tmp_path, "byte_level")).engine == "tokenizers"
