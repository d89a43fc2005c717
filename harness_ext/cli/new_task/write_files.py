"""Writes the files of a task: the YAML that lm-eval reads, its Python functions and, for a pack, the package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness_ext.cli.new_task.inspect_data import InspectedData, LookError, TaskFields, TaskKind


def write_task(name: str, kind: TaskKind, data: InspectedData, fields: TaskFields, folder: Path, pack: bool) -> Path:
    """Write the files of a task and return the folder to pass to `--include_path`.

    name: the task's name.
    kind: the kind of task.
    data: the data of the task.
    fields: the fields that the task reads.
    folder: the folder to create.
    pack: whether to create a package with a copy of local data, which lm-eval finds once it is installed.

    Raises LookError if the folder exists.
    """
    if folder.exists():
        raise LookError(f"{folder} exists: remove it, or name another folder (--output FOLDER)")
    package = f"{name}_task"
    inner = folder / package if pack else folder
    inner.mkdir(parents=True)
    files = {split: str(file) for split, file in data.files.items()}
    if pack:
        for split, file in data.files.items():
            copy = inner / f"{split}{file.suffix}"
            (shutil.copytree if file.is_dir() else shutil.copyfile)(file, copy)
            files[split] = copy.name
        (inner / "__init__.py").write_text(f'"""The task `{name}`."""\n', encoding="utf-8")
        (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name, package=package), encoding="utf-8")
    (inner / "rows.py").write_text(_rows(name, kind, data, fields, files), encoding="utf-8")
    module = f"{package}.rows" if pack else "rows"
    (inner / f"{name}.yaml").write_text(_yaml(name, kind, data, module), encoding="utf-8")
    return inner


def _rows(name: str, kind: TaskKind, data: InspectedData, fields: TaskFields, files: Mapping[str, str]) -> str:
    read = list(dict.fromkeys([fields.question, *fields.choices, fields.answer]))
    if files:
        listed = ", ".join(f"{split!r}: HERE / {file!r}" for split, file in files.items())
        types = ", ".join(f"{field!r}: {data.types[field]}" for field in read)
        load = LOCAL.format(files=listed, fields=types, name=name)
    else:
        load = HUB.format(data=data.name, splits=sorted({data.evaluated, data.shots or data.evaluated}))
    choices = f"row[{fields.choices[0]!r}]" if len(fields.choices) == 1 else _listed(fields.choices)
    document = DOCUMENTS[kind].format(question=fields.question, answer=fields.answer, choices=choices)
    return HEAD.format(name=name) + load + document


def _listed(fields: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"row[{field!r}]" for field in fields) + "]"


def _yaml(name: str, kind: TaskKind, data: InspectedData, module: str) -> str:
    shots = f"training_split: {data.shots}\nfewshot_split: {data.shots}\n" if data.shots else ""
    return YAML.format(name=name, module=module, split=data.evaluated, shots=shots) + KINDS[kind]


HEAD = '''\
"""Loads the rows of the task `{name}` and turns them into questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
'''
LOCAL = '''

def load(**_: Any) -> Any:
    """Return the splits. If fields are wrong or missing, one error names their files and lines."""
    from harness_ext.data import load_files, make_documents

    return make_documents(load_files({{{files}}}, {{{fields}}}), document, {name!r})
'''
HUB = '''

def load(**_: Any) -> Any:
    """Return the splits from the hub."""
    from datasets import load_dataset

    from harness_ext.data import make_documents

    splits = load_dataset({data!r})
    return make_documents({{split: splits[split] for split in {splits!r}}}, document, {data!r})
'''
DOCUMENTS: dict[str, str] = {
    "choice": '''

def document(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a question, its choices and the index of the right choice."""
    choices, answer = [str(choice) for choice in {choices}], row[{answer!r}]
    if str(answer) in choices:
        gold = choices.index(str(answer))
    elif isinstance(answer, str) and len(answer.strip("() ")) == 1 and answer.strip("() ").isalpha():
        gold = ord(answer.strip("() ").upper()) - ord("A")
    else:
        gold = int(answer)
    if not 0 <= gold < len(choices):
        raise ValueError(f"the answer {{answer!r}} is not one of the choices {{choices}}")
    return {{"question": row[{question!r}], "choices": choices, "gold": gold}}
''',
    "generate": '''

def document(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a question and its answer."""
    return {{"question": str(row[{question!r}]), "answer": str(row[{answer!r}])}}
''',
    "chat": '''

def document(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a user message and its reply; earlier messages of a conversation become part of the message."""
    said, reply = row[{question!r}], row[{answer!r}]
    if isinstance(reply, list):
        reply = reply[-1]["content"]
    if isinstance(said, list):
        messages = said[:-1] if said[-1]["role"] == "assistant" else said
        turns = [f"{{m['role'].capitalize()}}: {{m['content']}}" for m in messages]
        said = messages[0]["content"] if len(messages) == 1 else "\\n\\n".join(turns)
    return {{"question": str(said), "answer": str(reply)}}
''',
}
YAML = """\
task: {name}
custom_dataset: !function {module}.load
test_split: {split}
{shots}"""
KINDS: dict[str, str] = {
    "choice": """\
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
""",
    "generate": """\
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
generation_kwargs: {until: ["\\nQuestion:", "\\n\\n"], max_gen_toks: 256, do_sample: false}
filter_list:
  - name: stripped
    filter: [{function: remove_whitespace}, {function: take_first}]
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
metadata: {version: 1.0}
""",
    "chat": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {until: [], max_gen_toks: 512, do_sample: false}
filter_list:
  - name: stripped
    filter: [{function: remove_whitespace}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}
metadata: {version: 1.0}
""",
}
PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}-task"
version = "0.1.0"
dependencies = ["harness-ext"]

[project.entry-points."lm_eval.tasks"]
{name} = "{package}"

[tool.setuptools]
packages = ["{package}"]

[tool.setuptools.package-data]
"*" = ["*"]
"""
