"""Tests of fingerprints: equal for copies of a model and for other ways to run it, different for other models."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.registry import make_registered_backend
from harness_ext.records import file_digest as digests
from harness_ext.records.file_digest import file_digest
from harness_ext.records.fingerprint import folder_digest, model_fingerprint

SERVED = "m@http://localhost:9/v1"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for models whose files count as large: only samples of them are read."""
    monkeypatch.setattr(digests, "SMALL_FILE", 1_000)
    monkeypatch.setattr(digests, "SAMPLES", 4)
    monkeypatch.setattr(digests, "SAMPLE", 64)
    monkeypatch.setattr(digests, "TENSOR_SAMPLE", 32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def safetensors(tensors: dict[str, bytes]) -> bytes:
    """Return a safetensors file with these tensors."""
    header, start = {}, 0
    for name, content in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [start, start + len(content)]}
        start += len(content)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + b"".join(tensors.values())


def tensors(changed: int = -1) -> dict[str, bytes]:
    return {f"layer {i}": bytes([i + (i == changed)]) * 2_000 for i in range(40)}


def test_a_copy_of_a_model_is_the_same_model(large: Path) -> None:
    """Whatever its times are, so a copy on a node's own disk and another download find each other's calls."""
    (large / "model.safetensors").write_bytes(safetensors(tensors()))
    (large / "config.json").write_text("{}")
    first = model_fingerprint("hf", {"pretrained": str(large)})
    copy = shutil.copytree(large, large.parent / "scratch", copy_function=shutil.copyfile)
    os.utime(copy / "model.safetensors", (1, 1))
    assert model_fingerprint("hf", {"pretrained": str(copy)}) == first
    snapshot = model_fingerprint("hf", {"pretrained": str(copy)}, commit="of the folder's path")
    assert snapshot == first
    (copy / "optimizer.pt").write_text("state")
    (copy / "README.md").write_text("about")
    assert model_fingerprint("hf", {"pretrained": str(copy)}) == first


@pytest.mark.parametrize("layer", range(40))
def test_a_model_of_which_one_layer_was_trained_is_another_one(large: Path, layer: int) -> None:
    file = large / "model.safetensors"
    file.write_bytes(safetensors(tensors()))
    first = folder_digest(large)
    file.write_bytes(safetensors(tensors(changed=layer)))
    assert folder_digest(large) != first


def test_a_subfolder_that_is_loaded_counts(large: Path) -> None:
    (large / "inner").mkdir()
    (large / "inner" / "model.bin").write_text("a")
    args = {"pretrained": str(large), "subfolder": "inner"}
    first = model_fingerprint("hf", args)
    (large / "inner" / "model.bin").write_text("b")
    assert model_fingerprint("hf", args) != first


def test_the_sample_of_a_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large / "model.safetensors"
    file.write_bytes(safetensors(tensors()))
    monkeypatch.setattr(digests.time, "time_ns", lambda: 2**62)  # long after the file was written
    first = file_digest(file)
    sampled = digests._sampled
    reads: list[Path] = []
    monkeypatch.setattr(digests, "_sampled", lambda path, size: reads.append(path) or sampled(path, size))
    assert file_digest(file) == first
    assert not reads
    times = file.stat()
    file.write_bytes(safetensors(tensors(changed=3)))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `rsync --times` does
    assert file_digest(file) != first
    assert reads


def test_a_file_that_has_just_changed_is_not_remembered(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next change could have the same time."""
    file = large / "model.bin"
    file.write_bytes(b"x" * 5_000)
    monkeypatch.setattr(digests.time, "time_ns", lambda: file.stat().st_mtime_ns)
    file_digest(file)
    assert not (large.parent / "cache").exists()


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"state": 1}', '{"state": [], "digest": 5}', "\xff"])
def test_notes_that_cannot_be_read_are_written_again(large: Path, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large / "model.bin"
    file.write_bytes(b"x" * 5_000)
    monkeypatch.setattr(digests.time, "time_ns", lambda: 2**62)
    first = file_digest(file)
    (there,) = (large.parent / "cache" / "harness_ext" / "digests").iterdir()
    good = there.read_bytes()
    there.write_bytes(note.encode("latin-1"))
    assert file_digest(file) == first
    assert there.read_bytes() == good


def test_no_cache_folder_is_needed(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large / "model.bin"
    file.write_bytes(b"x" * 5_000)
    (large.parent / "cache").write_text("a file where the folder would be")
    monkeypatch.setattr(digests.time, "time_ns", lambda: 2**62)
    assert file_digest(file) == file_digest(file)


headers = st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
).map(lambda value: json.dumps(value).encode())


@given(headers, st.booleans())
def test_a_file_that_is_no_safetensors_file_is_sampled_like_any_other(header: bytes, is_long: bool) -> None:
    content = struct.pack("<Q", 2**60 if is_long else len(header)) + header + bytes(digests.SAMPLE)
    with TemporaryDirectory() as folder:
        named, other = Path(folder) / "model.safetensors", Path(folder) / "model.safetensors.copy"
        for path in (named, other):
            path.write_bytes(content)
        samples = [list(digests._samples(path, len(content))) for path in (named, other)]
    assert samples[0][: digests.SAMPLES] == samples[1]
    assert all(length > 0 for _, length in samples[0][: digests.SAMPLES])


@pytest.mark.parametrize(
    ("backend", "args"),
    [
        ("hf", {"parallelize": True, "max_memory_per_gpu": "20GiB", "tp_plan": "auto", "batch_size": 7}),
        ("vllm", {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5, "enforce_eager": True, "swap_space": 1}),
        ("vllm-vlm", {"data_parallel_size": 2, "max_num_seqs": 8}),
        ("sglang", {"tp_size": 2, "dp_size": 2, "mem_fraction_static": 0.3}),
        ("local-completions", {"num_concurrent": 9, "max_retries": 1, "timeout": 3, "verify_certificate": False}),
        ("trtllm", {"tensor_parallel_size": 2}),
        ("neuronx", {"tp_degree": 8}),
    ],
)
def test_how_a_model_is_run_does_not_count(backend: str, args: dict[str, object]) -> None:
    first = model_fingerprint(backend, {"pretrained": "owner/model"})
    assert model_fingerprint(backend, {"pretrained": "owner/model", **args}) == first


@pytest.mark.parametrize(
    ("backend", "args"),
    [
        ("hf", {"dtype": "bfloat16"}),
        ("hf", {"revision": "other"}),
        ("vllm", {"quantization": "fp8"}),
        ("vllm", {"max_model_len": 512}),
        ("local-completions", {"base_url": "http://other"}),
        ("a third party's", {"timeout": 3}),
    ],
)
def test_what_can_change_a_text_counts(backend: str, args: dict[str, object]) -> None:
    first = model_fingerprint(backend, {"pretrained": "owner/model"})
    assert model_fingerprint(backend, {"pretrained": "owner/model", **args}) != first


def test_a_served_seat_is_identified_by_what_it_sends() -> None:
    def fingerprint(**args: object) -> str:
        return make_openai_backend(SERVED, args).fingerprint

    first = fingerprint()
    assert fingerprint(num_concurrent=3, timeout=5, max_retries=1) == first
    assert fingerprint(omit="temperature") != first
    assert fingerprint(omit="temperature+stop") == fingerprint(omit="stop+temperature") != fingerprint(omit="stop")


def test_lm_evals_own_api_models_are_identified_alike() -> None:
    def fingerprint(**args: object) -> str:
        return make_registered_backend("local-completions", "m", {"base_url": "http://h/v1", **args}).fingerprint

    assert fingerprint() == fingerprint(num_concurrent=8, max_retries=2) != fingerprint(seed=5)
