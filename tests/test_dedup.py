"""Deduplication of items: which go and which stay, against plain loops; the pairs that MinHash finds, against all pairs."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.dedup import candidates
from sftdata.dedup.items import Items
from sftdata.dedup.minhash import Bands, band_keys, choose_bands, signatures
from sftdata.dedup.survivors import Pairs, against_reference, clusters, exact, near
from sftdata.shards import list_column
from sftdata.shingling import Sets, find_grams, find_units, shingle_sets
from sftdata.signing import signed_schema
from sftdata.tables import stream_writer

CONTENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(2**64 - 2, 2**64 - 1)), max_size=60)
EDGE = st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda pair: pair[0] < pair[1])
EDGES = st.lists(EDGE, max_size=40, unique=True)


def digests_of(contents: list[tuple[int, int]]) -> np.ndarray:
    return np.array(contents, dtype=np.uint64).reshape(-1, 2)


def pairs_of(edges: list[tuple[int, int]]) -> Pairs:
    table = np.array(sorted(edges), dtype=np.int64).reshape(-1, 2)
    return Pairs(table[:, 0], table[:, 1], np.linspace(0.8, 1.0, len(table)).astype(np.float32))


@settings(deadline=None)
@given(CONTENTS, st.integers(1, 4), st.randoms())
def test_items_past_the_allowed_copies_are_surplus(contents, max_copies, rng):
    rank = list(range(len(contents)))
    rng.shuffle(rank)
    found = exact(digests_of(contents), np.array(rank, dtype=np.int64), max_copies=max_copies)
    seen: dict[tuple[int, int], list[int]] = {}
    for item in sorted(range(len(contents)), key=rank.__getitem__):
        copies = seen.setdefault(contents[item], [])
        assert found.surplus[item] == (len(copies) >= max_copies)
        copies.append(item)
        assert found.survivor[item] == copies[0]
    assert len(found.surplus) == len(found.survivor) == len(contents)


def test_second_of_two_copies_goes_and_names_the_first():
    found = exact(digests_of([(1, 1), (2, 1), (1, 1), (1, 2)]), np.arange(4), max_copies=1)
    assert found.surplus.tolist() == [False, False, True, False]
    assert found.survivor.tolist() == [0, 1, 0, 3]


def test_only_copies_of_a_reference_go_where_there_is_one():
    reference = np.array([False, False, True, False, True])
    found = exact(digests_of([(1, 1), (1, 1), (1, 1), (2, 2), (1, 1)]), np.arange(5), max_copies=1, reference=reference)
    assert found.surplus.tolist() == [True, True, False, False, False]
    assert found.survivor[:2].tolist() == [2, 2]


@settings(deadline=None)
@given(EDGES, st.integers(1, 2), st.sets(st.integers(0, 14), max_size=3), st.randoms())
def test_what_goes_resembles_enough_of_what_stays_and_what_stays_does_not(edges, max_copies, kept, rng):
    pairs = pairs_of(edges)
    items = np.unique(np.concatenate([pairs.first, pairs.second]))
    rank = list(range(len(items)))
    rng.shuffle(rank)
    rank_of = dict(zip(items.tolist(), rank, strict=True))
    found = near(pairs, items, np.array(rank, dtype=np.int64), exempt=np.isin(items, list(kept)), max_copies=max_copies)
    gone = dict(zip(found.item.tolist(), found.survivor.tolist(), strict=True))
    alike = {item: {a + b - item for a, b in edges if item in (a, b)} for item in items.tolist()}
    for item in items.tolist():
        better = [other for other in alike[item] if other not in gone and rank_of[other] < rank_of[item]]
        assert (item in gone) == (len(better) >= max_copies and item not in kept)
        if item in gone:
            assert gone[item] == min(better, key=rank_of.__getitem__)
            place = edges_place(pairs, item, gone[item])
            assert found.similarity[found.item.tolist().index(item)] == pairs.similarity[place]


def edges_place(pairs: Pairs, one: int, other: int) -> int:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)).index((min(one, other), max(one, other)))


def test_a_chain_of_small_changes_is_cut_where_its_ends_differ():
    found = near(pairs_of([(0, 1), (1, 2), (2, 3)]), np.arange(4), np.arange(4), exempt=np.zeros(4, dtype=bool), max_copies=1)
    assert found.item.tolist() == [1, 3] and found.survivor.tolist() == [0, 2]


def test_near_copies_of_a_reference_go_and_no_others():
    reference = np.array([False, False, True, True])
    pairs, nobody = pairs_of([(0, 1), (0, 2), (0, 3), (2, 3)]), np.zeros(4, dtype=bool)
    found = against_reference(pairs, np.arange(4), np.array([0, 1, 3, 2]), exempt=nobody, reference=reference)
    assert found.item.tolist() == [0] and found.survivor.tolist() == [3]


@given(EDGES)
def test_clusters_are_what_chains_join(edges):
    items, heads = clusters(pairs_of(edges))
    groups = {item: {item} for edge in edges for item in edge}
    for one, other in edges:
        joined = groups[one] | groups[other]
        for item in joined:
            groups[item] = joined
    assert dict(zip(items.tolist(), heads.tolist(), strict=True)) == {item: min(group) for item, group in groups.items()}


# ---- shingles

UNITS = st.sampled_from([*"皇上驾到了Aａé， !😀\nかン", "the", "Cat", "42", "ไทย"])


def units_by_hand(text: str) -> list[str]:
    """Cut a text the slow way; the characters are those of `UNITS`."""
    found: list[str] = []
    joins = False
    for char in text.replace("ａ", "a").lower():
        if char in "，!😀 \n":
            joins = False
        elif char in "皇上驾到了かンไทย":
            found.append(char)
            joins = False
        else:
            found = [*found[:-1], found[-1] + char] if joins else [*found, char]
            joins = True
    return found


@settings(deadline=None)
@given(st.lists(st.lists(UNITS, max_size=12).map("".join), max_size=6), st.integers(1, 4))
def test_grams_are_equal_where_their_units_are(texts, size):
    units = find_units(texts)
    grams = find_grams(units, size)
    by_hand = [units_by_hand(text) for text in texts]
    assert np.diff(units.offsets).tolist() == list(map(len, by_hand))
    expected = [tuple(found[n : n + size]) for found in by_hand for n in range(len(found) - size + 1)]
    assert len(grams.hashes) == len(expected)
    assert len(set(zip(grams.hashes.tolist(), expected, strict=True))) == len(set(expected)) == len(set(grams.hashes.tolist()))


def test_places_of_units_lead_back_to_the_texts():
    texts = ["ab 皇上", "", "😀x y1"]
    units = find_units(texts)
    joined = "\n" + "\n".join(texts) + "\n"
    assert [joined[a:b] for a, b in zip(units.start.tolist(), units.end.tolist(), strict=True)] == ["ab", "皇", "上", "x", "y1"]
    assert units.spaceless.tolist() == [False, True, True, False, False]
    assert all(joined[place:].startswith(text) for place, text in zip(units.text_offsets.tolist(), texts, strict=False))


def sets_of(texts: list[str], size: int = 5) -> Sets:
    number = len(texts)
    answers = np.ones(number, dtype=bool)
    return shingle_sets(texts, np.arange(number), np.zeros(number, dtype=np.uint64), answers, num_sets=number, size=size)


def members(sets: Sets, number: int) -> set[int]:
    return set(sets.values[sets.offsets[number] : sets.offsets[number + 1]].tolist())


SHORT = ["", "是", "是。", "是！", "起来吧。", "好。", "😀", "😂", " ", "a", "A", "ok", "\ud800", "𠮷", "…", "+-*/"]


def test_short_texts_are_compared_as_they_are():
    found = [members(sets, number) for sets in [sets_of([*SHORT, *SHORT])] for number in range(2 * len(SHORT))]
    assert all(len(one) == 1 for one in found)
    assert len({frozenset(one) for one in found}) == len(SHORT) and found[: len(SHORT)] == found[len(SHORT) :]


def test_shingles_of_a_long_batch_are_those_of_each_text(monkeypatch):
    monkeypatch.setattr("sftdata.shingling.SLICE", 64)
    rng = random.Random(7)
    texts = ["".join(rng.choices("皇上驾到 abc,", k=rng.randint(0, 90))) for _ in range(40)]
    together = sets_of(texts)
    alone = [members(sets_of([text]), 0) for text in texts]
    assert [members(together, number) for number in range(len(texts))] == alone and max(map(len, alone)) > 20


# ---- signatures and pairs


def random_sets(rng: random.Random, num_groups: int) -> list[set[int]]:
    """Return sets of which some are altered copies of others, from equal to unlike."""
    found: list[set[int]] = []
    for _ in range(num_groups):
        base = [rng.getrandbits(32) | 1 for _ in range(rng.choice([1, 3, 30, 120]))]
        for _ in range(rng.choice([1, 2, 3, 25])):
            share = rng.choice([0.0, 0.02, 0.1, 0.3])
            found.append({value if rng.random() >= share else rng.getrandbits(32) | 1 for value in base})
    rng.shuffle(found)
    return [*found, set(), set()]


def as_sets(found: list[set[int]]) -> Sets:
    values = [value for one in found for value in sorted(one)]
    return Sets(np.array(values, dtype=np.uint32), np.cumsum([0, *map(len, found)]).astype(np.int64))


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def test_signatures_estimate_the_similarity():
    rng = random.Random(3)
    found = random_sets(rng, 60)
    signature = signatures(as_sets(found), num_permutations=256)
    errors = [
        np.mean(signature[a] == signature[b]) - jaccard(found[a], found[b]) for a, b in combinations(range(0, len(found), 3), 2)
    ]
    assert len(errors) > 1000 and abs(np.mean(errors)) < 0.005 and np.abs(errors).max() < 0.16  # five deviations of 256 draws


def write_items(folder: Path, sets: list[set[int]], bands: Bands, borders: list[int]) -> Items:
    """Write signed items into parts that end at `borders`."""
    setting = {"method": "minhash", "bands": list(bands)}
    files, rows = [], []
    for number, (low, high) in enumerate(zip([0, *borders], [*borders, len(sets)], strict=True)):
        mine = as_sets(sets[low:high])
        keys = band_keys(signatures(mine, num_permutations=bands.number * bands.rows), bands)
        files.append(folder / f"{number}.arrow")
        rows.append(high - low)
        nothing = [[None] * rows[-1]] * 5
        with stream_writer(files[-1], signed_schema(setting)) as writer:
            if rows[-1]:
                shingles = list_column(mine.values, np.diff(mine.offsets), pa.uint32())
                writer.extend_columns([list(range(rows[-1])), *nothing, shingles, *(key.tolist() for key in keys)])
    return Items(files, rows)


def test_pairs_are_all_those_that_are_similar_and_no_others(tmp_path):
    sets = random_sets(random.Random(11), 80)
    items = write_items(tmp_path, sets, choose_bands(0.8, 128), [100, 100, 150])
    found = candidates.similar_pairs(items, np.ones(len(sets), dtype=bool), threshold=0.8, num_bands=21)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert [jaccard(sets[a], sets[b]) for a, b in pairs] == pytest.approx(found.similarity.tolist())
    assert found.similarity.min() >= np.float32(0.8)
    expected = {(a, b) for a, b in combinations(range(len(sets)), 2) if jaccard(sets[a], sets[b]) >= 0.8}
    joined = dict(zip(*(column.tolist() for column in clusters(found)), strict=True))
    assert len(expected) > 500 and pairs == sorted(set(pairs))
    assert sum(joined.get(a) == joined.get(b, -1) for a, b in expected) >= 0.99 * len(expected)


def test_pairs_do_not_depend_on_parts_or_on_what_is_held_in_memory(tmp_path, monkeypatch):
    sets = random_sets(random.Random(5), 60)
    alive = np.arange(len(sets)) % 7 != 3
    found = []
    for number, (borders, held) in enumerate([([], 1 << 22), ([10, 40], 50), ([1], 17)]):
        (tmp_path / str(number)).mkdir()
        monkeypatch.setattr(candidates, "SORTED_ITEMS", held)
        monkeypatch.setattr(candidates, "CHUNK_MEMBERS", 8 * held)
        items = write_items(tmp_path / str(number), sets, Bands(16, 4), borders)
        found.append(candidates.similar_pairs(items, alive, threshold=0.7, num_bands=16))
    assert len(found[0].first) > 50 and alive[found[0].first].all() and alive[found[0].second].all()
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_bands_are_the_longest_that_find_what_they_should():
    assert choose_bands(0.8, 128) == (21, 6) and choose_bands(0.95, 128).rows > 6 > choose_bands(0.5, 128).rows
    assert choose_bands(0.01, 16) == (16, 1) and choose_bands(1.0, 128) == (1, 128)


def test_long_equal_prompts_do_not_make_different_answers_alike(tmp_path):
    passage, answer = {2 * number for number in range(200)}, {2 * number + 1 for number in range(40)}
    sets = [passage | answer, passage | {99999}, passage | set(list(answer)[4:]), passage | {1}]
    items = write_items(tmp_path, sets, Bands(128, 1), [])
    found = candidates.similar_pairs(items, np.ones(4, dtype=bool), threshold=0.8, num_bands=128)
    assert jaccard(sets[0], sets[1]) > 0.8
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 2)]
