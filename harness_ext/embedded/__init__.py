"""The small student and teacher that come with the package: what runs when nobody names a model."""

from __future__ import annotations

from pathlib import Path

SEATS = ("student", "teacher")


def model_path(seat: str) -> Path:
    """Return the folder of the embedded model for `student` or `teacher`.

    The folder loads with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`, offline. Raises
    ValueError for another seat, FileNotFoundError when the installation lacks the files.
    """
    if seat not in SEATS:
        raise ValueError(f"There is no embedded model for the seat {seat!r}, only for {' and '.join(SEATS)}.")
    folder = Path(__file__).resolve().parent / seat
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} holds no model.safetensors. Install the package again, data files included.")
    return folder
