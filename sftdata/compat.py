"""Four published scripts, as they tokenize: `tokenize.compat` asks for one of them, defects included.

Each takes a batch of raw records and gives for every one its ids and which of them are trained, None where the script drops the
record, or an InvalidRecord where it raises. docs/compat.md lists what each does otherwise than the default.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from sftdata.errors import TokenizerError
from sftdata.records import InvalidRecord

Record = dict[str, Any]
Span = tuple[int, int]


class Tokens(NamedTuple):
    """A tokenized record: its ids, and the half-open ranges of them that are trained."""

    ids: list[int]
    trained: list[Span]


Outcome = Tokens | InvalidRecord | None


class Tokenizer:
    """A tokenizer as the scripts call it."""

    def __init__(self, tokenizer: Any, bos_token: str | None, eos_token: str | None) -> None:
        """Wrap a `tokenizers.Tokenizer`. Raises TokenizerError where it has no BOS or EOS."""
        if not bos_token or not eos_token:
            cure = "set them in its tokenizer_config.json"
            raise TokenizerError(f"tokenize.compat needs a tokenizer with bos_token and eos_token; {cure}")
        self._tokenizer = tokenizer
        self.bos_token, self.eos_token = bos_token, eos_token
        self.bos_id = tokenizer.token_to_id(self.bos_token)
        self.eos_id = tokenizer.token_to_id(eos_token)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, in which special tokens act, with nothing put before or after."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_truncated(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Return at most `limit` ids of each text, with what the tokenizer itself puts before and after it."""
        self._tokenizer.enable_truncation(limit)
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=True)]
        finally:
            self._tokenizer.no_truncation()

    def recognise_eos(self) -> None:
        """Find EOS in the raw text, also where the tokenizer looks for it in the normalised one."""
        from tokenizers import AddedToken

        self._tokenizer.add_special_tokens([AddedToken(self.eos_token, special=True, normalized=False)])


def _text(record: Record, name: str) -> str:
    if name not in record or type(record[name]) is not str:
        raise InvalidRecord.for_field(record, name)
    text: str = record[name]
    return text


def tinystories(tokenizer: Tokenizer, records: Sequence[Record], fields: Record, limit: int) -> list[Outcome]:
    """Keep the last `limit` − 1 ids of a text and put EOS after them; all are trained. No BOS.

    The notebook of "TinyStories mini LLaMA-3" (Mxoder): its slice keeps everything where `limit` is 1.
    """

    def read(record: Record) -> str:
        return _text(record, fields.get("text", "text"))

    def tokens(_: str, ids: list[int]) -> Outcome:
        kept = [*ids[-limit + 1 :], tokenizer.eos_id]
        return Tokens(kept, [(0, len(kept))])

    return _each(records, read, lambda texts: zip(texts, tokenizer.encode(texts), strict=True), tokens)


def colossal_pretrain(tokenizer: Tokenizer, records: Sequence[Record], fields: Record, limit: int) -> list[Outcome]:
    """Encode BOS, source, target and EOS as one text; train what follows as many tokens as BOS and source alone have.

    Without a source all is trained, BOS too. Both lists are then cut at `limit`, EOS or not. A record needs a `category`.
    Colossal-LLaMA's `supervised_tokenize_pretrain` (hpcaitech/ColossalAI, 4f9953b).
    """
    bos = tokenizer.bos_token

    def read(record: Record) -> tuple[str, str]:
        source, target = _text(record, fields.get("source", "source")), _text(record, fields.get("target", "target"))
        if "category" not in record:
            raise InvalidRecord.for_field(record, "category")
        return source, bos + source + target + tokenizer.eos_token

    def encode(pairs: list[tuple[str, str]]) -> Any:
        whole = tokenizer.encode([text for _, text in pairs])
        prompts = tokenizer.encode([bos + source for source, _ in pairs])
        return zip([source for source, _ in pairs], zip(whole, prompts, strict=True), strict=True)

    def tokens(source: str, encoded: tuple[list[int], list[int]]) -> Outcome:
        ids = encoded[0][:limit]
        first = len(encoded[1]) if source else 0
        return Tokens(ids, [(min(first, len(ids)), len(ids))])

    return _each(records, read, encode, tokens)


ATOM_QUESTION = "请回答用户问题: "
"""Stands between instruction and input in Atom's prompt."""


def atom_lora(tokenizer: Tokenizer, records: Sequence[Record], fields: Record, limit: int) -> list[Outcome]:
    """Encode Atom's prompt and the answer apart, each cut at `limit`; EOS after them, and the whole cut at `limit`.

    What the tokenizer adds stands before the BOS that the prompt begins with. The last token of the prompt is trained, too.
    self-llm, models/Atom/02-Atom-7B-Chat-Lora/train.py (0932a89).
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token

    def read(record: Record) -> tuple[str, str]:
        asked, given = (_text(record, fields.get(name, name)) for name in ("instruction", "input"))
        prompt = f"{bos}Human: {asked}{ATOM_QUESTION}{given}\n{eos}{bos}Assistant:"
        return prompt, _text(record, fields.get("output", "output"))

    def encode(pairs: list[tuple[str, str]]) -> Any:
        prompts = tokenizer.encode_truncated([prompt for prompt, _ in pairs], limit)
        return zip(prompts, tokenizer.encode([answer for _, answer in pairs]), strict=True)

    def tokens(prompt: list[int], answer: list[int]) -> Outcome:
        ids = [*prompt, *answer[:limit], tokenizer.eos_id][:limit]
        return Tokens(ids, [(max(len(prompt) - 1, 0), len(ids))])

    return _each(records, read, encode, tokens)


COLOSSAL_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n\n"
)
COLOSSAL_ROLES = {"human": "Human", "assistant": "Assistant"}


def colossal_sft(tokenizer: Tokenizer, records: Sequence[Record], fields: Record, limit: int) -> list[Outcome]:
    """Keep the turns, in pairs, that fit into `limit` − 1 tokens; train every second stretch from a BOS id to an EOS id.

    Roles other than human and assistant are refused; a last message without its pair is left out. A record is dropped where no
    pair fits, and where the number of BOS or EOS ids among the tokens is not what its turns should have: an empty content and
    most special tokens in contents do that. `system` of the formatter replaces the system text.
    Colossal-LLaMA's `supervised_tokenize_sft` with `LLaMA2_Conv` (hpcaitech/ColossalAI, 4f9953b).
    """
    tokenizer.recognise_eos()

    def read(record: Record) -> tuple[str, list[str]]:
        messages = [_colossal_message(message) for message in _messages(record, fields)]
        system = COLOSSAL_SYSTEM if "system" not in fields else record.get(fields["system"], COLOSSAL_SYSTEM)
        texts = [f"{COLOSSAL_ROLES[role]}: {tokenizer.bos_token}{content}" for role, content in messages]
        ended = [text + tokenizer.eos_token * bool(content) for text, (_, content) in zip(texts, messages, strict=True)]
        return messages[0][0] if messages else "", list(accumulate(ended, initial=system))[2::2]

    def encode(found: list[tuple[str, list[str]]]) -> Any:
        encoded = iter(tokenizer.encode([prompt for _, prompts in found for prompt in prompts]))
        return ((role, [next(encoded) for _ in prompts]) for role, prompts in found)

    def tokens(first_role: str, prompts: list[list[int]]) -> Outcome:
        num_pairs = bisect_right(prompts, limit - 1, key=len)
        if not num_pairs:
            return None
        ids = prompts[num_pairs - 1]
        first = 0 if first_role == "assistant" else 1
        starts = [place for place, token in enumerate(ids) if token == tokenizer.bos_id][first::2]
        ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_id][first::2]
        if len(starts) != num_pairs or len(ends) != num_pairs:
            return None
        return Tokens([tokenizer.bos_id, *ids], [(low + 1, high + 2) for low, high in zip(starts, ends, strict=True)])

    return _each(records, read, encode, tokens)


def _messages(record: Record, fields: Record) -> list[Any]:
    name = fields.get("messages") or "messages"
    messages = record.get(name)
    if isinstance(messages, list):
        return messages
    if name not in record:
        raise InvalidRecord.for_field(record, name)
    raise InvalidRecord("field_type", f"field {name!r} is no list")


def _colossal_message(message: Any) -> tuple[str, str]:
    """Return role and content of a message; null counts as empty."""
    if not isinstance(message, dict):
        raise InvalidRecord("field_type", "a message is no object")
    role = _text(message, "from").lower()
    if role not in COLOSSAL_ROLES:
        raise InvalidRecord("messages_role", f"unsupported role {role!r}")
    return role, "" if message.get("content", 0) is None else _text(message, "content")


def _each(
    records: Sequence[Record], read: Callable[[Record], Any], encode: Callable[[list[Any]], Any], tokens: Callable[..., Outcome]
) -> list[Outcome]:
    """Read every record, encode what could be read as one batch, and make tokens of it."""
    outcomes: list[Outcome] = [None] * len(records)
    found: list[tuple[int, Any]] = []
    for number, record in enumerate(records):
        try:
            found.append((number, read(record)))
        except InvalidRecord as error:
            outcomes[number] = error
    for (number, _), encoded in zip(found, encode([value for _, value in found]), strict=True):
        outcomes[number] = tokens(*encoded)
    return outcomes


class Script(NamedTuple):
    """A published script."""

    formatter: str
    """The formatter whose options name the record's fields."""
    tokenize: Callable[[Tokenizer, Sequence[Record], Record, int], list[Outcome]]


SCRIPTS = {
    "colossal_pretrain": Script("source_target", colossal_pretrain),
    "colossal_sft": Script("messages", colossal_sft),
    "atom_lora": Script("instruction", atom_lora),
    "tinystories": Script("text", tinystories),
}
"""The values of `tokenize.compat`."""
