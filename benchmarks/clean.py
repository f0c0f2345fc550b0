"""Figures of cleaning: rule matching, MinHash beside datasketch, recall on planted near-copies, memory by number of rows.

    python benchmarks/clean.py [--data FILE.json ...] [--rows 250000 --rows 1000000] [--rounds 3]

Texts are the records of `--data` (JSON arrays), by default the bundled dialogues, repeated until there is enough. Times are
processor seconds of one process, the best of `--rounds`. datasketch is compared where it is installed, on the same words.
Memory is the peak of processes of their own that sign and resolve so many short rows, a tenth of them near-copies; what 10
million rows take is drawn through the two largest sizes, and said to be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
import yaml

from sftdata.cleaners.slop import slop
from sftdata.dedup.minhash import band_keys, choose_bands, signatures
from sftdata.entries import DOCUMENTS_FILE, KEYS_FILE, signed_name
from sftdata.recipe_dedup import Dedup, kinds_of_signatures
from sftdata.resolving import resolve
from sftdata.schemas import DOCUMENT, KEYS, SPANS
from sftdata.shingling import Sets, find_grams, find_units, shingle_sets
from sftdata.signing import sign_part
from sftdata.tables import stream_writer

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = 5_000
PERMUTATIONS = 128
THRESHOLD = 0.8
SIMULATED = 10_000_000
PART_ROWS = 50_000


def main() -> None:
    """Print all figures, or carry out one measurement of memory for the process that asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", help="JSON array of records with texts")
    parser.add_argument("--rows", type=int, action="append", help="short rows to sign and resolve (default: 100000 and 400000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the best counts (default: %(default)s)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(resolve_rows(arguments.memory_of)))
        return
    packages = ("numpy", "pyarrow", "ahocorasick-rs", "datasketch")
    print(f"Python {platform.python_version()}, {platform.machine()}; " + ", ".join(map(version, packages)))
    texts = read_texts(arguments.data or [ROOT / "recipes" / "data" / "zhenhuan" / "dialogue.jsonl"])
    time_matching(texts, arguments.rounds)
    time_minhash(arguments.rounds)
    measure_recall()
    measure_memory(sorted(arguments.rows or [100_000, 400_000]))


def version(package: str) -> str:
    """Return a package with its version, or that it is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Return all texts of the records in JSON arrays or JSON Lines."""
    texts: list[str] = []
    for path in paths:
        content = path.read_text(encoding="utf-8")
        records = json.loads(content) if content.lstrip()[:1] == "[" else read_lines(content)
        texts += [value for record in records for value in record.values() if isinstance(value, str) and value]
    return texts


def read_lines(content: str) -> list[dict[str, Any]]:
    """Return the lines that are JSON objects: the bundled file has some that are not."""
    found = []
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def best_of(rounds: int, run: Callable[[], Any]) -> float:
    """Return the processor seconds of the fastest run."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def time_matching(texts: list[str], rounds: int) -> None:
    """Print how many megabytes of text a second the rules see: those that are built in, and 5,000 phrases beside them."""
    copies = -(-(8 << 20) // sum(len(text.encode()) for text in texts))
    many = texts * copies
    size = sum(len(text.encode()) for text in many) / 1e6
    number = len(many)
    spans = pa.table([range(number), ["f"] * number, [0] * number, ["text"] * number, many], schema=SPANS)
    print(f"\nrules, {size:.0f} MB in {len(many):,} texts")
    with tempfile.TemporaryDirectory() as folder:
        for name, packs in (("built in", []), (f"and {PATTERNS:,} phrases", [str(write_pack(Path(folder), texts))])):
            seconds = best_of(rounds, lambda packs=packs: slop(spans, extra_packs=packs))
            print(f"  {name}: {size / seconds:.1f} MB/s")


def write_pack(folder: Path, texts: list[str]) -> Path:
    """Write a pack of phrases that look like the texts, but are not in them."""
    rng = random.Random(1)
    alphabet = sorted({char for text in texts for char in text if char.isalpha()})
    phrases = {"".join(rng.choices(alphabet, k=rng.randint(4, 9))) for _ in range(PATTERNS)}
    words = {" ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(3)) for _ in range(PATTERNS)}
    literal = [*sorted(phrases)[: PATTERNS // 2], *sorted(words)[: PATTERNS // 2]]
    rule = {
        "id": "bench.phrases", "category": "style_slop", "literal": literal, "boundary": "none", "action": "flag",
        "source": "drawn at random", "must_fire": [f"so {literal[-1]} it is"], "must_not_fire": ["nothing of the kind"],
    }  # fmt: skip
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump({"id": "bench", "version": 1, "language": "en", "rules": [rule]}, allow_unicode=True))
    return path


def draw_documents(number: int) -> list[str]:
    """Return documents of 160 words, about 1 KB each."""
    rng = random.Random(2)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    return [" ".join(rng.choices(vocabulary, k=160)) for _ in range(number)]


def sets_of(texts: list[str]) -> Sets:
    """Return the shingles of texts."""
    number = len(texts)
    owner, salt = np.arange(number), np.zeros(number, dtype=np.uint64)
    return shingle_sets(texts, owner, salt, np.ones(number, dtype=bool), num_sets=number, size=5)


def time_minhash(rounds: int) -> None:
    """Print documents a second, from text to signatures, of this project and of datasketch."""
    documents = draw_documents(4_000)
    bands = choose_bands(THRESHOLD, PERMUTATIONS)

    def ours() -> None:
        for first in range(0, len(documents), 1_000):
            band_keys(signatures(sets_of(documents[first : first + 1_000]), num_permutations=PERMUTATIONS), bands)

    rate = len(documents) / best_of(rounds, ours)
    print(f"\nMinHash, {len(documents):,} documents of 1 KB, {PERMUTATIONS} permutations, shingles of 5 words")
    print(f"  from text to bands: {rate:,.0f} documents/s")
    if importlib.util.find_spec("datasketch") is None or importlib.util.find_spec("scipy") is None:
        print("  datasketch is not installed: it was not run")
        return
    from datasketch import MinHash

    few = documents[:300]

    def theirs() -> None:
        for text in few:
            words = text.split()
            shingles = {" ".join(words[place : place + 5]).encode() for place in range(len(words) - 4)}
            MinHash(num_perm=PERMUTATIONS).update_batch(list(shingles))

    other = len(few) / best_of(rounds, theirs)
    print(f"  datasketch from text to signature: {other:,.0f} documents/s; {rate / other:.1f} times as many")


def measure_recall() -> None:
    """Print how many planted near-copies are found, by similarity, and how many pairs below the threshold."""
    rng = random.Random(3)
    documents = draw_documents(2_000)
    copies = [vary(text, rng) for text in documents]
    everything = [*documents, *copies]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = write_parts(folder, [{"text": text} for text in everything])
        found = pairs_found(folder, step, len(everything))
    shingles = [set(grams.tolist()) for grams in map(grams_of, everything)]
    bins: dict[str, list[bool]] = {"0.80–0.82": [], "0.82–0.90": [], "0.90–1.00": [], "below 0.80": []}
    for number in range(len(documents)):
        one, other = shingles[number], shingles[number + len(documents)]
        similarity = len(one & other) / len(one | other)
        borders = (("0.90–1.00", 0.9), ("0.82–0.90", 0.82), ("0.80–0.82", 0.8), ("below 0.80", 0.0))
        bins[next(name for name, least in borders if similarity >= least)].append((number, number + len(documents)) in found)
    print(f"\nrecall on planted near-copies, threshold {THRESHOLD:g}")
    for title, hits in bins.items():
        print(f"  similarity {title}: {sum(hits)} of {len(hits)} found ({sum(hits) / max(len(hits), 1):.4f})")


def vary(text: str, rng: random.Random) -> str:
    """Return a text with one to eight of its words exchanged: one changes up to five of 156 shingles."""
    words = text.split()
    for place in rng.sample(range(len(words)), rng.randint(1, 8)):
        words[place] = f"other{rng.randint(0, 10**6)}"
    return " ".join(words)


def grams_of(text: str) -> Any:
    """Return the hashes of a text's shingles."""
    return find_grams(find_units([text]), 5).hashes


def write_parts(folder: Path, records: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Write records as prepared parts and sign them; return what Resolve takes."""
    step = Dedup(method="minhash", threshold=THRESHOLD)
    kinds = kinds_of_signatures([step])
    parts, signed = [], []
    for number, first in enumerate(range(0, len(records), PART_ROWS)):
        mine = records[first : first + PART_ROWS]
        part, signatures_folder = folder / f"part{number}", folder / f"signed{number}"
        part.mkdir()
        signatures_folder.mkdir()
        write_part(part, mine, first)
        sign_part(
            signatures_folder,
            {"documents": str(part), "format": ("text", {}), "allow_code": False, "settings": kinds},
        )
        parts.append(str(part))
        signed.append(str(signatures_folder))
    return {
        "parts": parts, "signed": signed, "sources": ["rows"] * len(parts), "dedup": [step.decided(kinds)],
        "near_duplicates": None, "split": {"validation": 0.0}, "seed": 1,
    }  # fmt: skip


def write_part(folder: Path, records: Sequence[dict[str, str]], first: int) -> None:
    """Write one part as Prepare leaves it."""
    with stream_writer(folder / DOCUMENTS_FILE, DOCUMENT) as documents, stream_writer(folder / KEYS_FILE, KEYS) as keys:
        for low in range(0, len(records), 1_000):
            batch = [json.dumps(record, ensure_ascii=False) for record in records[low : low + 1_000]]
            ids = [f"r#{first + low + number}" for number in range(len(batch))]
            documents.extend_columns([["rows"] * len(batch), ids, batch, [None] * len(batch)])
            digests = [xxhash.xxh3_128_digest(text.encode()) for text in batch]
            keys.extend_columns([digests, [[xxhash.xxh3_64_intdigest(text.encode())] for text in batch]])


def pairs_found(folder: Path, spec: dict[str, Any], num_rows: int) -> set[tuple[int, int]]:
    """Return the pairs of rows that are alike."""
    from sftdata.dedup.candidates import similar_pairs
    from sftdata.dedup.items import Items

    files = [Path(part) / signed_name(0) for part in spec["signed"]]
    items = Items(files, [min(PART_ROWS, num_rows - first) for first in range(0, num_rows, PART_ROWS)])
    [step] = spec["dedup"]
    found = similar_pairs(items, np.ones(num_rows, dtype=bool), threshold=THRESHOLD, num_bands=step["bands"][0])
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


class ShortRows(Sequence[dict[str, str]]):
    """Short Chinese rows, made when they are asked for; every tenth is a near-copy of the one before."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._number))]
        rng = random.Random(index - (index % 10 == 9))
        text = "".join(chr(0x4E00 + rng.randrange(3_000)) for _ in range(24))
        return {"text": text + ("了" if index % 10 == 9 else "")}


def resolve_rows(number: int) -> dict[str, float]:
    """Sign and resolve so many short rows; return peaks of memory in MiB, seconds, and rows that were dropped."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.process_time()
        with Peak() as sign:
            spec = write_parts(folder, ShortRows(number))
        signing = time.process_time() - begin
        (folder / "resolved").mkdir()
        begin = time.process_time()
        with Peak() as decide:
            counts = resolve(folder / "resolved", spec)["counts"]
        return {
            "sign_mib": sign.mib, "resolve_mib": decide.mib, "sign_seconds": signing,
            "resolve_seconds": time.process_time() - begin, "dropped": counts["dropped"],
        }  # fmt: skip


class Peak:
    """The largest private memory of this process while the block runs, in MiB; pages of mapped files are not counted."""

    mib = 0.0

    def __enter__(self) -> Peak:
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.mib = max(self.mib, int(status.partition("RssAnon:")[2].split()[0]) / 1024)


def measure_memory(sizes: Sequence[int]) -> None:
    """Print peaks of memory by number of rows, each in a process of its own."""
    print("\nsign and resolve, rows of 24 Chinese characters, one in ten a near-copy")
    measured = []
    for number in sizes:
        command = [sys.executable, __file__, "--memory-of", str(number)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        measured.append(found["resolve_mib"])
        stages = [
            f"{stage} {found[f'{stage}_mib']:.0f} MiB, {number / found[f'{stage}_seconds']:,.0f} rows/s"
            for stage in ("sign", "resolve")
        ]
        print(f"  {number:,} rows: {'; '.join(stages)}; {found['dropped']:,} dropped")
    if len(sizes) > 1:
        slope = (measured[-1] - measured[-2]) / (sizes[-1] - sizes[-2])
        expected = measured[-1] + slope * (SIMULATED - sizes[-1])
        print(f"  {SIMULATED:,} rows: {expected:,.0f} MiB in resolve, {slope * 2**20:.0f} bytes a row (drawn on, not measured)")


if __name__ == "__main__":
    main()
