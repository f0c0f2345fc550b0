"""Recipes: what is absent has its documented meaning, and each kind of mistake is one line with its place and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftdata.errors import RecipeError
from sftdata.recipe import Recipe, json_schema
from sftdata.recipe_loader import Loaded, load_recipe

RECIPE = """\
name: palace
tokenizer:
  path: tokenizers/own
sources:
  - name: dialogue
    path: data/dialogue.jsonl
    ingest: jsonl
    clean: [unicode, {length: {min_chars: 2}}]
    format: {instruction: {output: answer}}
  - {name: faq, path: [a.csv, b.csv], ingest: {csv: }, format: text}
clean:
  - dedup: {max_copies: 2, allow: [好。]}
tokenize:
  sequence_len: 64
"""


def load(folder: Path, text: str = RECIPE, *overrides: str, allow_code: bool = False) -> Loaded:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "recipe.yaml", overrides=overrides, allow_code=allow_code)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def test_sections_of_a_recipe_are_the_known_ones():
    assert list(Recipe.model_fields) == [
        "name", "seed", "tokenizer", "sources", "clean", "tokenize", "split", "mix", "pack", "shards", "limits", "output",
        "train",
    ]  # fmt: skip
    assert set(json_schema()["properties"]) == set(Recipe.model_fields)


def test_what_is_absent_has_its_documented_meaning(tmp_path):
    text = "name: palace\ntokenizer: {path: own}\nsources: [{name: a, path: a.jsonl, ingest: jsonl, format: text}]\n"
    recipe = load(tmp_path, text).recipe
    [source], tokenize = recipe.sources, recipe.tokenize
    assert (recipe.seed, recipe.clean, recipe.cleaners, recipe.dedups) == (42, [], [], [])
    assert (recipe.output, recipe.train, recipe.tokenizer.chat_template) == (None, {}, "tokenizer_default")
    assert (source.clean, source.category, source.licence) == ([], None, "")
    assert (recipe.mix.strategy, recipe.mix.shuffle) == ("concat", True)
    assert (recipe.pack.strategy, recipe.pack.validation, recipe.split.validation) == ("padding", None, 0.0)
    assert (tokenize.excess_length, tokenize.control_tokens, tokenize.sequence_len) == ("drop", "escape", None)
    assert (tokenize.roles_to_train, tokenize.train_on_inputs, tokenize.train_on_eos) == (["assistant"], False, True)
    assert (recipe.limits.max_bad, recipe.limits.max_drop, recipe.shards.max_bytes) == (0.001, 0.5, 268435456)


def test_steps_are_names_or_names_with_options(tmp_path):
    recipe = load(tmp_path).recipe
    dialogue, faq = recipe.sources
    assert [(step.name, step.options) for step in dialogue.clean] == [("unicode", {}), ("length", {"min_chars": 2})]
    assert (faq.ingest.name, faq.ingest.options, faq.path) == ("csv", {}, ["a.csv", "b.csv"])
    assert dialogue.path == ["data/dialogue.jsonl"] and dialogue.format.options == {"output": "answer"}
    assert recipe.cleaners == [] and [(step.max_copies, step.allow) for step in recipe.dedups] == [(2, ["好。"])]


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    load(tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe("recipes/recipe.yaml")
    assert loaded.resolve("a.csv") == tmp_path / "recipes" / "a.csv" and loaded.resolve("/a") == Path("/a")
    assert loaded.resolve("~/a") == Path.home() / "a" and loaded.name == "recipes/recipe.yaml"


MISTAKES = [
    ("seed: 1\nsead: 2\n", "recipe.yaml:16 sead: unknown key; did you mean 'seed'?"),
    (("sequence_len", "sequence_length"), "recipe.yaml:14 tokenize.sequence_length: unknown key; did you mean 'sequence_len'?"),
    (("    ingest: jsonl", "    ingst: jsonl"), "recipe.yaml:7 sources[0].ingst: unknown key; did you mean 'ingest'?"),
    (("    ingest: jsonl\n", ""), "recipe.yaml:5 sources[0].ingest: is missing"),
    (("tokenizer:\n  path: tokenizers/own\n", ""), "recipe.yaml:1 tokenizer: is missing"),
    (("[unicode", "[unicde"), "recipe.yaml:8 sources[0].clean[0].unicde: unknown cleaner 'unicde'; did you mean 'unicode'?"),
    (("{csv: }", "{cvs: }"), "recipe.yaml:10 sources[1].ingest.cvs: unknown ingestor 'cvs'; did you mean 'csv'?"),
    (("format: text", "format: txt"), "recipe.yaml:10 sources[1].format.txt: unknown formatter 'txt'; did you mean 'text'?"),
    (("min_chars", "min_char"), "recipe.yaml:8 sources[0].clean[1].length: unknown option 'min_char' of cleaner 'length'; "),
    (("min_chars: 2", "min_chars: two"), "recipe.yaml:8 sources[0].clean[1].length: option 'min_chars' of cleaner 'length': "),
    (("min_chars: 2", "min_chars: -2"), "recipe.yaml:8 sources[0].clean[1].length: min_chars must be 0 or more"),
    (("[unicode", "[3"), "recipe.yaml:8 sources[0].clean[0]: a step is a name, or {name: {option: value}}"),
    (("{length: {", "{slop: , length: {"), "recipe.yaml:8 sources[0].clean[1]: a step is a name, or {name: {option: value}}"),
    (("[unicode", "[dedup"), "recipe.yaml:8 sources[0].clean[0]: dedup decides over all sources; put it in "),
    (("max_copies: 2", "max_copy: 2"), "recipe.yaml:12 clean[0].dedup.max_copy: unknown key; did you mean 'max_copies'"),
    (("max_copies: 2", "max_copies: 0"), "recipe.yaml:12 clean[0].dedup.max_copies: input should be greater than or"),
    (("tokenize:\n", "  - unicode\ntokenize:\n"), "recipe.yaml:13 clean[1]: dedup comes after the cleaners"),
    (("{max_copies: 2", "{ngram: 3"), "recipe.yaml:12 clean[0].dedup.ngram: has no meaning under method exact, only under mi"),
    (("{max_copies: 2", "{priority: [dialog]"), "recipe.yaml:12 clean[0].dedup.priority: no source is called 'dialog'; did y"),
    (("max_copies: 2", "max_copies: 2, against: [faq]"), "recipe.yaml:12 clean[0].dedup.max_copies: has no meaning beside"),
    (("name: palace", "name: palace\nname: garden"), "recipe.yaml:2 'name' stands twice, first on line 1"),
    (("name: palace", "name: the palace"), "recipe.yaml:1 name: string should match pattern"),
    (("name: faq", "name: dialogue"), "recipe.yaml:10 sources[1].name: two sources are called 'dialogue'"),
    (("64", "long"), "recipe.yaml:14 tokenize.sequence_len: input should be a valid integer"),
    (("64", "1"), "recipe.yaml:14 tokenize.sequence_len: 1 leaves nothing to train; give at least 2"),
    (("path: tokenizers/own", "chat_template: chatml"), "recipe.yaml:2 tokenizer: a tokenizer needs either path or train"),
    ("mix: {strategy: bucket}\n", "recipe.yaml:15 mix.strategy: input should be 'concat', 'buckets', "),
    ("mix: {bins: 3}\n", "recipe.yaml:15 mix.bins: has no meaning under strategy concat, only under buckets"),
    ("mix:\n", "recipe.yaml:15 mix: input should be a valid dictionary"),
    ("split: {validation: 1}\n", "recipe.yaml:15 split.validation: input should be less than 1, not 1"),
    ("limits: {max_bad: .nan}\n", "recipe.yaml:15 limits.max_bad: input should be "),
    ("train: {model: {model_type: llama}, lerning_rate: 1}\n", "recipe.yaml:15 train.lerning_rate: unknown key; did you"),
    ("train: {model: {model_type: llama}, learning_rate: fast}\n", "recipe.yaml:15 train.learning_rate: input should be a "),
    ("train: {model: {model_type: llama}, micro_batch_size: 0}\n", "recipe.yaml:15 train.micro_batch_size: 0 is too small"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistake_is_one_line_with_place_and_cure(tmp_path, change, message):
    if isinstance(change, str):
        text = RECIPE + change
    else:
        assert RECIPE.count(change[0]) == 1
        text = RECIPE.replace(*change)
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize("text", ["", "- a\n", "palace\n"])
def test_document_that_is_no_mapping_is_refused(tmp_path, text):
    assert refusal(tmp_path, text) == "recipe.yaml:1 a recipe is a mapping of keys to values"


def test_packing_needs_a_length_and_unused_options_are_errors(tmp_path):
    without = RECIPE.replace("tokenize:\n  sequence_len: 64\n", "pack: {strategy: best_fit}\n")
    assert "pack.strategy: best_fit needs tokenize.sequence_len" in refusal(tmp_path, without)
    packed = RECIPE + "  excess_length: drop\npack: {strategy: packed}\n"
    assert "tokenize.excess_length: has no meaning under pack.strategy packed" in refusal(tmp_path, packed)
    assert load(tmp_path, RECIPE + "pack: {strategy: packed}\n").recipe.pack.strategy == "packed"


def test_code_from_outside_needs_leave(tmp_path):
    text = RECIPE.replace("[unicode", '["textwrap:dedent"')
    assert "sources[0].clean[0].textwrap:dedent: cleaner 'textwrap:dedent' runs code from outside" in refusal(tmp_path, text)
    assert load(tmp_path, text, allow_code=True).recipe.sources[0].clean[0].name == "textwrap:dedent"


def test_set_creates_sections_and_reads_yaml_1_2(tmp_path):
    overrides = ["split.validation=1e-2", "mix.strategy=buckets", "mix.bins=4", "train.model.model_type=llama",
                 "train.learning_rate=1e-4", "seed=012", "name=no", "tokenize.roles_to_train=[user, assistant]"]  # fmt: skip
    recipe = load(tmp_path, RECIPE, *overrides).recipe
    assert (recipe.split.validation, recipe.mix.strategy, recipe.mix.num_bins) == (0.01, "buckets", 4)
    assert recipe.train == {"model": {"model_type": "llama"}, "learning_rate": 1e-4}
    assert type(recipe.train["learning_rate"]) is float
    assert (recipe.seed, recipe.name, recipe.tokenize.roles_to_train) == (12, "no", ["user", "assistant"])


LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("section", "override", "given"),
    [
        ("train: {model: {model_type: llama}, num_epochs: 2}", "train.max_steps=5", {"model": LLAMA, "max_steps": 5}),
        ("train: {model: {model_type: llama}, max_steps: 2}", "train.num_epochs=1", {"model": LLAMA, "num_epochs": 1}),
        ("train: {model: {model_type: llama}}", "train.base_model=x", {"base_model": "x"}),
        ("train: {base_model: x}", "train.model.model_type=llama", {"model": LLAMA}),
    ],
)
def test_set_takes_the_place_of_what_it_excludes(tmp_path, section, override, given):
    assert load(tmp_path, RECIPE + section + "\n", override).recipe.train == given


def test_set_of_a_tokenizer_takes_the_place_of_training_one(tmp_path):
    learned = RECIPE.replace("path: tokenizers/own", "train: {vocab_size: 300}")
    tokenizer = load(tmp_path, learned, f"tokenizer.path={tmp_path / 'own'}").recipe.tokenizer
    assert (tokenizer.path, tokenizer.train) == ("own", None)


def test_two_overrides_that_exclude_each_other_are_refused(tmp_path):
    message = refusal(tmp_path, RECIPE + "train: {model: {model_type: llama}}\n", "train.max_steps=5", "train.num_epochs=1")
    assert "both given" in message


def test_a_train_section_may_leave_the_model_to_the_command(tmp_path):
    assert load(tmp_path, RECIPE, "train.learning_rate=1e-4").recipe.train == {"learning_rate": 1e-4}
    assert "is no learning rate" in refusal(tmp_path, RECIPE, "train.learning_rate=-1")


def test_set_addresses_a_source_by_its_name(tmp_path):
    overrides = ["sources.faq.category=questions", "sources.faq.format.source_target.source=q", "sources.dialogue.clean=[slop]"]
    text = RECIPE.replace("format: text", "format: {source_target: {target: a}}")
    dialogue, faq = load(tmp_path, text, *overrides).recipe.sources
    assert (faq.category, faq.format.options) == ("questions", {"source": "q", "target": "a"})
    assert [step.name for step in dialogue.clean] == ["slop"] and dialogue.category is None


def test_set_takes_paths_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    overrides = ["sources.faq.path=[x.csv, /y.csv]", "sources.dialogue.path=x.jsonl", "tokenizer.path=own"]
    loaded = load(tmp_path / "recipes", RECIPE, *overrides)
    dialogue, faq = loaded.recipe.sources
    places = [loaded.resolve(path).resolve() for path in (*faq.path, *dialogue.path, loaded.recipe.tokenizer.path)]
    assert places == [tmp_path / "here" / "x.csv", Path("/y.csv"), tmp_path / "here" / "x.jsonl", tmp_path / "here" / "own"]
    loaded = load(tmp_path / "recipes", RECIPE, "tokenizer.path=hub:org/name", "tokenizer.chat_template=chatml")
    assert (loaded.recipe.tokenizer.path, loaded.recipe.tokenizer.chat_template) == ("hub:org/name", "chatml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: write it as a.b=value"),
        ("=1", "--set =1: write it as a.b=value"),
        ("name.x=1", "--set name.x=1: 'name' is not a section"),
        ("sources.dialoge.path=x", "--set sources.dialoge.path=x: no source is called 'dialoge'; did you mean 'dialogue'?"),
        ("seed=[1", "--set seed:1 not YAML: while parsing a flow sequence"),
        ("tokenize.sequence_length=3", "--set tokenize.sequence_length=3: tokenize.sequence_length: unknown key; did you mean"),
        ("tokenizr.path=x", "--set tokenizr.path=x: tokenizr: unknown key; did you mean 'tokenizer'?"),
    ],
)
def test_wrong_set_is_named(tmp_path, override, message):
    assert refusal(tmp_path, RECIPE, override).startswith(message)


def test_recipe_that_is_missing_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load_recipe(tmp_path / "none.yaml")
