"""Prompts for a teacher as YAML: the fields a row gets, how the teacher generates, what its answer is held against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness_ext.enhance.answers import AnswerReader
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

FOLDER = Path(__file__).parent
KEYS = ("name", "fields", "generation", "gold", "labels", "answer")


class RowProblem(ValueError):
    """A row that the templates cannot be filled from; the message says why."""


@dataclass(frozen=True)
class TemplateSet:
    """The prompts of one data set.

    `fields` are Jinja templates over a row's fields, filled in their order, each seeing those before it; the filter
    `squeeze` removes double blanks as TeacherLM does. `generation` holds lm-eval generation settings. `gold` is a
    template of the right answer, `labels` maps the letters of a choice to their words, `answer` is a regular expression
    whose first group is an answer that a text states.
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

        Raises RowProblem where a field is missing or empty, where the row has another value under a prompt's name, or
        where a template cannot be filled from it.
        """
        wrong = [f"field {name!r} is {_lack(row, name)}" for name in self.needs if _lack(row, name)]
        if wrong:
            raise RowProblem("; ".join(wrong))
        filled = dict(row)
        for name in self.fields:
            text = self._render(name, filled)
            if name in row and row[name] != text:
                raise RowProblem(f"field {name!r} is there already, with another text")
            filled[name] = text
        return filled

    def gold_of(self, row: Mapping[str, Any]) -> str | None:
        """Return a row's right answer, None where the set has none or the row lacks what it is made of."""
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
            raise RowProblem(f"{name!r} cannot be made from this row: {error}") from error

    @property
    def reader(self) -> AnswerReader:
        """Return what reads the answer that a text states."""
        return AnswerReader(dict(self.labels), self.answer)

    def to_json(self) -> dict[str, Any]:
        """Return the set as JSON values, as manifests keep it."""
        return {key: getattr(self, key) for key in KEYS}

    @property
    def digest(self) -> str:
        """Return a hash of everything in the set."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, default=str).encode()).hexdigest()


def squeeze(text: str) -> str:
    """Return the text as TeacherLM cleans it: double blanks become one, in one pass; a blank at the end goes."""
    text = text.replace("  ", " ")
    return text.strip(" ") if text.endswith(" ") else text


def known_sets() -> list[str]:
    """Return the names of the sets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_templates(name: str) -> TemplateSet:
    """Return a set by its name, or from a YAML file. Raises ConfigurationError with all that is wrong with it."""
    path = FOLDER / f"{name}.yaml" if name in known_sets() else Path(name).expanduser()
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        hint = f"name one of {', '.join(known_sets())}, or a YAML file{suggest(name, known_sets())}"
        raise ConfigurationError([f"the templates {name} cannot be read ({error}): {hint}"]) from error
    return read_templates(loaded, str(path))


def read_templates(loaded: Any, source: str) -> TemplateSet:
    """Return the set that a YAML file's content describes. Raises ConfigurationError with all that is wrong with it."""
    from jinja2 import TemplateError

    if not isinstance(loaded, dict):
        raise ConfigurationError([f"{source} must hold `key: value` lines, with the keys {', '.join(KEYS)}"])
    problems = [f"{source}: `{key}` is no key{suggest(str(key), list(KEYS))}" for key in loaded if key not in KEYS]
    fields = loaded.get("fields")
    if not isinstance(fields, dict) or not fields:
        problems.append(f"{source}: `fields` must map the names of fields to templates, `cot_text: …`")
        fields = {}
    for kind, names in ((dict, ("generation", "labels")), (str, ("name", "gold", "answer"))):
        wanted = "text" if kind is str else "a mapping"
        problems += [
            f"{source}: `{n}` must be {wanted}" for n in names if not isinstance(loaded.get(n) or kind(), kind)
        ]
    problems += [f"{source}: the template `{name}` is no text" for name, t in fields.items() if not isinstance(t, str)]
    if problems:
        raise ConfigurationError(problems)
    given = {key: loaded[key] for key in KEYS if loaded.get(key)}
    given["labels"] = {str(k): str(v) for k, v in given.get("labels", {}).items()}
    found = TemplateSet(**{"name": Path(source).stem, **given})
    try:
        found.needs, found._compiled, found.reader  # noqa: B018
    except TemplateError as error:
        raise ConfigurationError([f"{source}: a template cannot be read: {error}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{source}: `answer` is no regular expression with one group: {error}"]) from error
    return found


def _lack(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name not in row or value is None:
        return "missing"
    return "empty" if isinstance(value, str) and not value.strip() else ""
