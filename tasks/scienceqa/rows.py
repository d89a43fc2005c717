"""The rows of ScienceQA and the four ways to ask them.

Q question, T task (the kind of question), C choices, H hint, L lecture, S solution. Rows without a lecture or a
solution are left out, as in the original; so are, in the text-only tasks, rows with an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness_ext.data import DataError, DataSource, data_folder, load_rows
from harness_ext.formats import read_rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Doc = dict[str, Any]

TEXT_ONLY, WITH_IMAGES = "tasksource/ScienceQA_text_only", "derek-thomas/ScienceQA"
TEXTS = ("question", "hint", "task", "grade", "subject", "topic", "lecture", "solution")
FIELDS: dict[str, Any] = {**dict.fromkeys(TEXTS, str), "choices": list[str], "answer": int, "image": object | None}

_QTCH = "Question: {question}\n Task: {task}\n Choices: {choices}\n Hint: {hint}"
_INSTRUCTION = "\n Instruction: \nPlease output the answer in JSON style with an answer and a solution field"
TEMPLATES = {
    "QTCH": _QTCH + _INSTRUCTION,
    "QTCHL": _QTCH + " \nLecture: {lecture}" + _INSTRUCTION,
    "QTCHLS": _QTCH + " \nLecture: {lecture}\nSolution: {solution}" + _INSTRUCTION,
    "QTCHS": _QTCH + " \nSolution: {solution}" + _INSTRUCTION,
}


def question_text(doc: Doc) -> str:
    """Return a document as its setting asks it; choices stand there as a Python list, as in the original."""
    return TEMPLATES[doc["setting"]].format(**{**doc, "choices": list(doc["choices"])})


def image_question_text(doc: Doc) -> str:
    """Return the same behind lm-eval's mark for an image."""
    return "<image>" + question_text(doc)


def images(doc: Doc) -> list[Any]:
    """Return a document's image; where it has none, a blank one of 224 x 224, as in the original."""
    from PIL import Image

    return [doc["image"].convert("RGB") if doc.get("image") is not None else Image.new("RGB", (224, 224), "white")]


def load(setting: str, with_images: bool = False, scienceqa_split: str = "test", **_: Any) -> DatasetDict:
    """Return one split of ScienceQA, under the name `test`, to be asked in one of the four settings.

    `--metadata '{"scienceqa_split": "validation"}'` takes another split. Raises `DataError` where rows or images are
    missing.
    """
    from datasets import DatasetDict

    source = DataSource(
        folder="scienceqa",
        hub_id=WITH_IMAGES if with_images else TEXT_ONLY,
        splits=(scienceqa_split,),
        fields=FIELDS,
        hint="""Another split: --metadata '{"scienceqa_split": "validation"}'""",
    )
    rows = load_rows(source)[scienceqa_split]
    there = _image_is_there(rows)
    pictured = _pictured(scienceqa_split, there)
    explained = [
        bool(lecture and solution) for lecture, solution in zip(rows["lecture"], rows["solution"], strict=True)
    ]
    kept = [i for i, good in enumerate(explained) if good and (with_images or not pictured[i])]
    lost = [i for i in kept if with_images and pictured[i] and not there[i]]
    if lost:
        raise DataError(
            f"harness-ext: {len(lost)} of {len(kept)} rows of scienceqa/{scienceqa_split} need an image that the local "
            f"rows lack. Unset HARNESS_EXT_DATA to load {WITH_IMAGES} from the hub, save that with `save_to_disk` to "
            "scienceqa/ of your data folder, or run the text-only task"
        )
    if not kept:
        raise DataError(f"harness-ext: no row of scienceqa/{scienceqa_split} has a lecture and a solution")
    docs = rows.select(kept)
    more = {"setting": [setting] * len(kept), "split": [scienceqa_split] * len(kept)}
    for name, column in {**more, "has_image": [pictured[i] for i in kept]}.items():
        docs = docs.add_column(name, column)
    return DatasetDict(test=docs if with_images else docs.remove_columns("image"))


def _image_is_there(rows: Dataset) -> list[bool]:
    from datasets import Image

    if isinstance(rows.features["image"], Image):
        rows = rows.cast_column("image", Image(decode=False))
    return [image is not None for image in rows["image"]]


def _pictured(split: str, there: list[bool]) -> list[bool]:
    """Return which rows belong to an image; beside local rows without images, `<split>.meta.jsonl` may say so."""
    folder = data_folder()
    meta = folder / "scienceqa" / f"{split}.meta.jsonl" if folder else None
    if meta is None or not meta.exists():
        return there
    said = [bool(row.get("has_image")) for _, row in read_rows(meta) if not isinstance(row, str)]
    if len(said) != len(there):
        raise DataError(f"harness-ext: {meta} has {len(said)} rows, its split {len(there)}: one line a row is needed")
    return [a or b for a, b in zip(said, there, strict=True)]
