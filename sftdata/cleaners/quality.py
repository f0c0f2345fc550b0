"""Drop documents that do not read like prose, by the published rules of Gopher, C4 and FineWeb, with variants for Chinese."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from sftdata.cleaners._spans import Answer, answer_each, beginning, check_roles
from sftdata.errors import RecipeError
from sftdata.records import Drop
from sftdata.registry import cleaner
from sftdata.shingling import find_units

Collection = Literal["gopher", "c4", "fineweb"]

# Gopher: Rae et al., "Scaling Language Models" (2021), appendix A1.1, "Quality Filtering". Its lower limit of 50 words is the
# option `min_words`.
MOST_WORDS = 100_000
WORD_LENGTH = (3.0, 10.0)
SYMBOLS_PER_WORD = 0.1
BULLET_LINES = 0.9
ELLIPSIS_LINES = 0.3
ALPHABETIC_WORDS = 0.8
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
FEWEST_STOP_WORDS = 2

# C4: Raffel et al., "Exploring the Limits of Transfer Learning" (2020), 2.2. Its rules on lines are the cleaner
# `boilerplate_lines`; its list of bad words is the user's to give (`terms`).
FEWEST_SENTENCES = 3
LOREM_IPSUM = "lorem ipsum"

# FineWeb: Penedo et al., "The FineWeb Datasets" (2024), 3.6: the three of its heuristics that were kept.
LINES_ENDING_IN_PUNCTUATION = 0.12
DUPLICATE_LINE_CHARACTERS = 0.1
SHORT_LINES = 0.67
SHORT_LINE = 30

# Chinese, and other scripts without spaces: this project's own. A character stands for half a word, and function characters
# take the place of stop words.
CHARACTERS_OF_A_WORD = 2
CJK_STOP_WORDS = frozenset("的了是在和有不这我他就也")
SENTENCE_ENDS = re.compile(r"[.!?](?=[\"'”’)\]]*(?:\s|$))|[。！？…]+")
PUNCTUATION_ENDS = (".", "!", "?", '"', "'", "”", "’", ")", "。", "！", "？", "…", "）", "》", "」", "』", "；", ";", ":", "：")
BULLETS = ("•", "-", "*", "‣", "·", "●", "○", "■", "◆", "▪", "–", "—")
ELLIPSES = ("...", "…")


class Facts(NamedTuple):
    """What the rules look at."""

    text: str
    lines: list[str]
    """Without blanks at their ends; none is empty."""
    words: list[str]
    """Words, and single characters of scripts without spaces, as they stand in the text."""
    is_spaceless: bool
    """More than half of the words are such characters."""

    @property
    def num_words(self) -> float:
        """Words; in a script without spaces two characters count as one."""
        return len(self.words) / (CHARACTERS_OF_A_WORD if self.is_spaceless else 1)


Rule = tuple[str, str]
"""Reason and the limit that is passed, as the ledger shows them."""


def _no_files(
    *, rules: list[Collection] | tuple[str, ...] = (), min_words: int = 50, roles: list[str] | tuple[str, ...] = ("text",)
) -> tuple[str, ...]:
    """Refuse a negative limit and unknown roles when the recipe is read; the step reads no files."""
    check_roles("quality", roles)
    if min_words < 0:
        raise RecipeError(f"quality: min_words must be 0 or more, not {min_words}")
    return ()


@cleaner(batched=True, assets=_no_files)
def quality(
    spans: pa.Table,
    *,
    rules: list[Collection] = ["gopher", "fineweb"],  # noqa: B006
    min_words: int = 50,
    roles: list[str] = ["text"],  # noqa: B006
) -> list[Answer]:
    """Drop documents that do not read like prose, by the rules of `gopher`, `c4` or `fineweb` with their published thresholds.

    Made for web pages: `roles` is text alone by default, since a good answer may be a list or a line of code. A text of fewer
    than `min_words` words is not judged (where too few words are reason enough, use `length`); two characters of a script
    without spaces count as a word. The ledger's rule names the collection and the limit, the reason what is wrong.

    Raises RecipeError for unknown roles and a negative limit.
    """
    _no_files(min_words=min_words, roles=roles)
    return answer_each(spans, roles, lambda text: _judge(text, rules, min_words))


def _judge(text: str, rules: list[Collection], min_words: int) -> Answer:
    if len(text) < 2 * min_words - 1:  # too short for so many words
        return text
    facts = read_facts(text)
    if not facts.words or facts.num_words < min_words:
        return text
    for name in rules:
        for reason, limit in COLLECTIONS[name](facts):
            return Drop(reason, f"{name} {limit}", beginning(text))
    return text


def read_facts(text: str) -> Facts:
    """Return what the rules look at."""
    units = find_units([text])
    words = [text[start - 1 : end - 1] for start, end in zip(units.start.tolist(), units.end.tolist(), strict=True)]
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return Facts(text, lines, words, 2 * int(np.count_nonzero(units.spaceless)) > len(words))


def gopher(facts: Facts) -> Iterator[Rule]:
    """Yield the rules of Gopher that a text breaks."""
    if facts.num_words > MOST_WORDS:
        yield "too_many_words", f"words>{MOST_WORDS}"
    if not facts.is_spaceless:
        mean = sum(map(len, facts.words)) / len(facts.words)
        if not WORD_LENGTH[0] <= mean <= WORD_LENGTH[1]:
            yield "word_length", f"mean_word_length {WORD_LENGTH[0]:g}–{WORD_LENGTH[1]:g}"
    for symbols in (("#",), ELLIPSES):
        if sum(map(facts.text.count, symbols)) > SYMBOLS_PER_WORD * facts.num_words:
            yield "symbols", f"{symbols[0]}_per_word>{SYMBOLS_PER_WORD:g}"
    if _share(facts.lines, lambda line: line.startswith(BULLETS)) > BULLET_LINES:
        yield "bullets", f"bullet_lines>{BULLET_LINES:g}"
    if _share(facts.lines, lambda line: line.endswith(ELLIPSES)) > ELLIPSIS_LINES:
        yield "ellipses", f"ellipsis_lines>{ELLIPSIS_LINES:g}"
    if _share(facts.words, lambda word: any(map(str.isalpha, word))) < ALPHABETIC_WORDS:
        yield "not_alphabetic", f"alphabetic_words<{ALPHABETIC_WORDS:g}"
    stop_words = CJK_STOP_WORDS if facts.is_spaceless else STOP_WORDS
    if len(stop_words.intersection(map(str.lower, facts.words))) < FEWEST_STOP_WORDS:
        yield "stop_words", f"stop_words<{FEWEST_STOP_WORDS}"


def c4(facts: Facts) -> Iterator[Rule]:
    """Yield the rules of C4 on whole pages that a text breaks."""
    if LOREM_IPSUM in facts.text.lower():
        yield "lorem_ipsum", LOREM_IPSUM
    if "{" in facts.text:
        yield "curly_bracket", "{"
    if len(SENTENCE_ENDS.findall(facts.text)) < FEWEST_SENTENCES:
        yield "few_sentences", f"sentences<{FEWEST_SENTENCES}"


def fineweb(facts: Facts) -> Iterator[Rule]:
    """Yield the rules of FineWeb that a text breaks."""
    if _share(facts.lines, lambda line: line.endswith(PUNCTUATION_ENDS)) <= LINES_ENDING_IN_PUNCTUATION:
        yield "unpunctuated_lines", f"lines_ending_in_punctuation<={LINES_ENDING_IN_PUNCTUATION:g}"
    counts = Counter(facts.lines)
    copies = sum((count - 1) * len(line) for line, count in counts.items())
    if copies >= DUPLICATE_LINE_CHARACTERS * sum(map(len, facts.lines)):
        yield "duplicate_lines", f"characters_in_duplicate_lines>={DUPLICATE_LINE_CHARACTERS:g}"
    longest = SHORT_LINE // (CHARACTERS_OF_A_WORD if facts.is_spaceless else 1)
    if _share(facts.lines, lambda line: len(line) < longest) >= SHORT_LINES:
        yield "short_lines", f"short_lines>={SHORT_LINES:g}"


def _share(items: list[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / len(items) if items else 0.0


COLLECTIONS: dict[str, Callable[[Facts], Iterator[Rule]]] = {"gopher": gopher, "c4": c4, "fineweb": fineweb}
"""Name of a collection of rules → the rules that a text breaks."""
