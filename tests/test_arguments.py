"""Model arguments to seats: devices, shared models and problems."""

from __future__ import annotations

import pytest

from harness_ext.backends.registry import BackendSpec, parse_spec
from harness_ext.config.run_plan import _devices, plan_run
from harness_ext.embedded import model_path
from harness_ext.engine.processes import Place
from harness_ext.errors import ConfigurationError
from harness_ext.models.feedback_pair import FeedbackPair

STUDENT, TEACHER = BackendSpec("hf", "a"), BackendSpec("hf", "b", {"dtype": "bfloat16"})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Make torch see as many GPUs as the test asks for."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("gpus", "requested", "expected"),
    [
        (0, "cuda:0", ("cpu", "cpu")),
        (1, "cuda:0", ("cuda:0", "cuda:0")),
        (2, "cuda:0", ("cuda:0", "cuda:1")),  # lm-eval passes `cuda:0` also if no device was requested
        (2, None, ("cuda:0", "cuda:1")),
        (8, None, ("cuda:0", "cuda:1")),
        (2, "cuda:1", ("cuda:1", "cuda:1")),
        (2, "cpu", ("cpu", "cpu")),
        (0, "mps", ("mps", "mps")),
    ],
    indirect=["gpus"],
)
def test_devices_of_two_models(gpus: None, requested: str | None, expected: tuple[str, str]) -> None:
    devices = _devices({"student": STUDENT, "teacher": TEACHER}, requested)
    assert (devices["student"], devices["teacher"]) == expected


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_one_model_on_two_seats_uses_one_gpu(gpus: None) -> None:
    assert set(_devices({"student": STUDENT, "teacher": STUDENT}, None).values()) == {"cuda:0"}


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_a_parallelized_model_is_not_assigned_a_gpu(gpus: None) -> None:
    spread = BackendSpec("hf", "a", {"parallelize": True})
    assert _devices({"student": spread, "teacher": TEACHER}, None) == {"student": "cuda", "teacher": "cuda:0"}


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_a_launcher_assigns_the_device_of_each_process(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in Place(rank=0, world=2, local_world=2).variables().items():
        monkeypatch.setenv(name, value)
    assert set(_devices({"student": STUDENT, "teacher": TEACHER}, None).values()) == {"cuda"}


def test_equal_specifications_share_one_model() -> None:
    path = str(model_path("student"))
    plan = plan_run(FeedbackPair, {"student": path, "teacher": f"hf:{path}", "teacher.chat": "off"}, 4, None, "cpu")
    assert plan.seats["student"].backend is plan.seats["teacher"].backend
    assert (plan.seats["student"].chat, plan.seats["teacher"].chat) == ("auto", "off")
    assert not plan.demonstration


def test_the_batch_size_applies_to_every_seat_without_its_own() -> None:
    path = str(model_path("student"))
    plan = plan_run(FeedbackPair, {"student": path, "teacher": path, "teacher.batch_size": 3}, 16, None, "cpu")
    assert [setup.backend.lm.batch_size for setup in plan.seats.values()] == [16, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "backend", "name"),
    [
        ("gpt2", "hf", "gpt2"),
        ("owner/model", "hf", "owner/model"),
        ("hf:owner/model", "hf", "owner/model"),
        ("vllm:owner/model", "vllm", "owner/model"),
        ("local-completions:name:tag", "local-completions", "name:tag"),
    ],
)
def test_a_specification_consists_of_backend_and_model(text: str, backend: str, name: str) -> None:
    spec = parse_spec(text, {})
    assert (spec.backend, spec.name) == (backend, name)


def test_a_folder_with_a_colon_is_a_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "hff:model"
    folder.mkdir()
    assert parse_spec(str(folder), {}).backend == "hf"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"student": "hff:x", "teacher": "y"}, "did you mean `hf`?"),
        ({"student": "hf:", "teacher": "y"}, "names no model"),
        ({"teacher": "feedback_pair:x"}, "has no model"),
        ({"student": "/no/such/folder", "teacher": "/no/such/folder"}, "there is no folder"),
    ],
)
def test_problems_with_a_seat_are_reported(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        plan_run(FeedbackPair, arguments, 1, None, "cpu")
    assert words in str(error.value)


def test_a_model_class_that_cannot_be_created_is_a_problem_of_the_run() -> None:
    with pytest.raises(ConfigurationError) as error:
        plan_run(FeedbackPair, {"student": "dummy:x", "teacher": "dummy:y"}, 1, None, "cpu")
    assert len(error.value.problems) == 2  # lm-eval's dummy asks the hub for its tokenizer
