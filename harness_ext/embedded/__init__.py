"""The small models that come with the package. The student and the teacher run when no model is named."""

from __future__ import annotations

from pathlib import Path

SEATS = ("student", "teacher")
MODELS = (*SEATS, "small_student")


def model_path(name: str) -> Path:
    """Return the folder of an embedded model: `student`, `teacher` or `small_student`.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it offline. Raises ValueError for
    another name, and FileNotFoundError if the files are not installed.
    """
    if name not in MODELS:
        raise ValueError(f"There is no embedded model {name!r}. Choose from {', '.join(MODELS)}.")
    folder = Path(__file__).resolve().parent / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} contains no model.safetensors: reinstall the package with its data files.")
    return folder
