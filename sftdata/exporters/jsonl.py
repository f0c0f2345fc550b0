"""JSON Lines: the texts of the samples, as dialogues in the form of OpenAI or of ShareGPT."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

from sftdata import storage
from sftdata.exporters._job import Job, Outcome, write_readme
from sftdata.exporters._texts import Texts
from sftdata.record_json import canonical
from sftdata.records import Example, Turn
from sftdata.shards import Split
from sftdata.storage import HashingFile

FORMS = ("openai", "sharegpt")
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
BUFFER = 1 << 20
"""Bytes that are written at once."""

SUFFIXES = {"dialogue": "", "pair": ".pairs", "text": ".text"}
"""Kind of sample → what the name of its file has before `.jsonl`."""

TAGS = {
    "openai": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
               "system_tag": "system", "observation_tag": "tool"},
    "sharegpt": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
                 "system_tag": "system", "observation_tag": "observation"},
}  # fmt: skip
"""How LLaMA-Factory's `dataset_info.json` describes the forms: its README calls both `sharegpt`, with tags."""

USAGE = """
`SPLIT.jsonl` holds the dialogues, `SPLIT.pairs.jsonl` samples of a prompt and its completion, `SPLIT.text.jsonl` plain texts:
each file is there where the build has such samples, and `load_dataset` opens them as `dialogue`, `pair` and `text`. Texts are
those that the build tokenized, after cleaning, to the letter; a sample of which it kept a part that ends inside a turn is left
out, as are segments with flags of their own and, in the form of ShareGPT, dialogues with tools, calls or reasoning.
`dataset_info.json` is the entry that LLaMA-Factory needs; axolotl takes the files with `type: chat_template`, TRL as they
are.
"""


def export_jsonl(job: Job) -> Outcome:
    """Write the texts of the samples as JSON Lines, one sample a line, in the order of the shards."""
    texts = Texts(job)
    counts: dict[str, dict[str, int]] = {}
    names: dict[str, list[str]] = {kind: [] for kind in SUFFIXES}
    for split in job.shards.splits.values():
        counts[split.name] = _write_split(job, texts, split)
        for kind in SUFFIXES:
            if counts[split.name][f"{kind}s"]:
                names[kind].append(split.name)
    _write_cards(job, names)
    return Outcome(counts, _notes(counts))


def _write_split(job: Job, texts: Texts, split: Split) -> dict[str, int]:
    counts = Counter({name: 0 for name in (*(f"{kind}s" for kind in SUFFIXES), "cut", "unsayable", "unsaid_flags")})
    with ExitStack() as stack:
        lines: dict[str, _Lines] = {}
        for example in texts.read(split):
            if example is None:
                counts["cut"] += 1
                continue
            if not _can_say(example, job.form):
                counts["unsayable"] += 1
                continue
            kind = _kind(example)
            if kind not in lines:
                path = job.folder / f"{split.name}{SUFFIXES[kind]}.jsonl"
                lines[kind] = _Lines(stack.enter_context(storage.create(path)))
            lines[kind].append(_record(example, kind, job.form))
            counts[f"{kind}s"] += 1
            counts["unsaid_flags"] += kind == "dialogue" and _has_unsaid_flags(example, job.form)
        for opened in lines.values():
            opened.flush()
    return dict(counts)


class _Lines:
    """Lines on their way into a file."""

    def __init__(self, file: HashingFile) -> None:
        self._file = file
        self._held = bytearray()

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        self._held += canonical(record).encode() + b"\n"
        if len(self._held) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        self._file.write(bytes(self._held))
        self._held.clear()


def _kind(example: Example) -> str:
    if example.chat:
        return "dialogue"
    return "text" if len(example.turns) == 1 else "pair"


def _record(example: Example, kind: str, form: str) -> dict[str, Any]:
    turns = example.turns
    if kind == "text":
        return {"text": turns[0].content}
    if kind == "pair":
        return {"prompt": "".join(turn.content for turn in turns[:-1]), "completion": turns[-1].content}
    if form == "sharegpt":
        return {"conversations": [{"from": SPEAKERS[turn.role], "value": turn.content} for turn in turns]}
    record: dict[str, Any] = {"messages": [_message(turn) for turn in turns]}
    if example.tools:
        record["tools"] = example.tools
    if example.variables:
        record["chat_template_kwargs"] = example.variables
    return record


def _can_say(example: Example, form: str) -> bool:
    """Say whether a form has words for a sample: segments of a text are no dialogue, and ShareGPT knows turns of text alone."""
    if example.verbatim:
        return False
    plain = all(turn.spans and turn.reasoning is None and not turn.fields for turn in example.turns)
    return form == "openai" or (plain and not example.tools and not example.variables)


def _message(turn: Turn) -> dict[str, Any]:
    """Return an OpenAI message; `weight: 0` keeps an assistant's message out of the loss, as their fine-tuning takes it."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content if turn.spans else None, **(turn.fields or {})}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning.text
    return {**message, "weight": 0} if _is_untrained(turn) and turn.role == "assistant" else message


def _is_untrained(turn: Turn) -> bool:
    return not turn.parts and (turn.train is False or turn.weight == 0)


def _has_unsaid_flags(example: Example, form: str) -> bool:
    """Say whether a turn carries a flag about its training that the form has no word for."""
    return any(_is_unsaid(turn, form) for turn in example.turns)


def _is_unsaid(turn: Turn, form: str) -> bool:
    if turn.reasoning_flags is not None:
        return True
    if not turn.parts and turn.train is None and turn.weight == 1.0:
        return False
    said = form == "openai" and not turn.parts and turn.role == "assistant" and (turn.train is False or turn.weight in (0, 1))
    return not said


def _write_cards(job: Job, names: dict[str, list[str]]) -> None:
    configs: list[dict[str, Any]] = [
        {"config_name": kind, "data_files": [{"split": split, "path": f"{split}{SUFFIXES[kind]}.jsonl"} for split in splits]}
        for kind, splits in names.items()
        if splits
    ]
    if configs:
        configs[0]["default"] = True
    write_readme(job.folder, f"{job.shards.manifest['name']} as JSON Lines", USAGE, {"configs": configs})
    column = "messages" if job.form == "openai" else "conversations"
    entries = {
        f"{job.shards.manifest['name']}_{split}": {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": column},
            "tags": TAGS[job.form],
        }
        for split in names["dialogue"]
    }
    storage.write_json(job.folder / "dataset_info.json", entries)


def _notes(counts: dict[str, dict[str, int]]) -> list[str]:
    notes = []
    for split, found in counts.items():
        if found["cut"]:
            notes.append(f"{split}: {found['cut']:,} samples are left out: the build cut them inside a turn")
        if found["unsayable"]:
            notes.append(f"{split}: {found['unsayable']:,} samples are left out: this form has no words for what they hold")
        if found["unsaid_flags"]:
            notes.append(f"{split}: {found['unsaid_flags']:,} dialogues have loss flags or weights that this form cannot say")
    return notes
