"""Turns the specification of a model (`hf:gpt2`) into its backend."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.backends.base import Backend
from harness_ext.backends.constructor import typed_arguments
from harness_ext.backends.openai_options import check_address
from harness_ext.options import suggest
from harness_ext.records.fingerprint import model_fingerprint

if TYPE_CHECKING:
    from harness_ext.backends.registered import LMBackend

SERVED = "openai"  # the backend of models that a server answers for
STARTED = "serve"  # likewise, by a server that the run starts
OWN_BACKENDS = ("hf", SERVED, STARTED, "classifier", "decision")
PROTOCOLS = "harness_ext.models."  # the modules of this package's protocols, which lm-eval knows by path
NAME_ARGUMENTS = ("pretrained", "model", "model_name", "path", "engine")


@dataclass(frozen=True)
class BackendSpec:
    """The specification of a model.

    backend: the name of the backend.
    name: the model's name for that backend.
    args: the backend's own arguments. Default: none.
    """

    backend: str
    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Return a key that is equal for specifications that can share one loaded model."""
        return (self.backend, self.name, tuple(sorted((k, repr(v)) for k, v in self.args.items())))


def parse_spec(text: str, args: Mapping[str, Any]) -> BackendSpec:
    """Parse `<backend>:<name>`. Text without a colon, and any existing path, is the name of an `hf` model.

    Raises ValueError with cause and remedy if the backend is unknown.
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
        f"`{backend}` in `{text}` is not a backend{suggest(backend, known)}: use `hf:<model>`, "
        "`openai:<model>@<base url>`, `serve:<model>`, or another model of lm-eval as `<name>:<model>`. "
        f"The names: {', '.join(seat_models())}"
    )


def backend_names() -> list[str]:
    """Return the names of all backends: those of this package, and every model registered with lm-eval."""
    import lm_eval.models  # noqa: F401  (registers lm-eval's models)
    from lm_eval.api.registry import model_registry

    return sorted({*OWN_BACKENDS, *model_registry})


def seat_models() -> list[str]:
    """Return the names of the backends that can take a seat: all but the protocols. Nothing is imported for that."""
    from lm_eval.api.registry import model_registry

    names = backend_names()
    classes = dict(model_registry.items())
    protocols = {name for name, cls in classes.items() if str(cls).startswith(PROTOCOLS) or _is_protocol(cls)}
    return [name for name in names if name in OWN_BACKENDS or name not in protocols]


def _is_protocol(cls: Any) -> bool:
    return bool(getattr(cls, "is_protocol", False))


def make_backend(spec: BackendSpec) -> Backend:
    """Return the backend of a specification, without loading weights. Raises ValueError with cause and remedy."""
    if spec.backend in ("hf", "hf-auto", "huggingface"):
        from harness_ext.backends.hf import make_hf_backend

        return make_hf_backend(spec.name, spec.args)
    if spec.backend == SERVED:
        from harness_ext.backends.openai import make_openai_backend

        return make_openai_backend(spec.name, spec.args)
    if spec.backend == STARTED:
        from harness_ext.backends.serve import make_serve_backend

        return make_serve_backend(spec.name, spec.args)
    if spec.backend == "classifier":
        from harness_ext.backends.classifier import make_classifier_backend

        return make_classifier_backend(spec.name, spec.args)
    if spec.backend == "decision":
        from harness_ext.backends.decision_model import make_decision_backend

        return make_decision_backend(spec.name, spec.args)
    return make_registered_backend(spec.backend, spec.name, spec.args)


def make_registered_backend(backend: str, name: str, args: Mapping[str, Any]) -> LMBackend:
    """Return the backend of a model registered with lm-eval.

    backend: the name under which the model class is registered.
    name: the model's name for that class.
    args: the class's own arguments.

    Raises ValueError with cause and remedy.
    """
    from lm_eval.api.registry import get_model

    cls = get_model(backend)
    if _is_protocol(cls):
        raise ValueError(
            f"`{backend}` is a protocol: write `protocol:{backend}`, and give the models of its seats below"
        )
    parameters = inspect.signature(cls.__init__).parameters
    takes = next((n for n in NAME_ARGUMENTS if n in parameters), "pretrained")
    operational = {k: args[k] for k in ("batch_size", "max_batch_size", "device") if args.get(k) is not None}
    own = typed_arguments(cls.__init__, {k: v for k, v in args.items() if k not in operational})
    own[takes] = name
    served = "base_url" in parameters
    if served and isinstance(own.get("base_url"), str):
        check_address(own["base_url"], f"`base_url={own['base_url']}`")
    device = f"{backend}:{name}@{own.get('base_url', '')}" if served else str(args.get("device") or backend)
    fingerprint = model_fingerprint(backend, own)
    kinds = {base.__name__ for base in cls.__mro__}

    def make() -> Any:
        return cls.create_from_arg_obj(own, operational)

    if "TemplateAPI" in kinds:
        from harness_ext.backends.registered_api import LMAPIBackend

        return LMAPIBackend(f"{backend}:{name}", device, fingerprint, make, "LocalChatCompletion" in kinds)
    return _class_for(cls)(f"{backend}:{name}", device, fingerprint, make)


def wrap_lm(lm: Any) -> LMBackend:
    """Return the backend of a ready-made `lm_eval.api.model.LM`.

    Nothing identifies the model, so later runs never reuse its calls.
    """
    name = type(lm).__name__
    device = str(getattr(lm, "device", None) or name)
    backend = _class_for(type(lm))(name, device, f"object:{uuid.uuid4()}", lambda: lm)
    backend.prepare()
    return backend


def _class_for(cls: type[Any]) -> type[LMBackend]:
    if getattr(cls, "MULTIMODAL", False):
        from harness_ext.backends.registered_multimodal import MultimodalBackend

        return MultimodalBackend
    from harness_ext.backends.registered import LMBackend

    return LMBackend
