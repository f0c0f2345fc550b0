"""TRL: the shards as they are, with the options under which `SFTTrainer` trains them as they are."""

from __future__ import annotations

from typing import Any

from sftdata.exporters._job import Job, Outcome, copy_tokenizer, refuse_weights, write_readme, write_yaml
from sftdata.exporters._rows import write_shards
from sftdata.exporters._training import (
    LORA,
    TRANSFORMERS,
    base_model,
    has_rows,
    keeps_order,
    model_notes,
    renamed,
    training_values,
)

CONFIG = "trl.yaml"
USAGE = """
Run in this folder:

```sh
trl sft --config trl.yaml
```

`data/` is the dataset, `tokenizer/` the tokenizer that made its tokens: the model has to have its vocabulary, and should be
saved with it. Three lines of `trl.yaml` must stay as they are. `max_length: null`: by default TRL cuts every row to 1,024
tokens. `packing: false`: the rows are packed already. `padding_free`: true for packed rows, so that TRL makes positions from
`seq_lengths` and attention stays inside each document, for which it needs FlashAttention.
"""


def export_trl(job: Job) -> Outcome:
    """Write the shards with a configuration for `trl sft`.

    The options are those of TRL 1.16: `max_length` truncates tokenized rows too unless it is null, and `seq_lengths` becomes
    `position_ids` in its collator under `padding_free` alone (trl/trainer/sft_trainer.py).
    """
    refuse_weights(job, "TRL")
    counts = write_shards(job, unpack=False)
    copy_tokenizer(job)
    values = training_values(job)
    write_yaml(job.folder / CONFIG, _config(job, values))
    write_readme(job.folder, f"{job.shards.manifest['name']} for TRL", USAGE)
    return Outcome(counts, model_notes(values, CONFIG, "model_name_or_path"))


def _config(job: Job, values: dict[str, Any]) -> dict[str, Any]:
    packed = job.shards.splits["train"].packed
    validated = has_rows(job, "validation")
    config: dict[str, Any] = {
        "model_name_or_path": base_model(values),
        "dataset_name": "data",
        "dataset_train_split": "train",
        **({"dataset_test_split": "validation"} if validated else {}),
        "eval_strategy": "epoch" if validated else "no",
        "max_length": None,
        "packing": False,
        "padding_free": packed,
        **({"attn_implementation": "flash_attention_2"} if packed else {}),
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "sequential" if keeps_order(job) else "random",
        **renamed(values, TRANSFORMERS),
        "warmup_steps": values["warmup_ratio"],
        "output_dir": "model",
    }
    if values.get("adapter"):
        config |= {"use_peft": True, **{name: values[name] for name in LORA}}
        targets = values["lora_target_modules"]
        config["lora_target_modules"] = [targets] if isinstance(targets, str) else list(targets)
    return config
