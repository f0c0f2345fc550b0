"""What the slop rules find, what they leave alone, and how fast they match.

    python benchmarks/slop.py [--corpus FILE] [--human FILE...] [--num-phrases 5000] [--megabytes 8] [--repeats 3]

Precision and recall of what would be lost (drops and masks), on `tests/slop_sentences.jsonl`, which is our own, and on a
labelled corpus of conversations (`lang`, `label`, `borderline`, `messages`) where one is named. `--human` names texts that no
model wrote (a text a line, JSON Lines with `text`, or JSON objects with `articleBody` or `output`): the share that a rule
drops. Speed: CPU seconds of one process over those, over the README and docs (English, of models throughout) and over the
bundled dialogues (Chinese), each repeated to `--megabytes` of UTF-8 and cut into texts of 2,000 characters, with the built-in
rules and with `--num-phrases` further phrases. The best of `--repeats` counts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import sftdata
from sftdata.cleaners._matching import build_matcher
from sftdata.cleaners._packs import load_packs, pack_files
from sftdata.cleaners._rules import Pack, Rule
from sftdata.cleaners.slop import slop
from sftdata.records import Drop, Edit, Mark
from sftdata.schemas import SPANS

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT_CHARS = 2000

Turn = tuple[str, str]


def main() -> None:
    """Print the version and the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--human", type=Path, nargs="*", default=[])
    parser.add_argument("--num-phrases", type=int, default=5000)
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"sftdata {sftdata.__version__}")
    own = [json.loads(line) for line in read(REPOSITORY / "tests" / "slop_sentences.jsonl").splitlines()]
    show_scores("own sentences", [(row["lang"], row["slop"], dialogue_of(row)) for row in own])
    if arguments.corpus:
        rows = [json.loads(line) for line in read(arguments.corpus).splitlines()]
        wanted = [row for row in rows if not row["borderline"]]
        turns = [[(message["role"], message["content"]) for message in row["messages"]] for row in wanted]
        show_scores("corpus", [(row["lang"], row["label"] == "slop", said) for row, said in zip(wanted, turns, strict=True)])
    human = []
    for path in arguments.human:
        texts = list(human_texts(path))
        human += texts
        num_hit = sum(map(any, lost([[("text", text)] for text in texts])))
        print(f"human {path.name}: {num_hit} of {len(texts):,} dropped ({num_hit / max(len(texts), 1):.3%})")
    english = "\n".join(read(path) for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))))
    chinese = read(REPOSITORY / "recipes" / "data" / "zhenhuan" / "dialogue.jsonl")
    named = {"README and docs": english, "bundled dialogues": chinese, **({"human texts": "\n".join(human)} if human else {})}
    show_speed(named, arguments.num_phrases, arguments.megabytes, arguments.repeats)


def read(path: Path) -> str:
    """Return a text file."""
    return path.read_text(encoding="utf-8")


def dialogue_of(row: dict[str, Any]) -> list[Turn]:
    """Return the two turns of one of our own sentences."""
    return [("user", row["prompt"]), ("assistant", row["answer"])]


def human_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file."""
    if path.suffix == ".json":
        found = json.loads(read(path))
        for row in found.values() if isinstance(found, dict) else found:
            yield row.get("articleBody") or row.get("output") or row.get("text") or ""
    else:
        for line in filter(str.strip, read(path).splitlines()):
            yield json.loads(line)["text"] if path.suffix == ".jsonl" else line


def lost(dialogues: Sequence[Sequence[Turn]]) -> list[list[bool]]:
    """Return for each turn of each dialogue whether a rule takes it, or part of it, out of training."""
    places = [(row, "text", turn, *said) for row, dialogue in enumerate(dialogues) for turn, said in enumerate(dialogue)]
    table = pa.table([pa.array(column) for column in zip(*places, strict=True)], names=SPANS.names).cast(SPANS)
    found: list[list[bool]] = [[] for _ in dialogues]
    for (row, *_), answer in zip(places, slop(table), strict=True):
        found[row].append(isinstance(answer, Drop | Edit) or (isinstance(answer, Mark) and answer.kind == "mask_loss"))
    return found


def show_scores(name: str, rows: Sequence[tuple[str, bool, Sequence[Turn]]]) -> None:
    """Print precision and recall by language."""
    counts: Counter[tuple[str, bool, bool]] = Counter()
    for (language, is_slop, _), hits in zip(rows, lost([said for *_, said in rows]), strict=True):
        counts[language, is_slop, any(hits)] += 1
    for language in sorted({language for language, *_ in counts}):
        right, wrong, missed = (counts[language, *kind] for kind in ((True, True), (False, True), (True, False)))
        figures = f"precision {right / (right + wrong):.3f}, recall {right / (right + missed):.3f}"
        print(f"{name} {language}: {figures} ({right + missed} slop, {wrong + counts[language, False, False]} not)")


def show_speed(named: dict[str, str], num_phrases: int, megabytes: float, repeats: int) -> None:
    """Print megabytes a CPU second by name of the text."""
    packs = load_packs(pack_files(["en", "zh"]))
    for label, chosen in (("built-in rules", packs), (f"and {num_phrases:,} phrases", (*packs, phrase_pack(num_phrases)))):
        matcher = build_matcher(chosen)
        for name, text in named.items():
            text *= int(megabytes * 1e6 / len(text.encode())) + 1
            texts = [text[first : first + TEXT_CHARS] for first in range(0, len(text), TEXT_CHARS)]
            size = len(text.encode()) / 1e6
            best = min(seconds_of(matcher, texts) for _ in range(repeats))
            print(f"{label}, {name}: {size / best:.1f} MB/s")


def seconds_of(matcher: Any, texts: Sequence[str]) -> float:
    """Return CPU seconds of a scan."""
    begin = time.process_time()
    for _ in matcher.scan(texts):
        pass
    return time.process_time() - begin


def phrase_pack(num_phrases: int) -> Pack:
    """Return a pack with one literal rule for each of so many phrases of two to four made-up words."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(3, 8))) for _ in range(3000)]
    phrases: dict[str, None] = {}
    while len(phrases) < num_phrases:
        phrases[" ".join(source.sample(words, source.randint(2, 4)))] = None
    common: dict[str, Any] = {
        "category": "style_slop", "kind": "literal", "regex": None, "beside": None, "beside_phrases": (), "sentences": 1,
        "boundary": "word", "where": "anywhere", "roles": (),
        "severity": 1.0, "action": "flag", "weight": 0.3, "density": 0.0, "source": "", "must_fire": (),
        "must_not_fire": (),
    }  # fmt: skip
    rules = tuple(Rule(id=f"made.{number}", patterns=(phrase,), **common) for number, phrase in enumerate(phrases))
    return Pack("made", "en", Path(), rules, ())


if __name__ == "__main__":
    main()
