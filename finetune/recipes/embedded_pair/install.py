"""Copy a finished stage into the package: `python -m …embedded_pair.install MODEL FOLDER [--prepared DIR]`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness_ext import embedded
from harness_ext.finetune.checkpoints import why_incomplete
from harness_ext.finetune.recipes.embedded_pair.model import PROMPTS_FILE
from harness_ext.finetune.recipes.embedded_pair.prepare import INIT, ROOT

FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def main(argv: list[str] | None = None) -> int:
    """Copy the files needed to load the model, and the hash of the prompts that its rows were made with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=embedded.MODELS)
    parser.add_argument("folder", type=Path, help="the stage's `final` folder")
    parser.add_argument("--prepared", type=Path, default=ROOT, help="the folder that `prepare` wrote to")
    options = parser.parse_args(argv)
    if reason := why_incomplete(options.folder):
        parser.error(reason)
    target = Path(embedded.__file__).parent / options.model
    target.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(options.folder / name, target / name)
    shutil.copyfile(options.prepared / INIT[options.model] / PROMPTS_FILE, target / PROMPTS_FILE)
    print(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
