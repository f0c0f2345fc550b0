"""axolotl: one document a row, in the three columns that it takes as tokenized."""

from __future__ import annotations

from typing import Any

from sftdata.exporters._job import TOKENIZER, Job, Outcome, copy_tokenizer, refuse_weights, write_readme, write_yaml
from sftdata.exporters._rows import write_shards
from sftdata.exporters._training import LORA, base_model, has_rows, keeps_order, model_notes, training_values

CONFIG = "axolotl.yaml"
SAME_NAMES = (
    "micro_batch_size",
    "gradient_accumulation_steps",
    "num_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "seed",
)
USAGE = """
Run in this folder:

```sh
axolotl train axolotl.yaml
```

`data/` holds one document a row, also where the build had packed them: axolotl packs by itself (`sample_packing`) and keeps the
documents of a row apart. `type:` of the datasets stays empty, which tells axolotl that they are tokenized. A row longer than
`sequence_len` stops the run instead of being dropped. The model has to have the vocabulary of `tokenizer/`.
"""


def export_axolotl(job: Job) -> Outcome:
    """Write the documents with a configuration for `axolotl train`.

    A dataset without `type:` whose columns are exactly `input_ids`, `attention_mask`, `labels` is taken as it is
    (docs/dataset-formats/tokenized.qmd of axolotl); a local folder is opened with `load_from_disk`.
    """
    refuse_weights(job, "axolotl")
    counts = write_shards(job, unpack=True)
    copy_tokenizer(job)
    values = training_values(job)
    write_yaml(job.folder / CONFIG, _config(job, values))
    write_readme(job.folder, f"{job.shards.manifest['name']} for axolotl", USAGE)
    return Outcome(counts, model_notes(values, CONFIG, "base_model"))


def _config(job: Job, values: dict[str, Any]) -> dict[str, Any]:
    validation = {"test_datasets": [{"path": "data/validation", "split": "train", "type": None}]}
    config: dict[str, Any] = {
        "base_model": base_model(values),
        "tokenizer_config": TOKENIZER,
        "datasets": [{"path": "data/train", "type": None}],
        **(validation if has_rows(job, "validation") else {}),
        "dataset_prepared_path": "prepared",
        "sequence_len": job.shards.manifest["sequence_len"] or _longest(job),
        "excess_length_strategy": "raise",
        "sample_packing": job.shards.splits["train"].packed,
        "shuffle_merged_datasets": not keeps_order(job),
        "curriculum_sampling": keeps_order(job),
        **{name: values[name] for name in SAME_NAMES if name in values},
        "optimizer": "adamw_torch",
        "output_dir": "model",
    }
    if values.get("adapter"):
        config |= {"adapter": values["adapter"], **{name: values[name] for name in LORA}}
        targets = values["lora_target_modules"]
        config |= {"lora_target_linear": True} if isinstance(targets, str) else {"lora_target_modules": list(targets)}
    return config


def _longest(job: Job) -> int:
    """Return the tokens of the longest row: what a build without `sequence_len` has to give instead."""
    return max((int(split.lengths().max(initial=1)) for split in job.shards.splits.values()), default=1)
