"""The slop cleaner: packs, matching on the folded view, actions, and the labelled corpus."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.cleaners._fold import fold, fold_table, variants_of
from sftdata.cleaners._matching import build_matcher
from sftdata.cleaners._packs import load_packs, pack_files
from sftdata.cleaners._rules import Pack, Rule
from sftdata.cleaners.slop import slop
from sftdata.errors import RecipeError
from sftdata.records import Drop, Edit, Mark
from sftdata.registry import find_step
from sftdata.schemas import SPANS

SHARED = Path(__file__).resolve().parents[2] / "shared"

SENTENCES = Path(__file__).parent / "slop_sentences.jsonl"
"""Our own paraphrases, and sentences that look like slop and are none: `lang`, `slop`, `prompt`, `answer`."""

PACK = """
id: house
version: 1
language: en
rules:
  - id: house.foo
    category: style_slop
    action: {action}
    source: own wording
    must_fire: [frobnicate]
    {pattern}
"""


def answers_of(*turns: tuple[str, str], **options: object) -> list[object]:
    columns = ([0] * len(turns), ["f"] * len(turns), range(len(turns)), *zip(*turns, strict=True))
    return list(slop(pa.table([pa.array(column) for column in columns], names=SPANS.names).cast(SPANS), **options))


def answer_of(text: str, **options: object) -> object:
    return answers_of(("user", "Go on."), ("assistant", text), **options)[1]


def write_pack(folder: Path, pattern: str, action: str = "flag") -> str:
    path = folder / "house.yaml"
    path.write_text(PACK.format(pattern=pattern, action=action), encoding="utf-8")
    return str(path)


@cache
def built_in() -> tuple[Pack, ...]:
    return load_packs(pack_files(["en", "zh"]))


@pytest.mark.parametrize("rule", [rule for pack in built_in() for rule in pack.rules], ids=lambda rule: rule.id)
def test_rule_fires_on_its_examples_only(rule: Rule) -> None:
    packs = built_in()
    variants = dict(variants_of(*(pack.variants for pack in packs)))
    matcher = build_matcher([Pack("alone", "", Path(), (rule,), (), variants)])
    fired = {index for index, _, _ in matcher.scan(rule.must_fire)}
    assert rule.must_fire and fired == set(range(len(rule.must_fire)))
    assert rule.must_not_fire and not list(matcher.scan(rule.must_not_fire))


@pytest.mark.parametrize(
    "text",
    [
        "作为一个 AI 语言模型，我没有意见。",
        "As an AI language model, I cannot say.",
        "I was trained by OpenAI.",
        "我由 OpenAI 训练。",
        "这个请求包含有害或攻击性内容，我不能继续。",
    ],
)
def test_slop_drops_the_phrases_that_everyone_names(text: str) -> None:
    answer = answer_of(text)
    assert isinstance(answer, Drop)
    assert answer.evidence in text


def test_slop_leaves_texts_without_a_hit_as_the_same_objects() -> None:
    assert answers_of(("user", "As an AI, I ask."), ("assistant", "是。")) == ["As an AI, I ask.", "是。"]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("“", "”"),
        ('"', '"'),
        ("'", "'"),
        ("‘", "’"),
        ("「", "」"),
        ("『", "』"),
        ("```\n", "\n```"),
        ("`", "`"),
        ("> ", "\nend"),
        ("&quot;", "&quot;"),
    ],
)
def test_slop_skips_code_and_quotations(opening: str, closing: str) -> None:
    for phrase in ("As an AI language model, I don't rust.", "作为人工智能，我无法说谎。"):
        assert isinstance(answer_of(f"So:\n{phrase}\nend"), Drop)
        assert answer_of(f"So:\n{opening}{phrase}{closing}") == f"So:\n{opening}{phrase}{closing}"


def test_slop_lets_a_prompt_ask_for_the_phrase() -> None:
    answer = "作为人工智能助手，我无法吃饭。"
    assert answers_of(("user", "改正错别字：作为人工只能助手，我很高兴"), ("assistant", answer))[1] == answer
    assert isinstance(answers_of(("user", "翻译：I love you"), ("assistant", answer))[1], Drop)


def test_slop_story_request_does_not_excuse_a_refusal_to_write_it() -> None:
    prompt = ("user", "Write a story about a robot.")
    assert isinstance(answers_of(prompt, ("assistant", "As an AI language model, I cannot write stories."))[1], Drop)
    assert (
        answers_of(prompt, ("assistant", "The lamp glowed. I am an AI. I wait."))[1] == "The lamp glowed. I am an AI. I wait."
    )


def test_evidence_is_the_raw_text_of_the_match() -> None:
    answer = answer_of("Hm.  I\u2019m an\u00a0 A\u200bI.  Bye")
    assert isinstance(answer, Drop)
    assert answer.evidence == "I\u2019m an\u00a0 A\u200bI"
    assert (answer.reason, answer.rule) == ("ai_identity", "en.i_am_an_ai")


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("drop_sample", Drop("style_slop", "house.foo", "Frobnicate")),
        ("drop_turn", Drop("style_slop", "house.foo", "Frobnicate", turn=True)),
        ("strip_sentence", Edit("One. Three.", "style_slop", "house.foo", "Frobnicate")),
        ("mask_loss", Mark("mask_loss", 0.0, "style_slop", "house.foo", "Frobnicate")),
        ("down_weight", Mark("weight", 0.3, "style_slop", "house.foo", "Frobnicate")),
        ("flag", Mark("flag", 1.0, "style_slop", "house.foo", "Frobnicate")),
    ],
)
def test_actions_become_answers(tmp_path: Path, action: str, expected: object) -> None:
    pack = write_pack(tmp_path, "literal: [frobnicate]")
    assert answer_of("One. Frobnicate two! Three.", extra_packs=[pack], actions={"style_slop": action}) == expected


def test_strip_sentence_drops_what_has_nothing_else(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, "literal: [frobnicate]", action="strip_sentence")
    assert answer_of("Frobnicate! ", extra_packs=[pack]) == Drop("style_slop", "house.foo", "Frobnicate")


@pytest.mark.parametrize(
    ("where", "hit", "miss"),
    [
        ("prefix", "A. Frobnicate b. C. D.", "A. B. Frobnicate c."),
        ("suffix", "A. B. Frobnicate c.", "Frobnicate a. B. C."),
        ("sentence", "A. Frobnicate b.", "A then frobnicate b."),
    ],
)
def test_where_limits_a_rule_to_its_place(tmp_path: Path, where: str, hit: str, miss: str) -> None:
    pack = write_pack(tmp_path, f"literal: [frobnicate]\n    where: {where}")
    assert isinstance(answer_of(hit, extra_packs=[pack]), Mark)
    assert answer_of(miss, extra_packs=[pack]) == miss


def test_boundaries_of_words_and_of_han(tmp_path: Path) -> None:
    assert answer_of("frobnicated", extra_packs=[write_pack(tmp_path, "literal: [frobnicate]")]) == "frobnicated"
    pack = write_pack(tmp_path, "literal: [人工智慧体]\n    boundary: cjk")
    assert answer_of("人工智慧体学院", extra_packs=[pack]) == "人工智慧体学院"
    assert isinstance(answer_of("是人工智慧体。", extra_packs=[pack]), Mark)


def test_lexicon_fires_by_density_not_by_presence(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, "lexicon: [frobnicate]\n    density: 100")
    assert isinstance(answer_of("Frobnicate and frobnicate now.", extra_packs=[pack]), Mark)
    sparse = "Frobnicate " + "word " * 40
    assert answer_of(sparse, extra_packs=[pack]) == sparse


def test_disable_takes_rules_and_categories() -> None:
    text = "I am an AI model."
    assert isinstance(answer_of(text), Drop)
    assert answer_of(text, disable=["ai_identity"]) == text
    assert answer_of(text, disable=["en.i_am_an_ai"]) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disable": ["en.i_am_an_ia"]}, "did you mean 'en.i_am_an_ai'"),
        ({"actions": {"refusals": "flag"}}, "did you mean 'refusal'"),
        ({"actions": {"refusal": "drop"}}, "unknown action 'drop'"),
        ({"packs": ["eng"]}, "did you mean 'en'"),
        ({"extra_packs": ["nowhere.yaml"]}, "nowhere.yaml does not exist"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(options: dict[str, object], message: str) -> None:
    assets = find_step("cleaner", "slop").assets
    assert assets is not None
    for call in (lambda: answer_of("x", **options), lambda: assets(**options)):
        with pytest.raises(RecipeError, match=message):
            call()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ('regex: "(a"\n    anchors: [aa]', "house.yaml:11 .*broken regex"),
        ("literal: [aa]\n    patern: x", "house.yaml:12 .*unknown key 'patern'"),
        ("literal: [aa]\n    where: front", "house.yaml:12 .*unknown value 'front'"),
        ("literal: [aa]\n    literal: [bb]", "house.yaml:12: key 'literal' occurs twice"),
        ("literal: [a", "house.yaml:1[12]: "),
        ("regex: aa", "anchors belong to a regex rule"),
        ("literal: [aa]\n    severity: loud", "from 0 to 1, not 'loud'"),
        ('regex: "{{noun}}"\n    anchors: [aa]', "unknown fragment 'noun'"),
        ("boundary: none", "exactly one of literal, regex, lexicon"),
    ],
)
def test_a_wrong_pack_is_refused_with_its_line(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        answer_of("x", extra_packs=[write_pack(tmp_path, pattern)])


def test_assets_name_every_pack_file(tmp_path: Path) -> None:
    assets = find_step("cleaner", "slop").assets
    assert assets is not None
    extra = write_pack(tmp_path, "literal: [frobnicate]")
    files = assets(extra_packs=[extra])
    assert files[-1] == extra
    assert all(Path(file).is_file() for file in files) and len(files) > 4


@given(st.text(alphabet="aA Ａ，“'’\u200b\u00a0\n\r&#39;作 为é\ud800"))
def test_fold_maps_every_character_back(text: str) -> None:
    folded = fold(text, fold_table())
    offsets = [folded.raw_offset(place) for place in range(len(folded.text) + 1)]
    assert offsets[-1] == len(text)
    assert all(earlier < later for earlier, later in pairwise(offsets))
    assert all(kept == text[place] for kept, place in zip(folded.text, offsets, strict=False) if kept in "作为é&")
    backwards = [bisect_left(offsets, place) for place in range(len(text) + 2)]
    assert folded.folded_offsets(range(len(text) + 2)).tolist() == backwards
    assert "  " not in folded.text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["好", "As an AI, I know.", "x" * 50, "“", "", "作为AI，我不知道。", "a\n"]), max_size=8))
def test_answers_do_not_depend_on_the_batch(texts: list[str]) -> None:
    batch = answers_of(*(("assistant", text) for text in texts)) if texts else []
    assert batch == [answers_of(("assistant", text))[0] for text in texts]


def test_corpus_precision_and_recall() -> None:
    path = SHARED / "parity/slop/public/corpus.jsonl"
    if not path.exists():
        pytest.skip(f"the labelled corpus {path} is absent")
    counts: Counter[tuple[str, str, bool]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not row["borderline"]:
            answers = answers_of(*((message["role"], message["content"]) for message in row["messages"]))
            counts[row["lang"], row["label"], any(map(removes, answers))] += 1
    for language in ("en", "zh"):
        found = counts[language, "slop", True]
        assert found > 20
        assert found / (found + counts[language, "not_slop", True]) >= 0.95
        assert found / (found + counts[language, "slop", False]) >= 0.95


def test_own_sentences_precision_and_recall() -> None:
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    counts: Counter[tuple[str, bool, bool]] = Counter()
    for row in map(json.loads, lines):
        answers = answers_of(("user", row["prompt"]), ("assistant", row["answer"]))
        counts[row["lang"], row["slop"], any(map(removes, answers))] += 1
    for language in ("en", "zh"):
        found = counts[language, True, True]
        assert found > 100 and counts[language, False, False] > 100
        assert found / (found + counts[language, False, True]) >= 0.95
        assert found / (found + counts[language, True, False]) >= 0.95


@pytest.mark.parametrize(
    "text",
    [
        "I cannot answer this question, said the witness, on advice.",
        "The clerk said I am an AI, and laughed.",
        "I am an AI, the tin man told me.",
        "我不会回答这个问题，证人说，我的律师让我这么做。",
        "他说：我是一个人工智能。",
    ],
)
def test_slop_skips_what_another_one_says(text: str) -> None:
    assert answer_of(text) == text
    assert isinstance(answer_of("I am an AI.\n" + text), Drop)


def test_human_articles_are_not_dropped() -> None:
    path = SHARED / "data/html/ground-truth.json"
    if not path.exists():
        pytest.skip(f"the articles {path} are absent")
    articles = [page["articleBody"] for page in json.loads(path.read_text(encoding="utf-8")).values()]
    assert len(articles) > 50
    assert not any(removes(answer) for answer in answers_of(*(("text", article) for article in articles)))


def removes(answer: object) -> bool:
    return isinstance(answer, Drop | Edit) or (isinstance(answer, Mark) and answer.kind == "mask_loss")
