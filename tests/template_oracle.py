"""An independent account of templates for their tests: texts written piece by piece, each character with what it is.

An oracle takes turns and gives chunks (text, kind): `.` template text, `c` content that is context, `t` content that is
trained, `e` trained text of the template (stop tokens, the space before an answer). It shares no code with the project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from sftdata.records import Span, Turn
from sftdata.templates import Rendered

Chunks = list[tuple[str, str]]
Oracle = Callable[[Sequence[Turn]], Chunks]

HOSTILE = (
    "",
    " ",
    "\n\n",
    "[[x]]",
    "[[Page One]]",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|eot_id|>",
    "<end_of_turn>",
    "</s>",
    "<s>",
    "[INST]",
    "USER:",
    "{{ bos_token }}",
    "{bos}",
    "\ue000",
    "\U000f0000",
    "\U000f0001\U000f0002",
    "\U00100000",
    "皇上万福金安。",
    "　",
    "\u2028",
    "🙂",
)

contents = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=6)), max_size=4).map("".join)


def turn(role: str, text: str, **fields: Any) -> Turn:
    return Turn(role, (Span(("messages", 0, "content"), text),), **fields)


def dialogues(
    *, system: bool = True, alternate: bool = True, texts: st.SearchStrategy[str] = contents
) -> st.SearchStrategy[list[Turn]]:
    """Dialogues of one to three rounds; without `alternate`, user and assistant in any order."""
    first = st.lists(texts.map(lambda text: turn("system", text)), max_size=1) if system else st.just([])
    if alternate:
        rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
        rest = rounds.map(
            lambda pairs: [turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
        )
    else:
        rest = st.lists(st.builds(turn, st.sampled_from(("user", "assistant")), texts), min_size=1, max_size=5)
    return st.tuples(first, rest).map(lambda parts: parts[0] + parts[1])


def expected(chunks: Chunks) -> tuple[str, str]:
    """Return the text, and a string of equal length: `t` where a character is trained, `.` elsewhere."""
    text = "".join(part for part, _ in chunks)
    return text, "".join(("t" if kind in "te" else ".") * len(part) for part, kind in chunks)


def expected_content(chunks: Chunks) -> str:
    """Return a string as long as the text: `c` where a character came from the record, `.` elsewhere."""
    return "".join(("c" if kind in "ct" else ".") * len(part) for part, kind in chunks)


def trained_mask(rendered: Rendered) -> str:
    """Return what a render trains, in the form of `expected`; fails on intervals that are not sorted and disjoint."""
    return _painted(rendered, rendered.trained, "t")


def content_mask(rendered: Rendered) -> str:
    """Return where a render has content, in the form of `expected_content`."""
    return _painted(rendered, [(low, high) for low, high, _ in rendered.content], "c")


def _painted(rendered: Rendered, intervals: Sequence[tuple[int, int]], letter: str) -> str:
    mask = ""
    for low, high in intervals:
        assert len(mask) <= low < high <= len(rendered.text)
        mask += "." * (low - len(mask)) + letter * (high - low)
    return mask + "." * (len(rendered.text) - len(mask))


def as_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return turns as `apply_chat_template` takes them; an instruction with an input becomes two text parts."""
    messages: list[dict[str, Any]] = []
    for one in turns:
        content: Any = one.content
        if one.joint and len(one.spans) == 2:
            content = [{"type": "text", "text": span.text} for span in one.spans]
        messages.append({"role": one.role, "content": content})
    return messages
