"""The small student and teacher that come with the package and run when no model is named."""

from __future__ import annotations

from pathlib import Path

SEATS = ("student", "teacher")


def model_path(seat: str) -> Path:
    """Return the folder of the embedded model for `student` or `teacher`.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it offline. Raises ValueError for
    another seat, and FileNotFoundError if the files are not installed.
    """
    if seat not in SEATS:
        raise ValueError(f"There is no embedded model for the seat {seat!r}, only for {' and '.join(SEATS)}.")
    folder = Path(__file__).resolve().parent / seat
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} contains no model.safetensors: reinstall the package with its data files.")
    return folder
