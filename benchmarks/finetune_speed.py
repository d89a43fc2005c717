"""Compares the tokens per second of `harness-ext finetune` with those of a plain TRL script with the same settings.

    python benchmarks/finetune_speed.py --output benchmarks/results/finetune_speed.json
    python benchmarks/finetune_speed.py --model smollm2 --rows 64 --epochs 1 --batch_size 8

Both train the embedded student, or another model, with the same rows, batch size, optimizer and number of epochs, in
float32 on one thread, and save one checkpoint per epoch. They run alternately, `--repeats` times each. The time of a
run is measured by the trainer itself, from its first step to its last checkpoint. The result is the ratio of the
medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measured import model_folder, named, publish_measured

from harness_ext.embedded import model_path

# The script that a user of TRL alone would write.
BARE = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model, rows, out, epochs, batch = sys.argv[1:]
data = Dataset.from_list([json.loads(line) for line in open(rows)])
config = SFTConfig(
    output_dir=out, num_train_epochs=float(epochs), per_device_train_batch_size=int(batch), learning_rate=2e-5,
    lr_scheduler_type="cosine", max_length=2048, logging_steps=10, save_strategy="epoch", bf16=False, use_cpu=True,
    gradient_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, seed=0, data_seed=0,
)
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"), args=config, train_dataset=data,
    processing_class=AutoTokenizer.from_pretrained(model),
)
trainer.train()
json.dump(trainer.state.log_history, open(out + "/log.json", "w"))
"""


def rows(path: Path, number: int, model: Path) -> int:
    """Write training rows about generated stories; return their number of tokens.

    path: the file to write.
    number: the number of rows.
    model: the folder of the model whose tokens count.
    """
    from transformers import AutoTokenizer

    from harness_ext.finetune.recipes.embedded_pair.training_rows import rows as drawn

    tokenizer = AutoTokenizer.from_pretrained(model)
    shares = {"draft": 1.0}
    tokens = 0
    with path.open("w", encoding="utf-8") as file:
        for row in itertools.islice(drawn("student", 1, ("one_fact", "negation"), (2, 6), shares), number):
            prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
            file.write(json.dumps({"prompt": prompt, "completion": row["completion"]}) + "\n")
            tokens += len(tokenizer(prompt + row["completion"])["input_ids"]) + 1
    return tokens


def seconds(out: Path) -> float:
    """Return the training time that the trainer logged, in seconds."""
    log = json.loads((out / "log.json").read_text(encoding="utf-8"))
    return float(next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry))


def main() -> None:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model of benchmarks/models.py, or a folder (default: the embedded student)")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    model = model_folder(options.model) if options.model else model_path("student")
    found: dict[str, list[float]] = {"bare TRL": [], "harness-ext": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        tokens = rows(data, options.rows, model) * options.epochs
        for turn in range(options.repeats):
            out = Path(folder) / f"bare{turn}"
            out.mkdir()
            bare = [model, data, out, options.epochs, options.batch_size]
            ours_out = Path(folder) / f"ours{turn}"
            given = {
                "model": model, "train_file": data, "output_dir": ours_out, "epochs": options.epochs,
                "batch_size": options.batch_size, "device": "cpu",
            }  # fmt: skip
            ours = [word for key, value in given.items() for word in (f"--{key}", value)]
            commands = {
                "bare TRL": ([sys.executable, "-c", BARE, *bare], out),
                "harness-ext": ([sys.executable, "-m", "harness_ext.finetune", *ours], ours_out),
            }
            for name, (command, run_folder) in commands.items():
                subprocess.run([str(word) for word in command], env=env, check=True, capture_output=True)
                found[name].append(tokens / seconds(run_folder))
                shutil.rmtree(run_folder)  # the checkpoint of a real model takes gigabytes
                print(f"{name}: {found[name][-1]:.0f} tokens/s", flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = medians["harness-ext"] / medians["bare TRL"]
    print(f"ratio of medians: {ratio:.3f}")
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    record = {"settings": settings, "tokens": tokens, "tokens_per_second": found, "ratio": ratio}
    publish_measured(record, options.output, named(student=str(model)))


if __name__ == "__main__":
    main()
