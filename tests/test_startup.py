"""What a run costs beside its calls: no imports that only other models or protocols need, no searches for garbage."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server

import harness_ext.reading
from harness_ext.backends.registry import BackendSpec
from harness_ext.config.run_plan import _devices
from harness_ext.engine.heap import settled_heap

# Answers one question through lm-eval's model interface and prints the names of all loaded modules. `device` is what
# lm-eval passes if the user names none.
RUN = textwrap.dedent("""
    import importlib, json, sys
    from lm_eval.api.instance import Instance

    module, name, folder, seats = sys.argv[1:]
    cls = getattr(importlib.import_module(module), name)
    lm = cls(**json.loads(seats), device="cuda:0", store=f"{folder}/calls", run_dir=f"{folder}/run", progress="off")
    settings = {"until": ["\\n\\n"], "max_gen_toks": 24}
    replies = lm.generate_until([Instance("generate_until", {"q": 1}, ("Where?", settings), 0, ("task", 0, 1))])
    print(json.dumps({"replies": replies, "loaded": sorted(sys.modules)}))
""")

# Not in this list are datasets and pandas, which every task of lm-eval imports (docs/plugins.md).
LIBRARIES = {"torch", "transformers", "accelerate", "scipy", "sklearn", "sympy", "math_verify"}
LOCAL_MODELS = {f"harness_ext.backends.{name}" for name in ("hf", "hf_lm", "hf_decide", "hf_verify", "registered")}
APPLICATIONS = {"harness_ext.analysis", "harness_ext.finetune", "harness_ext.enhance", "lm_eval.models.huggingface"}
READERS = {f"harness_ext.reading.{name}" for name in ("answer_reader", "choice_phrases", "number_reader", "truth")}


@pytest.mark.parametrize(
    ("module", "name", "seats", "unused"),
    [
        ("baseline", "BaselineLM", ("student",), {*READERS, "harness_ext.reading.verdicts"}),
        ("feedback_pair", "FeedbackPairLM", ("student", "teacher"), READERS),
    ],
)
def test_served_seats_import_only_what_they_use(
    tmp_path: Path, module: str, name: str, seats: tuple[str, ...], unused: set[str]
) -> None:
    with Server(lambda text: "Correct.") as server:
        models = dict.fromkeys(seats, f"openai:m@{server.url}")
        command = [sys.executable, "-c", RUN, f"harness_ext.models.{module}", name, str(tmp_path), json.dumps(models)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert server.requests
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["replies"] == ["Correct."]
    assert {"harness_ext.backends.openai", f"harness_ext.models.{module}"} <= set(found["loaded"])
    assert set(found["loaded"]) & (LIBRARIES | LOCAL_MODELS | APPLICATIONS | unused) == set()


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_served_model_takes_no_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    specs = {"student": BackendSpec("openai", "m"), "teacher": BackendSpec("hf", "a")}
    assert _devices(specs, device) == {"teacher": device}


def test_every_reader_is_found_by_its_name() -> None:
    for name in harness_ext.reading.__all__:
        found = getattr(harness_ext.reading, name)
        assert getattr(found, "__module__", "harness_ext.reading.").startswith("harness_ext.reading.")
    assert set(harness_ext.reading.__all__) <= set(dir(harness_ext.reading))
    with pytest.raises(AttributeError, match="no attribute 'read_nothing'"):
        harness_ext.reading.read_nothing  # noqa: B018


@pytest.fixture
def nothing_is_frozen() -> Iterator[None]:
    """Tests usually run with everything frozen that was there before them."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("nothing_is_frozen")
def test_the_garbage_collector_leaves_out_what_existed_before_a_run_and_only_then() -> None:
    assert gc.get_freeze_count() == 0
    with settled_heap():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    gc.freeze()  # as a program does that is about to fork
    try:
        own = gc.get_freeze_count()
        with settled_heap():
            assert gc.get_freeze_count() <= own  # objects that end are no longer counted
        assert 0 < gc.get_freeze_count() <= own
    finally:
        gc.unfreeze()
