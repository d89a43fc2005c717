"""The models behind the seats: one file a kind, one function that turns a specification into one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.options import suggest


@dataclass(frozen=True)
class BackendSpec:
    """Which model: a backend's name, the model's name for it, and that backend's own arguments."""

    backend: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Return what makes two specs the same loaded model."""
        return (self.backend, self.name, tuple(sorted((k, repr(v)) for k, v in self.args.items())))


def parse_spec(text: str, args: Mapping[str, Any]) -> BackendSpec:
    """Read `<backend>:<name>`; without a known backend in front, the whole text names a model of `hf`.

    Raises ValueError with the remedy for a backend nobody knows.
    """
    backend, colon, name = text.partition(":")
    if not colon or Path(text).expanduser().exists():
        return BackendSpec("hf", text, args)
    known = backend_names()
    if backend in known:
        if not name:
            raise ValueError(f"`{text}` names no model: write `{backend}:<model>`")
        return BackendSpec(backend, name, args)
    raise ValueError(
        f"`{backend}` in `{text}` is no backend{suggest(backend, known)}: use `hf:<model>`, "
        "`openai:<model>@<base url>` or a model of lm-eval (`vllm:<model>`, …; `lm_eval ls models` lists them)"
    )


def backend_names() -> list[str]:
    """Return the names of all backends: ours, and every model registered with lm-eval that is no protocol."""
    import lm_eval.models  # noqa: F401  (registers lm-eval's models)
    from lm_eval.api.registry import model_registry

    return sorted({"hf", "openai", "classifier", *model_registry})


def make_backend(spec: BackendSpec) -> Backend:
    """Make a spec's backend, without loading weights. Raises ValueError with cause and remedy."""
    if spec.backend in ("hf", "hf-auto", "huggingface"):
        from harness_ext.backends.hf import make_hf_backend

        return make_hf_backend(spec.name, spec.args)
    if spec.backend == "openai":
        from harness_ext.backends.openai import make_openai_backend

        return make_openai_backend(spec.name, spec.args)
    if spec.backend == "classifier":
        from harness_ext.backends.classifier import make_classifier_backend

        return make_classifier_backend(spec.name, spec.args)
    from harness_ext.backends.lm import make_lm_backend

    return make_lm_backend(spec.backend, spec.name, spec.args)
