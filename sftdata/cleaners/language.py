"""Drop texts in languages that are not wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import cache

import numpy as np
import pyarrow as pa

from sftdata.cleaners._spans import Answer, answer_each, beginning, check_roles
from sftdata.errors import RecipeError, suggest
from sftdata.records import Drop
from sftdata.registry import cleaner
from sftdata.shingling import find_units

SCRIPT_LANGUAGES = ("zh", "ja", "ko")
"""Told by their characters alone, from one character on."""

_KANA = re.compile("[\u3041-\u30ff\uff66-\uff9f]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7a3]")
_CODE = re.compile(r"^(```|~~~).*?(?:^\1|\Z)|`[^`\n]+`|https?://\S+", re.MULTILINE | re.DOTALL)

KANA_SHARE = 0.1
"""Share of kana among kana and Han from which a text is Japanese: Japanese prose has a half, a Chinese text quotes a word."""

LANGUAGE_SHARE = 0.3
"""Share of a text's units (words, Han characters) from which a language counts as one of the text's."""

MOST_CHARS = 2000
"""Characters that the identifier looks at: more change nothing."""


def _check(
    *, languages: list[str], min_probability: float = 0.8, roles: list[str] | None = None, **_: object
) -> tuple[str, ...]:
    """Refuse unknown languages and roles when the recipe is read; the step reads no files."""
    check_roles("language", roles)
    if not languages:
        raise RecipeError("language: name at least one of the languages that stay")
    if not 0 < min_probability <= 1:
        raise RecipeError(f"language: min_probability is {min_probability:g}; give a number above 0, at most 1")
    known = (*SCRIPT_LANGUAGES, *identifier_languages())
    for code in languages:
        if code not in known:
            raise RecipeError(f"language: unknown language {code!r}{suggest(code, known)}; codes are those of ISO 639")
    return ()


@cleaner(batched=True, libraries=("py3langid",), assets=_check)
def language(
    spans: pa.Table, *, languages: list[str], min_probability: float = 0.8, roles: list[str] | None = None
) -> list[Answer]:
    """Drop samples with a text that is in none of the `languages`, named by ISO 639 codes as `zh`, `en`, `ja`.

    Chinese, Japanese and Korean are told by their characters, others by a naive Bayes model of byte n-grams (py3langid,
    offline). A text may have several languages, as a translation does: it stays if one of them is wanted. Code and addresses do
    not count, and what the model is not sure of, to `min_probability`, stays: `ok`, `x = 3`. Text of Han characters alone
    counts as Chinese and as Japanese. `roles` are the roles that are looked at, by default assistant, target and text.

    Raises RecipeError for unknown languages and roles.
    """
    _check(languages=languages, min_probability=min_probability, roles=roles)
    wanted = frozenset(languages)
    return answer_each(spans, roles, lambda text: _judge(text, wanted, min_probability))


def _judge(text: str, wanted: AbstractSet[str], min_probability: float) -> Answer:
    found = find_languages(_CODE.sub(" ", text[: 4 * MOST_CHARS])[:MOST_CHARS], min_probability)
    if not found or wanted & found:
        return text
    return Drop("language", "+".join(sorted(found)), beginning(text))


def find_languages(text: str, min_probability: float) -> set[str]:
    """Return the languages that a text is in for certain; none where nobody can tell."""
    units = find_units([text])
    num_units = len(units.hashes)
    if not num_units:
        return set()
    num_kana, num_han, num_hangul = (len(pattern.findall(text)) for pattern in (_KANA, _HAN, _HANGUL))
    found: set[str] = set()
    if num_kana + num_han >= LANGUAGE_SHARE * num_units:
        found = {"ja"} if num_kana >= KANA_SHARE * (num_kana + num_han) else {"zh"} if num_kana else {"zh", "ja"}
    num_words = num_units - num_kana - num_han
    if num_hangul >= LANGUAGE_SHARE * max(len(re.sub(r"\W", "", text)), 1):
        found.add("ko")
    elif num_words >= LANGUAGE_SHARE * num_units:
        code, probability = identify()(_KANA.sub(" ", _HAN.sub(" ", text)))
        if probability >= min_probability:
            found.add(code)
        elif num_words > 2 * (num_kana + num_han):
            return set()  # the greater part of the text is in a language that nobody can tell
    return found


@cache
def identify() -> Callable[[str], tuple[str, float]]:
    """Return the identifier: text → (ISO 639 code, probability). Loads its model, in about a second, once a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def classify(text: str) -> tuple[str, float]:
        code, probability = model.classify(text)
        return str(code), float(np.float64(probability))

    return classify


@cache
def identifier_languages() -> tuple[str, ...]:
    """Return the codes that the identifier knows."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return tuple(sorted(map(str, LanguageIdentifier.from_model_file(MODEL_FILE).labels)))
