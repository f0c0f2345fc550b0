"""LLaMA-Factory: one document a row, opened by `tokenized_path`."""

from __future__ import annotations

from typing import Any

from sftdata.exporters._job import Job, Outcome, copy_tokenizer, refuse_weights, write_readme, write_yaml
from sftdata.exporters._rows import write_shards
from sftdata.exporters._training import (
    TRANSFORMERS,
    base_model,
    has_rows,
    keeps_order,
    model_notes,
    renamed,
    training_values,
)

CONFIG = "llamafactory.yaml"
USAGE = """
Run in this folder:

```sh
llamafactory-cli train llamafactory.yaml
```

`data/` holds one document a row, also where the build had packed them: LLaMA-Factory packs only what it tokenizes itself.
`tokenized_path` makes it ignore every other option about data, `template` and `cutoff_len` included. The model has to have the
vocabulary of `tokenizer/`.
"""


def export_llamafactory(job: Job) -> Outcome:
    """Write the documents with a configuration for `llamafactory-cli train`.

    `tokenized_path` is opened with `load_from_disk`; the split `train` is trained, `validation` evaluated
    (src/llamafactory/data/loader.py). Columns beside `input_ids`, `attention_mask`, `labels` would stop its collator.
    """
    refuse_weights(job, "LLaMA-Factory")
    counts = write_shards(job, unpack=True)
    copy_tokenizer(job)
    values = training_values(job)
    write_yaml(job.folder / CONFIG, _config(job, values))
    write_readme(job.folder, f"{job.shards.manifest['name']} for LLaMA-Factory", USAGE)
    return Outcome(counts, model_notes(values, CONFIG, "model_name_or_path"))


def _config(job: Job, values: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_name_or_path": base_model(values),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if values.get("adapter") else "full",
        "tokenized_path": "data",
        "template": "empty",
        "packing": False,
        "disable_shuffling": keeps_order(job),
        **({"eval_strategy": "epoch"} if has_rows(job, "validation") else {}),
        **renamed(values, TRANSFORMERS),
        "warmup_ratio": values["warmup_ratio"],
        "output_dir": "model",
    }
    if job.shards.manifest["sequence_len"] is not None:
        config["cutoff_len"] = job.shards.manifest["sequence_len"]
    if values.get("adapter"):
        targets = values["lora_target_modules"]
        config |= {"lora_rank": values["lora_r"], "lora_alpha": values["lora_alpha"], "lora_dropout": values["lora_dropout"]}
        config["lora_target"] = "all" if isinstance(targets, str) else ",".join(targets)
    return config
