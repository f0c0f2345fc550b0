"""Whose voice a place of a text speaks in: code, quotations and reported speech are not the writer's own."""

from __future__ import annotations

import re

PROTECTED = re.compile(
    r"""(?=[`~“「『《«"＂&‘'>])(?:                                                # one look at most characters
      ```.*?(?:```|\Z) | ~~~.*?(?:~~~|\Z) | `[^`\n]+`                       # code
    | “[^“”]{0,4000}” | 「[^「」]{0,4000}」 | 『[^『』]{0,4000}』 | 《[^《》\n]{0,200}》 | «[^«»]{0,4000}»
    | (?<![0-9A-Za-z])"[^"\n]{0,4000}" | ＂[^＂\n]{0,4000}＂ | &quot;.{0,4000}?&quot;
    | (?<!\w)‘(?:[^‘’\n]|(?<=\w)’(?=\w)){0,2000}’(?!\w)                     # an apostrophe inside does not close
    | (?<!\w)'(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){0,2000}'(?!\w)
    | ^>.*?$                                                                # quoted lines
    )""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
"""Code and quotations of a raw text, in which no rule fires."""

_SAID = "(?:said|says|replied|replies|wrote|writes|answered|answers|explained|admitted|whispered|muttered|added|insisted|told)"
_SAID_ZH = (
    r"(?:(?<![上来般底言话实白单格地以直之])说道?|答道|回答说?|自嘲道?|写道|想道?|心想|喊道|笑道|叹道"
    r"|解释道?|坦言|(?:摇头|点头|冷笑|苦笑|低声|轻声)(?:道|说))"
)
_TO_WHOM = r"(?=[ ]?(?:[.,;!?]|$|\n|(?:to|on|in|with|when|after|me|him|her|us|them|the|reporters)\b))"

REPORTED_AFTER = re.compile(
    rf"""
      ,[ ](?!i\b|i've|you\b|we\b|as\b)(?:(?:the|my|his|her|a)[ ]\w+(?:[ ]\w+)?|\w+)[ ]{_SAID}{_TO_WHOM}     # , the clerk said
    | ,[ ]{_SAID}[ ](?:he|she|they|the|my|his|her|a|an|mr|mrs|ms|dr|\w+[.,])(?!\w)                         # , said the clerk
    | ,[^\W\d我你您咱不无没]{{1,6}}{_SAID_ZH}(?=[,。!]|$|\n)                                                 # ，店员说。
    """,
    re.VERBOSE,
)
"""In the rest of a folded sentence: another one said it (`, she said.`, `，证人说。`)."""

REPORTED_BEFORE = re.compile(
    rf"(?:\b(?:he|she|they|the \w+) {_SAID}(?: that)?[:,]? |(?<![我你您咱\w])[^\W\d我你您咱]{{1,6}}{_SAID_ZH}[:,])$"
)
"""At the end of what stands before the match in a folded text: another one says it."""

REPORTED_CHARS = 60
"""Characters before a match in which the one who speaks is looked for."""


def is_reported(text: str, start: int, end: int, sentence_end: int) -> bool:
    """Return whether a folded match, in a sentence that ends at `sentence_end`, is what somebody else is said to have said."""
    if REPORTED_BEFORE.search(text[max(0, start - REPORTED_CHARS) : start]):
        return True
    return REPORTED_AFTER.search(text, end, sentence_end) is not None
