"""Makes a small student for speculative decoding: some layers of a model, trained to write as the whole model does.

    HARNESS_EXT_DATA=<folder> python benchmarks/draft_student.py smollm2 --output_dir <folder>

The student has the layers `--layers` of the model. The whole model answers training questions of GSM8K, with its chat
template and in float32, and `harness-ext finetune` distils its distributions over these answers (`method=kd`). The
folder of the student is printed; `benchmarks/draft_lengths.py` and `benchmarks/decoding.py` take it as `--student`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from decoding import questions, seat, solve
from measured import model_folder

from harness_ext.models.skyline import Skyline
from models import MODELS, converted, models_folder


def main() -> None:
    """Cut, let the model answer, and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 2, 27, 28, 29], help="the layers to keep")
    parser.add_argument("--rows", type=int, default=400, help="training questions (default: 400)")
    parser.add_argument("--most", type=int, default=96, help="length limit of the answers, in tokens (default: 96)")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch_size", type=int, default=16, help="questions that are answered at once (default: 16)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU (default: cpu)")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    teacher = model_folder(args.model)
    student = converted(MODELS[args.model], models_folder(), layers=args.layers)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    rows = args.output_dir / "rows.jsonl"
    if not rows.exists():
        rows.write_text("".join(answered(teacher, args)), encoding="utf-8")
    settings = {
        "model": student, "train_file": rows, "output_dir": args.output_dir / "run", "method": "kd",
        "teacher_model": teacher, "epochs": args.epochs, "learning_rate": 5e-4, "warmup_steps": 0.05,
        "eval_fraction": 0.05, "device": "cpu" if args.device == "cpu" else "auto", "dtype": "float32",
        "save_total_limit": 1,
    }  # fmt: skip
    words = [sys.executable, "-m", "harness_ext", "finetune"]
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    print(f"$ {shlex.join(words)}", flush=True)
    subprocess.run(words, check=True, env=dict(os.environ))
    print(args.output_dir / "run" / "final")


def answered(teacher: Path, args: argparse.Namespace) -> Sequence[str]:
    """Return training questions with the model's answers, as JSON lines."""
    asked = questions(args.rows, args.most, split="train")
    model = seat(str(teacher), args.batch_size, device=args.device)
    transcripts, _ = solve(Skyline(), {"teacher": model}, asked)
    return [
        json.dumps(
            {
                "prompt": [{"role": "user", "content": question.context.messages[-1].content}],
                "completion": transcript.text,
                "finished": transcript.turns[-1].result.finish == "stop",
            }
        )
        + "\n"
        for question, transcript in zip(asked, transcripts, strict=True)
    ]


if __name__ == "__main__":
    main()
