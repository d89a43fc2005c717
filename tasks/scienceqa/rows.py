"""The rows of ScienceQA and the four settings in which they are asked.

The letters of a setting are Q for question, T for task (the kind of question), C for choices, H for hint, L for lecture
and S for solution. As in the original, rows without a lecture or solution are left out, and so are rows with an image
in the text-only tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness_ext.data import DataError, DataSource, data_folder, load_rows
from harness_ext.data.formats import read_rows

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
    """Return the question of a document in its setting. As in the original, the choices are a Python list."""
    return TEMPLATES[doc["setting"]].format(**{**doc, "choices": list(doc["choices"])})


def image_question_text(doc: Doc) -> str:
    """Return the question after lm-eval's placeholder for an image."""
    return "<image>" + question_text(doc)


def images(doc: Doc) -> list[Any]:
    """Return the image of a document, or a blank one of 224 x 224 pixels if it has none, as in the original."""
    from PIL import Image

    return [doc["image"].convert("RGB") if doc.get("image") is not None else Image.new("RGB", (224, 224), "white")]


def load(setting: str, with_images: bool = False, scienceqa_split: str = "test", **_: Any) -> DatasetDict:
    """Return a split of ScienceQA under the name `test`. Other arguments, which lm-eval adds, are ignored.

    Raises DataError if rows or images are missing.

    setting: `QTCH`, `QTCHL`, `QTCHLS` or `QTCHS`.
    with_images: whether to include the rows with images. Default false.
    scienceqa_split: the split to load; `--metadata '{"scienceqa_split": "validation"}'` sets it. Default `test`.
    """
    from datasets import DatasetDict

    source = DataSource(
        folder="scienceqa",
        hub_id=WITH_IMAGES if with_images else TEXT_ONLY,
        splits=(scienceqa_split,),
        fields=FIELDS,
        hint="""For another split, pass --metadata '{"scienceqa_split": "validation"}'""",
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
            f"rows lack: unset HARNESS_EXT_DATA to load {WITH_IMAGES} from the Hub, save that data set with "
            "`save_to_disk` to scienceqa/ in your data folder, or run the text-only task"
        )
    if not kept:
        raise DataError(
            f"harness-ext: no row of scienceqa/{scienceqa_split} has a lecture and a solution: choose another split"
        )
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
    """Return which rows have an image.

    Local rows may come without their images; `<split>.meta.jsonl` can then state which rows have one.
    """
    folder = data_folder()
    meta = folder / "scienceqa" / f"{split}.meta.jsonl" if folder else None
    if meta is None or not meta.exists():
        return there
    said = [bool(row.get("has_image")) for _, row in read_rows(meta) if not isinstance(row, str)]
    if len(said) != len(there):
        raise DataError(
            f"harness-ext: {meta} has {len(said)} rows, but its split has {len(there)}: write one line per row"
        )
    return [a or b for a, b in zip(said, there, strict=True)]
