"""The tasks of a build: what each one is asked to do, and all that its result depends on.

A task's fingerprint is made from its dependencies alone: bytes read, options, files that a step reads, the project's code that
it reaches and the versions of the libraries that it names. Paths of this machine are in the specification, never in there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import environment
from sftdata.recipe import Source, StepSpec
from sftdata.recipe_dedup import kinds_of_signatures
from sftdata.recipe_loader import Loaded
from sftdata.removing import Removals
from sftdata.scanning import Part
from sftdata.shards import COLUMN_TYPES
from sftdata.step_origin import StepOrigin
from sftdata.tokenizer_origin import ChatTemplate, chat_template, folder_digest, parts_to_read, tokenizer_origin
from sftdata.work import Read, Task, code_fingerprint, fingerprint, library_version

Specification = dict[str, Any]


class Planned(NamedTuple):
    """A task with the named things that its fingerprint was made from: what changed between two builds is found by name."""

    task: Task
    depends_on: dict[str, Any]

    def reading(self, files: Iterable[Read]) -> Planned:
        """Return the task as one that reads these files outside of the work folder."""
        return self._replace(task=replace(self.task, reads=tuple(files)))


class Prepared(NamedTuple):
    """An input part with its finished Prepare task and what that returned."""

    part: Part
    task: Task
    summary: dict[str, Any]

    @property
    def content(self) -> dict[str, str]:
        """Digests of what later stages read: a cleaner whose edit changed nothing in this part redoes no more of it."""
        digests: dict[str, str] = self.summary["digests"]
        return digests


def prepare_task(
    part: Part,
    work_folder: Path,
    origin: StepOrigin,
    *,
    limit: int | None = None,
    cleaners: Sequence[StepSpec] = (),
    formatter: StepSpec | None = None,
    keep_all: bool = False,
    without: Sequence[str] = (),
) -> Planned:
    """Read one input part and clean its records; without a formatter, which says where texts are, it is only read.

    `keep_all` keeps uncleaned what the formatter cannot read; `without` are keys of records to leave out.
    """
    source = part.source
    spec = {
        "source": source.name,
        "path": str(part.file.path),
        "file": part.file.name,
        "piece": part.file.piece,
        "member": part.file.member,
        "ingest": origin.named("ingestor", source.ingest),
        "clean": [origin.named("cleaner", step) for step in cleaners],
        "format": origin.named("formatter", formatter) if formatter else None,
        "keep_all": keep_all,
        "without": list(without),
        "limit": limit,
        "allow_code": origin.allow_code,
    }
    depends_on = {
        "bytes": part.digest,
        "file name": part.file.name,
        "place in the file": part.file.piece[2:] if part.file.piece else None,
        "source name": source.name,
        "ingest": origin.identity("ingestor", source.ingest),
        **{f"clean {number} {step.name}": origin.identity("cleaner", step) for number, step in enumerate(cleaners, 1)},
        "format": origin.identity("formatter", formatter) if formatter else None,
        "keep all": keep_all,
        "limit": limit,
        **({"removed records": list(without)} if without else {}),
        "code of prepare": code_fingerprint("sftdata.preparing"),
    }
    assets = [origin.reads("ingestor", source.ingest), *(origin.reads("cleaner", step) for step in cleaners)]
    place = f" from record {part.file.piece.first_record:,}" if part.file.piece else ""
    task = _planned(work_folder, "prepare", f"{source.name} {part.file.name}{place}", spec, depends_on)
    return task.reading([part.read, *chain.from_iterable(assets)])


def _planned(work_folder: Path, stage: str, name: str, spec: Specification, depends_on: dict[str, Any]) -> Planned:
    """Return a task; one that is pinned in the work folder depends on what it leaves out as well."""
    own = fingerprint({"stage": stage, **depends_on})
    left_out = environment.read_pin(work_folder, own) if stage in environment.PINNED_STAGES else None
    if left_out is not None:
        depends_on = {**depends_on, "environment": left_out}
        spec = {**spec, "left_out": left_out, "pin": own}
    return Planned(Task(stage, name, fingerprint({"stage": stage, **depends_on}), str(work_folder), spec), depends_on)


class TaskMaker:
    """Makes the tasks of one build of a recipe in one work folder."""

    def __init__(self, loaded: Loaded, work_folder: Path, removals: Removals | None = None) -> None:
        self.loaded, self.recipe = loaded, loaded.recipe
        self.removals = removals or Removals((), ())
        self.work_folder = work_folder
        self.origin = StepOrigin(loaded.folder, loaded.allow_code)
        self._digests: dict[Path, str] = {}

    def prepare(self, part: Part, limit: int | None) -> Planned:
        """Read and clean one input part: the source's own cleaners, then the recipe's."""
        return prepare_task(
            part,
            self.work_folder,
            self.origin,
            limit=limit,
            cleaners=[*part.source.clean, *self.recipe.cleaners],
            formatter=part.source.format,
            keep_all=self.recipe.tokenize.compat is not None,
            without=self.removals.keys(part),
        )

    @property
    def signing(self) -> list[dict[str, Any]]:
        """The kinds of signatures that deduplication and the split need, each once."""
        near = self.recipe.near_duplicates
        return kinds_of_signatures([*self.recipe.dedups, *([near] if near else [])])

    def sign(self, prepared: Sequence[Prepared]) -> list[Planned]:
        """Sign every prepared part for the steps that compare more than digests of whole records; none where none does."""
        settings = self.signing
        return [self._sign(item, settings) for item in prepared] if settings else []

    def _sign(self, item: Prepared, settings: list[dict[str, Any]]) -> Planned:
        form = item.part.source.format
        spec = {
            "documents": str(item.task.entry),
            "format": self.origin.named("formatter", form),
            "allow_code": self.loaded.allow_code,
            "settings": settings,
        }
        depends_on = {
            "prepared part": item.content,
            "format": self.origin.identity("formatter", form),
            "settings": settings,
            "code of sign": code_fingerprint("sftdata.signing"),
        }
        return _planned(self.work_folder, "sign", item.task.name, spec, depends_on)

    def resolve(self, prepared: Sequence[Prepared], signed: Sequence[Planned]) -> Planned:
        """Decide over all prepared rows: duplicates and the split."""
        near = self.recipe.near_duplicates
        options = {
            "dedup": [step.decided(self.signing) for step in self.recipe.dedups],
            "near_duplicates": near.decided(self.signing) if near else None,
            "sources": [item.part.source.name for item in prepared],
            "split": self.recipe.split.model_dump(),
            "seed": self.recipe.seed,
        }
        folders = {"signed": [str(item.task.entry) for item in signed]}
        spec = {"parts": [str(item.task.entry) for item in prepared], **folders, **options}
        depends_on = {
            "prepared parts": [item.content for item in prepared],
            "signed parts": [item.task.fingerprint for item in signed],
            **options,
            "code of resolve": code_fingerprint("sftdata.resolving"),
        }
        return _planned(self.work_folder, "resolve", "all rows", spec, depends_on)

    def tokenizer(self, prepared: Sequence[Prepared], resolved: Task, kept: Sequence[str]) -> Planned:
        """Load, extend or learn the tokenizer. `kept` are digests of the rows of each part that stay."""
        spec, depends_on, reads = tokenizer_origin(self.loaded)
        numbers = parts_to_read(self.loaded, len(prepared))
        spec["sources"] = [self._texts_of(number, prepared[number]) for number in numbers]
        spec["decisions"] = str(resolved.entry)
        depends_on["texts"] = [[prepared[number].content, kept[number]] for number in numbers]
        return _planned(self.work_folder, "tokenizer", "tokenizer", spec, depends_on).reading(reads)

    def _texts_of(self, number: int, item: Prepared) -> dict[str, Any]:
        form = self.origin.named("formatter", item.part.source.format)
        return {"part": number, "documents": str(item.task.entry), "format": form, "allow_code": self.loaded.allow_code}

    def tokenize(
        self, number: int, item: Prepared, resolved: Task, kept: str, tokenizer: Task, *, engine: str = "auto"
    ) -> Planned:
        """Tokenize the rows of part `number` that stay."""
        source = item.part.source
        compat = self.recipe.tokenize.compat
        decided_later = {"excess_length"} if compat else {"sequence_len", "excess_length"}
        options = self.recipe.tokenize.model_dump(exclude=decided_later)
        spec = {
            "source": source.name,
            "documents": str(item.task.entry),
            "decisions": str(resolved.entry),
            "part": number,
            "tokenizer": str(tokenizer.entry),
            "template": self._template.name,
            "format": self.origin.named("formatter", source.format),
            "category": category_of(source),
            "tokenize": options,
            "engine": engine,
            "allow_code": self.loaded.allow_code,
        }
        depends_on = {
            "prepared part": item.content,
            "rows that stay": kept,
            "tokenizer": self._tokenizer_digest(tokenizer.entry),
            "template": self._template.identity,
            "format": self.origin.identity("formatter", source.format),
            "category": category_of(source),
            "tokenize": options,
            "engine": engine,
            "code of tokenize": code_fingerprint("sftdata.tokenizing"),
            "libraries": {name: library_version(name) for name in ("tokenizers", "fastokens", "jinja2")},
        }
        return _planned(self.work_folder, "tokenize", item.task.name, spec, depends_on).reading(self._template.reads)

    @cached_property
    def _template(self) -> ChatTemplate:
        return chat_template(self.loaded)

    def _tokenizer_digest(self, entry: Path) -> str:
        """Return the digest of the finished tokenizer's folder, which is read once for all parts."""
        if entry not in self._digests:
            self._digests[entry] = folder_digest(entry)
        return self._digests[entry]

    def plan(self, tokenized: Sequence[tuple[Prepared, Task]], resolved: Task) -> Planned:
        """Decide over all tokenized rows: truncation, order and packs."""
        recipe = self.recipe
        sources = [item.part.source for item, _ in tokenized]
        options = {
            "sources": [source.name for source in sources],
            "categories": [category_of(source) for source in sources],
            "weights": [source.model_dump(include={"name", "weight", "epochs", "max_epochs"}) for source in recipe.sources],
            "tokenize": recipe.tokenize.model_dump(include={"sequence_len", "excess_length", "compat"}),
            "mix": recipe.mix.settings(),
            "pack": recipe.pack.settings(),
            "shards": recipe.shards.model_dump(),
            "split": recipe.split.model_dump(),
            "seed": recipe.seed,
        }
        parts = [task.entry.relative_to(self.work_folder).as_posix() for _, task in tokenized]
        documents = [item.task.entry.relative_to(self.work_folder).as_posix() for item, _ in tokenized]
        where = {"work": str(self.work_folder), "parts": parts, "documents": documents, "decisions": str(resolved.entry)}
        spec = {**where, **options}
        depends_on = {
            "tokenized parts": [task.fingerprint for _, task in tokenized],
            "decisions": resolved.fingerprint,
            **options,
            "code of plan": code_fingerprint("sftdata.planning"),
        }
        return _planned(self.work_folder, "plan", "all rows", spec, depends_on)

    def gather(self, plan: Task, summary: dict[str, Any]) -> list[Planned]:
        """Fill the shards of all splits, one task a shard."""
        planned = []
        columns = shard_columns(summary["splits"])
        published = self.recipe.tokenize.compat is not None
        for split, found in summary["splits"].items():
            first = 0
            for number, num_rows in enumerate(found["shard_rows"]):
                rows = {"split": split, "first_row": first, "num_rows": num_rows, "columns": columns, "trains_first": published}
                spec = {"work": str(self.work_folder), "plan": str(plan.entry), **rows}
                depends_on = {
                    "plan": plan.fingerprint,
                    **rows,
                    "code of gather": code_fingerprint("sftdata.gathering"),
                    "pyarrow": library_version("pyarrow"),
                }
                planned.append(_planned(self.work_folder, "gather", f"{split} shard {number}", spec, depends_on))
                first += num_rows
        return planned


def shard_columns(splits: dict[str, dict[str, Any]]) -> list[str]:
    """Return the columns of all splits, which are the same: those of the training split's layout."""
    packed = splits["train"]["strategy"] != "padding"
    weighted = any(found["weighted"] for found in splits.values())
    wanted = {"input_ids", "labels", "seq_lengths" if packed else "attention_mask", *(["loss_weights"] if weighted else [])}
    return [name for name in COLUMN_TYPES if name in wanted]


def category_of(source: Source) -> str:
    """Return what mixing counts a source's rows as."""
    return source.category or source.name
