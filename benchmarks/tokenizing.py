"""The format-tokenize stage beside `tokenizers` alone and TRL's dataset preparation, on the same conversations and cores.

    python benchmarks/tokenizing.py [--data FILE.jsonl] [--tokenizer NAME=FOLDER]... [--conversations 20000] [--rounds 3]

The stage reads cleaned records, formats them, renders the template, encodes, carries the trained characters over to tokens,
guards against control tokens in the text, proves the stop tokens, and writes Arrow files. `tokenizers` alone only encodes the
rendered texts, which lie ready in memory, by `encode_batch_fast`. These two run on one core, one after the other, and
processor time is compared: what else the machine does falls out. Loading a tokenizer is counted on neither side; what the
stage spends on it, with the check of its fast engine, is printed. TRL is `SFTTrainer`'s preparation of the same conversations
(assistant_only_loss, packing) at the best of `dataset_num_proc` 1 and 2, beside the stage with two workers, in time on the
clock and of the processors. Each round's ratios are printed, and their medians. Without --tokenizer a byte-level and a
SentencePiece-like BPE are learned from the data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("tokenizers", "fastokens", "pyarrow", "numpy", "trl", "datasets", "transformers")
SYSTEM = "Answer as one who knows the palace well; be brief, and name who told you."
GENERATION = (
    "{%- for message in messages %}{%- if message['role'] == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
)
"""ChatML with the marks that TRL needs to find the answers."""

ONE_THREAD = {"RAYON_NUM_THREADS": "1"}
Conversation = list[dict[str, str]]


def sentences(path: Path | None) -> list[str]:
    """Return texts to put conversations together from: the records of a file, or the bundled dialogues and documents."""
    if path is None:
        pages = [page.read_text("utf-8") for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])]
        found = [line.strip() for page in pages for line in page.splitlines() if len(line) > 40]
        path = ROOT / "recipes" / "data" / "zhenhuan" / "dialogue.jsonl"
    else:
        found = []
    text = path.read_text("utf-8")
    for row in json.loads(text) if text.startswith("[") else map(parsed, text.split("\n")):
        found += [value for value in row.values() if isinstance(value, str) and value]
    return [text for text in found if "<" not in text]  # nothing that could be a control token


def parsed(line: str) -> dict[str, Any]:
    """Return a line's record; the bundled data holds broken ones."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def conversations(texts: list[str], count: int) -> list[Conversation]:
    """Return conversations of two to six turns after one system prompt; no two texts are equal."""
    draw = random.Random(42)
    made = []
    for number in range(count):
        turns = [{"role": "system", "content": SYSTEM}]
        for turn in range(2 * draw.randint(1, 3)):
            words = " ".join(draw.choice(texts) for _ in range(draw.randint(1, 4)))
            turns.append({"role": "assistant" if turn % 2 else "user", "content": f"{number}.{turn} {words}"})
        made.append(turns)
    return made


def learn(folder: Path, texts: list[str], *, byte_level: bool) -> Path:
    """Learn a tokenizer of a family from the texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    folder.mkdir(parents=True)
    if byte_level:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=32000, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
    else:
        learned = Tokenizer(models.BPE())
        learned.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
        trainer = trainers.BpeTrainer(vocab_size=31000, show_progress=False)
        learned.train_from_iterator([text.replace(" ", "▁") for text in texts], trainer)
        model = json.loads(learned.to_str())["model"]
        names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
        vocabulary = {name: number for number, name in enumerate(names)}
        merges = [tuple(merge) for merge in model["merges"]]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_recipe(folder: Path, rows: list[Conversation], tokenizer: Path) -> Path:
    """Write the conversations and a recipe over them."""
    folder.mkdir(parents=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows)
    recipe = {
        "name": "benchmark",
        "tokenizer": {"path": str(tokenizer), "chat_template": "chatml"},
        "sources": [{"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "messages"}],
        "tokenize": {"sequence_len": 4096},
        "pack": {"strategy": "best_fit"},
        "limits": {"max_bad": 1.0, "max_drop": 1.0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


ONE_CORE = """
import json, sys, time
from pathlib import Path
from sftdata import pipeline
from sftdata.tokenizers.encoder import open_encoder
perform, spent, opening = pipeline.perform, [], []
def timed(task):
    begin = time.process_time()
    if task.stage == "tokenize":
        open_encoder(Path(task.spec["tokenizer"]), engine=task.spec["engine"])
        opening.append(time.process_time() - begin)
    begin = time.process_time()
    summary = perform(task)
    if task.stage == "tokenize":
        spent.append((time.process_time() - begin, summary["counts"]["tokens"]))
    return summary
pipeline.perform = timed
pipeline.build(sys.argv[1], out=sys.argv[2], work_dir=sys.argv[2] + ".work", workers=1)
print(json.dumps([*(sum(column) for column in zip(*spent)), sum(opening)]))
"""
"""A build in one process that prints processor seconds and tokens of its tokenize tasks, and the seconds of opening."""


def one_core(recipe: Path, out: Path) -> tuple[float, int, float]:
    """Return processor seconds and tokens of the stage in one process, and the seconds that opening the tokenizer took."""
    command = [sys.executable, "-c", ONE_CORE, str(recipe), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env={**os.environ, **ONE_THREAD})
    seconds, num_tokens, opening = json.loads(done.stdout)
    return seconds, num_tokens, opening


def on_the_clock(recipe: Path, out: Path) -> float:
    """Return the seconds of the stage with two workers."""
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), "--out", str(out), "--work-dir", f"{out}.work"]
    environment = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    subprocess.run([*command, "--workers", "2"], capture_output=True, cwd=ROOT, check=True, env=environment)
    return float(json.loads((out / ".sftdata" / "run.json").read_text())["stage_seconds"]["tokenize"])


def encode_alone(tokenizer: Path, rows: list[Conversation]) -> tuple[float, int]:
    """Encode the rendered conversations with `tokenizers` on one core; return processor seconds and tokens."""
    from tokenizers import Tokenizer

    texts = ["".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in row) for row in rows]
    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    begin = time.process_time()
    num_tokens = sum(len(row.ids) for row in loaded.encode_batch_fast(texts, add_special_tokens=False))
    return time.process_time() - begin, num_tokens


def trl_prepares(tokenizer: Path, rows: list[Conversation], processes: int) -> tuple[float, float]:
    """Return the seconds of SFTTrainer's preparation of the conversations, on the clock and of the processors."""
    script = (
        "import json, sys, time, transformers, datasets, trl\n"
        "datasets.disable_progress_bars(); datasets.disable_caching()\n"
        "rows = json.load(open(sys.argv[2]))\n"
        "tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(sys.argv[1])\n"
        "tokenizer.chat_template = sys.argv[3]; tokenizer.pad_token = tokenizer.eos_token\n"
        "shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)\n"
        "config = transformers.LlamaConfig(vocab_size=len(tokenizer), **shape)\n"
        "model = transformers.LlamaForCausalLM(config)\n"
        "data = datasets.Dataset.from_list([{'messages': row} for row in rows])\n"
        "options = dict(assistant_only_loss=True, packing=True, max_length=4096, dataset_num_proc=int(sys.argv[4]))\n"
        "arguments = trl.SFTConfig(output_dir=sys.argv[5], report_to='none', use_cpu=True, bf16=False, **options)\n"
        "import resource\n"
        "def spent():\n"
        "    children = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    return time.process_time() + children.ru_utime + children.ru_stime\n"
        "begin, before = time.perf_counter(), spent()\n"
        "trl.SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)\n"
        "print(time.perf_counter() - begin, spent() - before)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.json"
        path.write_text(json.dumps(rows))
        command = [sys.executable, "-c", script, str(tokenizer), str(path), GENERATION, str(processes), name]
        environment = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**environment, "HF_HUB_OFFLINE": "1"}
        )
    if done.returncode:
        raise SystemExit(f"TRL failed: {done.stderr.strip().splitlines()[-1]}")
    seconds, spent = map(float, done.stdout.split()[-2:])
    return seconds, spent


def compare(name: str, tokenizer: Path, rows: list[Conversation], folder: Path, count: int) -> Callable[[], None]:
    """Run all sides `count` times for one tokenizer and print the ratios; return a function that prints TRL's."""
    recipe = write_recipe(folder / name, rows, tokenizer.resolve())
    ratios = []
    for number in range(count):
        out = folder / f"{name}-{number}"
        seconds, num_tokens, opening = one_core(recipe, out)
        alone, num_alone = encode_alone(out / "tokenizer", rows)
        if num_alone != num_tokens:
            raise SystemExit(f"the sides made {num_tokens} and {num_alone} tokens of the same texts")
        ratios.append(alone / seconds)
        speeds = f"stage {num_tokens / seconds:,.0f} tokens/s a core, tokenizers {num_alone / alone:,.0f}"
        print(f"{name} {number}: {speeds}; ratio {ratios[-1]:.2f} (opened in {opening:.2f} s)", flush=True)
    engines = json.loads((out / "manifest.json").read_text())["tokenizer"]["engines"]
    print(f"{name}: {num_tokens:,} tokens, engine {engines}; median ratio to tokenizers alone {statistics.median(ratios):.2f}")

    def beside_trl() -> None:
        clock, spent = map(min, zip(*(trl_prepares(out / "tokenizer", rows, processes) for processes in (1, 2)), strict=True))
        ours = on_the_clock(recipe, folder / f"{name}-clock")
        speeds = f"TRL {num_tokens / clock:,.0f} tokens/s, stage with two workers {num_tokens / ours:,.0f}"
        print(f"{name}: {speeds}; ratio on the clock {clock / ours:.1f}")
        own = seconds + opening
        print(f"{name}: processor seconds of TRL {spent:.1f}, of the stage {own:.1f}; ratio {spent / own:.1f}")

    return beside_trl


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-trl", action="store_true")
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, " + ", ".join(f"{n} {version(n)}" for n in LIBRARIES))
    texts = sentences(arguments.data)
    rows = conversations(texts, arguments.conversations)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        given = {name: Path(path) for name, _, path in (text.partition("=") for text in arguments.tokenizer)}
        tokenizers: dict[str, Any] = given or {
            "byte-level": learn(folder / "learned-byte-level", texts, byte_level=True),
            "sentencepiece": learn(folder / "learned-sentencepiece", texts, byte_level=False),
        }
        later = [compare(name, path, rows, folder, arguments.rounds) for name, path in tokenizers.items()]
        if not arguments.without_trl:
            later[0]()


if __name__ == "__main__":
    main()
