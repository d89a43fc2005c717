"""A teacher's prompts in YAML: the fields to add to rows, generation settings, and how to find gold answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness_ext.enhance.gold_answers import AnswerReader
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

FOLDER = Path(__file__).parent
KEYS = ("name", "fields", "generation", "gold", "labels", "answer")


class RowProblem(ValueError):
    """The templates cannot be filled from a row. The message has the reason."""


@dataclass(frozen=True)
class TemplateSet:
    """The prompts for a data set.

    name: name of the set.
    fields: the fields to add, as Jinja templates over a row's fields. They are filled in order, and each can use the
        ones before it. The filter `squeeze` removes double spaces as TeacherLM does.
    generation: lm-eval's generation settings. Default: TeacherLM's.
    gold: Jinja template of the gold answer. Default none.
    labels: the letters of the choices and their words. Default none.
    answer: regular expression whose first group is the answer that a text states. Default: a built-in rule.
    """

    name: str
    fields: Mapping[str, str]
    generation: Mapping[str, Any] = field(default_factory=dict)
    gold: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""

    @cached_property
    def _environment(self) -> SandboxedEnvironment:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        environment.filters["squeeze"] = squeeze
        return environment

    @cached_property
    def _compiled(self) -> dict[str, Template]:
        return {name: self._environment.from_string(text) for name, text in self._all.items()}

    @property
    def _all(self) -> dict[str, str]:
        return {**self.fields, **({"gold": self.gold} if self.gold else {})}

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Return the fields that a row must have."""
        from jinja2 import meta

        found: set[str] = set()
        for text in self._all.values():
            found |= meta.find_undeclared_variables(self._environment.parse(text))
        return tuple(sorted(found - set(self.fields)))

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with its prompts added.

        Raises RowProblem if a field is missing or empty, if the row already has another value under a prompt's name, or
        if a template cannot be rendered.
        """
        wrong = [f"field {name!r} is {_lack(row, name)}" for name in self.needs if _lack(row, name)]
        if wrong:
            raise RowProblem("; ".join(wrong))
        filled = dict(row)
        for name in self.fields:
            text = self._render(name, filled)
            if name in row and row[name] != text:
                raise RowProblem(f"field {name!r} already exists with another text")
            filled[name] = text
        return filled

    def gold_of(self, row: Mapping[str, Any]) -> str | None:
        """Return a row's gold answer, or None if the set defines none or the row lacks a field it needs."""
        if not self.gold:
            return None
        try:
            return self._render("gold", row).strip() or None
        except RowProblem:
            return None

    def _render(self, name: str, row: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        try:
            return self._compiled[name].render(row)
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise RowProblem(f"{name!r} cannot be rendered from this row: {error}") from error

    @property
    def reader(self) -> AnswerReader:
        """Return the reader of the answer that a text states."""
        return AnswerReader(dict(self.labels), self.answer)

    def to_json(self) -> dict[str, Any]:
        """Return the set as JSON values, the form in which manifests store it."""
        return {key: getattr(self, key) for key in KEYS}

    @property
    def digest(self) -> str:
        """Return a hash of the whole set."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, default=str).encode()).hexdigest()


def squeeze(text: str) -> str:
    """Clean a text as TeacherLM does: double spaces become single in one pass.

    A text that ends in a space loses the spaces at both ends.
    """
    text = text.replace("  ", " ")
    return text.strip(" ") if text.endswith(" ") else text


def known_sets() -> list[str]:
    """Return the names of the sets that are part of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_templates(name: str) -> TemplateSet:
    """Load a set by its name or from a YAML file. Raises ConfigurationError with every problem found."""
    path = FOLDER / f"{name}.yaml" if name in known_sets() else Path(name).expanduser()
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        hint = f"name one of {', '.join(known_sets())}, or a YAML file{suggest(name, known_sets())}"
        raise ConfigurationError([f"the templates {name} cannot be read ({error}): {hint}"]) from error
    return read_templates(loaded, str(path))


def read_templates(loaded: Any, source: str) -> TemplateSet:
    """Return the set that the content of a YAML file describes. Raises ConfigurationError with every problem found."""
    from jinja2 import TemplateError

    if not isinstance(loaded, dict):
        raise ConfigurationError([f"{source} must contain `key: value` lines, with the keys {', '.join(KEYS)}"])
    problems = [f"{source}: unknown key `{key}`{suggest(str(key), list(KEYS))}" for key in loaded if key not in KEYS]
    fields = loaded.get("fields")
    if not isinstance(fields, dict) or not fields:
        problems.append(f"{source}: `fields` must map the names of fields to templates, `cot_text: …`")
        fields = {}
    for kind, names in ((dict, ("generation", "labels")), (str, ("name", "gold", "answer"))):
        wanted = "text" if kind is str else "a mapping"
        problems += [
            f"{source}: `{n}` must be {wanted}" for n in names if not isinstance(loaded.get(n) or kind(), kind)
        ]
    problems += [f"{source}: the template `{name}` is not text" for name, t in fields.items() if not isinstance(t, str)]
    if problems:
        raise ConfigurationError(problems)
    given = {key: loaded[key] for key in KEYS if loaded.get(key)}
    given["labels"] = {str(k): str(v) for k, v in given.get("labels", {}).items()}
    found = TemplateSet(**{"name": Path(source).stem, **given})
    try:
        found.needs, found._compiled, found.reader  # noqa: B018
    except TemplateError as error:
        raise ConfigurationError([f"{source}: a template is not valid Jinja: {error}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{source}: `answer` is not a regular expression with a group: {error}"]) from error
    return found


def _lack(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name not in row or value is None:
        return "missing"
    return "empty" if isinstance(value, str) and not value.strip() else ""
