"""Templates as lists of segments: correct by construction, since each text's place is known when it is written.

A template is a YAML file beside this module:

    special_tokens    tokens to add to a tokenizer that lacks them
    bos_token, eos_token    used, and added, where the tokenizer has none; `{bos}` and `{eos}` in the segments stand for them
    stop_token        what ends a turn of the assistant
    begin             the text that every dialogue begins with
    default_system    the system prompt of a dialogue that has none; `default_system_with_input`: where the first user turn is
                      an instruction with an input
    system_first      a system turn is only allowed as the first;  alternate: user and assistant must take turns, user first
    roles             role → its segments:
        before        the template's text before the turn; for the assistant it is the generation prompt
        after_system  in place of `before` where the turn follows a system turn
        lead          what a model writes between the generation prompt and its answer
        strip         the content is written without outer whitespace
        input         goes between instruction and input: the two spans of a turn that joins them by a newline
        without_input goes after the content of a turn that has no input
        after         what ends the turn: trained with it
        tail          the template's text after the turn: never trained with it
    jinja             the same template as Jinja text, saved with the tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import strict_yaml
from sftdata.errors import RecipeError, TemplateError, suggest
from sftdata.records import InvalidRecord, Turn
from sftdata.templates.render import Place, Rendered, Tools, TrainScope, assemble, span_pieces

FOLDER = Path(__file__).parent

_KEYS: dict[str, type] = {
    "special_tokens": list,
    "bos_token": str,
    "eos_token": str,
    "stop_token": str,
    "begin": str,
    "default_system": str,
    "default_system_with_input": str,
    "system_first": bool,
    "alternate": bool,
    "roles": dict,
    "jinja": str,
}
_ROLE_KEYS: dict[str, type] = {
    "before": str,
    "after_system": str,
    "lead": str,
    "strip": bool,
    "input": str,
    "without_input": str,
    "after": str,
    "tail": str,
}


class Segments(NamedTuple):
    """The texts around the turns of one role; see the module."""

    before: str = ""
    after_system: str | None = None
    lead: str = ""
    strip: bool = False
    input: str | None = None
    without_input: str = ""
    after: str = ""
    tail: str = ""


@dataclass(frozen=True)
class SegmentTemplate:
    """A template made of segments."""

    name: str
    special_tokens: tuple[str, ...]
    bos_token: str | None
    stop_token: str
    begin: str
    """What a dialogue begins with that has its own system turn …"""
    default_begin: str
    """… one that has none …"""
    default_begin_with_input: str
    """… and one that has none and whose first user turn has an input."""
    system_first: bool
    alternate: bool
    roles: Mapping[str, Segments]
    jinja: str
    source_files: tuple[Path, ...]

    def render(self, turns: Sequence[Turn], scope: TrainScope, tools: Tools = None) -> Rendered:
        """Render a dialogue. Raises InvalidRecord (`template_raised`) for turns or tools without a place in the template."""
        self._check_fields(turns, tools)
        if self.system_first or self.alternate:
            self._check_order(turns)
        texts = [self._opening(turns)]
        position = len(texts[0])
        places = []
        previous = ""
        for turn in turns:
            segments = self.roles.get(turn.role)
            if segments is None:
                raise InvalidRecord("template_raised", f"template {self.name!r} has no role {turn.role!r}")
            before, after_system, lead, strip, between, without, after, tail = segments
            if previous == "system" and after_system is not None:
                before = after_system
            previous = turn.role
            start = position + len(before)
            first = start + len(lead)
            if between is not None and turn.joint and len(turn.spans) == 2:
                content = turn.spans[0].text + between + turn.spans[1].text
                high = first + len(content)
                cut = first + len(turn.spans[0].text)
                pieces: tuple[tuple[int, int, int], ...] = ((first, cut, 0), (cut + len(between), high, 1))
            else:
                content, skipped = _written(turn, strip)
                high = first + len(content)
                pieces = span_pieces(turn, first, high, skipped)
                after = without + after
            stop = high + len(after)
            position = stop + len(tail)
            texts += (before, lead, content, after, tail)
            places.append(Place(turn, start, pieces, stop, position))
        return assemble("".join(texts), places, scope, len(self.begin))

    def with_variables(self, variables: dict[str, Any] | None) -> SegmentTemplate:
        """Return the template itself: it has no variables. Raises InvalidRecord (`template_raised`) where some are given."""
        if variables:
            raise InvalidRecord("template_raised", f"template {self.name!r} has no variables; {', '.join(variables)} was given")
        return self

    def prompt(self, turns: Sequence[Turn], tools: Tools = None) -> str:
        """Return the text of a dialogue up to where the assistant shall go on. Raises InvalidRecord."""
        text = self.render(turns, TrainScope(), tools).text
        segments = self.roles["assistant"]
        follows_system = bool(turns) and turns[-1].role == "system" and segments.after_system is not None
        return text + (segments.after_system or "" if follows_system else segments.before)

    def _opening(self, turns: Sequence[Turn]) -> str:
        if not turns:
            raise InvalidRecord("messages_empty", "a dialogue without turns")
        if turns[0].role == "system":
            return self.begin
        if self.default_begin_with_input is not self.default_begin:
            asked = next((turn for turn in turns if turn.role == "user"), None)
            if asked is not None and asked.joint and len(asked.spans) == 2:
                return self.default_begin_with_input
        return self.default_begin

    def _check_fields(self, turns: Sequence[Turn], tools: Tools) -> None:
        what = "tools" if tools else ""
        for turn in turns:
            if turn.reasoning is not None or not turn.spans or (turn.fields and turn.fields.get("tool_calls")):
                what = what or ("separate reasoning" if turn.reasoning is not None else "tool calls")
        if what:
            cure = "the tokenizer's own template may have (chat_template: tokenizer_default)"
            raise InvalidRecord("template_raised", f"template {self.name!r} has no place for {what}; {cure}")

    def _check_order(self, turns: Sequence[Turn]) -> None:
        for index, turn in enumerate(turns):
            if turn.role == "system" and index:
                raise InvalidRecord("template_raised", f"template {self.name!r} allows a system turn only as the first")
        if not self.alternate:
            return
        first = 1 if turns and turns[0].role == "system" else 0
        if len(turns) == first:
            raise InvalidRecord("template_raised", f"template {self.name!r} needs a user turn")
        for index, turn in enumerate(turns[first:]):
            expected = "assistant" if index % 2 else "user"
            if turn.role != expected:
                detail = f"template {self.name!r} needs user and assistant to take turns; turn {first + index} is {turn.role!r}"
                raise InvalidRecord("template_raised", detail)


def _written(turn: Turn, strip: bool) -> tuple[str, int]:
    """Return a turn's content as the template writes it, and how many characters it leaves out at the beginning."""
    content = turn.spans[0].text if len(turn.spans) == 1 else turn.content
    if not strip:
        return content, 0
    return content.strip(), len(content) - len(content.lstrip())


def built_in_names() -> list[str]:
    """Return the names of the built-in templates."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_segments(path: Path, *, bos_token: str | None, eos_token: str | None) -> SegmentTemplate:
    """Load a segment template for a tokenizer with these BOS and EOS tokens.

    Raises TemplateError with file and line for a key that is unknown, of the wrong type or missing.
    """
    try:
        document, lines = strict_yaml.load(path)
    except RecipeError as error:
        raise TemplateError(str(error)) from error
    if not isinstance(document, dict):
        raise TemplateError(f"{path}:1 a template is a mapping of keys")
    _check_keys(document, _KEYS, (), lines, path)
    for role, segments in document.get("roles", {}).items():
        if not isinstance(segments, dict):
            raise TemplateError(f"{path}:{lines['roles', role]} role {role!r} is no mapping of segments")
        _check_keys(segments, _ROLE_KEYS, ("roles", role), lines, path)
    for key in ("stop_token", "roles", "jinja"):
        if key not in document:
            raise TemplateError(f"{path}:1 key {key!r} is missing")
    if "assistant" not in document["roles"] or ("default_system" in document and "system" not in document["roles"]):
        raise TemplateError(f"{path}:{lines[('roles',)]} the roles lack 'assistant', or 'system' for the default system prompt")
    return _resolve(document, path, bos_token or document.get("bos_token"), eos_token or document.get("eos_token"))


def _check_keys(
    given: dict[str, Any], known: dict[str, type], place: strict_yaml.Place, lines: dict[strict_yaml.Place, int], path: Path
) -> None:
    for key, value in given.items():
        where = f"{path}:{lines[(*place, key)]}"
        if key not in known:
            raise TemplateError(f"{where} unknown key {key!r}{suggest(key, known)}")
        if type(value) is not known[key]:
            raise TemplateError(f"{where} {key!r} is {type(value).__name__}, not {known[key].__name__}")


def _resolve(document: dict[str, Any], path: Path, bos_token: str | None, eos_token: str | None) -> SegmentTemplate:
    """Put the tokenizer's BOS and EOS in the place of `{bos}` and `{eos}`."""

    def fill(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if "{eos}" in text and eos_token is None:
            raise TemplateError(f"{path}: the template writes an EOS token and the tokenizer has none; set its eos_token")
        return text.replace("{bos}", bos_token or "").replace("{eos}", eos_token or "")

    roles = {
        role: Segments(**{key: fill(value) for key, value in segments.items()}) for role, segments in document["roles"].items()
    }
    begin: str = fill(document.get("begin", ""))

    def opening(key: str, without: str) -> str:
        if key not in document:
            return without
        system = roles["system"]
        return f"{begin}{system.before}{document[key]}{system.after}{system.tail}"

    default_begin = opening("default_system", begin)
    stop_token = fill(document["stop_token"])
    if not stop_token or not roles["assistant"].after.endswith(stop_token):
        raise TemplateError(f"{path}: what follows the assistant's answer does not end in the stop token {stop_token!r}")
    used = [document.get("bos_token") and bos_token, document.get("eos_token") and eos_token, stop_token]
    tokens = dict.fromkeys([*document.get("special_tokens", []), *(token for token in used if token)])
    return SegmentTemplate(
        name=path.stem,
        special_tokens=tuple(tokens),
        bos_token=bos_token,
        stop_token=stop_token,
        begin=begin,
        default_begin=default_begin,
        default_begin_with_input=opening("default_system_with_input", default_begin),
        system_first=document.get("system_first", False),
        alternate=document.get("alternate", False),
        roles=roles,
        jinja=document["jinja"],
        source_files=(path,),
    )
