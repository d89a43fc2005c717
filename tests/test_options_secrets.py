"""Which model arguments are treated as secrets, and which are not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness_ext.config.secrets import secrets_in


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "OPENAI_API_KEY",
        "auth_token",
        "hf_token",
        "token",
        "student.token",
        "teacher.api_key",
        "password",
        "passwd",
        "client_secret",
        "credentials",
        "watsonx_credentials",
        "auth",
        "student.header.Authorization",
        "access_tokens",
        "student.credentials.user",
        "tokenizer_key",
        "apikey",
        "keys",
    ],
)
def test_secret_names_are_found(name: str) -> None:
    assert secrets_in({name: "x"}, frozenset()) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer",
        "student.tokenizer_mode",
        "use_fast_tokenizer",
        "tokenized_requests",
        "add_bos_token",
        "prefix_token_id",
        "max_tokens",
        "max_new_tokens",
        "student.max_num_batched_tokens",
        "tokenizer_revision",
        "skip_tokenizer_init",
        "n_ctx",
        "think_end_token",
        "image_token_id",
        "max_tokens_to_sample",
        "skip_special_tokens",
        "model",
        "dtype",
        "eos_token",
    ],
)
def test_terms_of_language_models_are_not_secrets(name: str) -> None:
    assert secrets_in({name: "x"}, frozenset()) == []


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("http://user:pass@host/v1", True),
        ("https://host:8000/v1", False),
        ("http://localhost:8000/v1/chat/completions", False),
        ("hf_" + "a1" * 17, True),
        ("sk-" + "a1" * 20, True),
        ("sk-proj-" + "a_1-" * 8, True),
        ("ghp_" + "a1" * 18, True),
        ("AKIA" + "A1" * 8, True),
        ("github_pat_" + "a1" * 20, True),
        ("Bearer abcdefgh12345", True),
        ("hf:" + "a" * 40, False),
        ("hf-internal-testing/tiny-random-LlamaForCausalLM", False),
        ("hf_checkpoints_2024_05_01_long_experiment_name/final", False),
        ("/data/hf/models--meta-llama--Llama-3.1-8B", False),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", False),
        ("task-kitchen-and-bathroom-of-the-house", False),
        (7, False),
        (["--header", "sk-" + "a1" * 20], True),
        ({"inner": "hf_" + "a1" * 17}, True),
        ({"inner": {"api_key": "x"}}, True),
        ({"inner": {"dtype": "x"}}, False),
        ([{"api_key": "x"}], True),
        ([{"dtype": "x"}], False),
        ([("a", {"inner": {"token": "x"}})], True),
        ('{"Authorization": "x", "Accept": "y"}', True),
        ("{'Cookie' : 'x'}", True),
        ('{"Accept": "y", "tokenizer": "x"}', False),
        (b"Bearer abcdefgh12345", True),
    ],
)
def test_secret_values(value: object, secret: bool) -> None:
    found = secrets_in({"student": value}, frozenset())
    assert bool(found) == secret
    assert all("a1a1" not in name for name in found)


ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJlLWJ5dGVz"


@pytest.mark.parametrize(
    "value",
    [
        "http://s3cr3t-token@host/v1",
        "openai:m@https://s3cr3ttoken@host/v1",
        "https://host/v1?code=abc",
        "https://host/v1?api-version=1&sig=abc%2F",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=0123abcd&X-Amz-Expires=60",
        "https://host/v1?api_key=abc",
        "https://host/v1?apikey=abc",
        "host/v1?api_key=abc",
        "https://host/v1?x=0123456789abcdef01",
        "https://host/#access_token=abc",
        JWT,
        f"x {JWT} y",
        "r8_" + "aB1" * 12 + "x",
        "hf_" + "aBcDeFgHiJ" * 3 + "abcd",
        "sk-ant-api03-" + "aB1_" * 20,
        "sk-or-v1-" + "0a" * 32,
        "gsk_" + "aB1" * 17,
        "xai-" + "aB1" * 26,
        "pplx-" + "a1b2" * 12,
        "nvapi-" + "aB1_" * 15,
        "xoxb-123456789012-123456789012-abcdefABCDEF",
        "glpat-" + "aB1x" * 5,
        "-----BEGIN PRIVATE KEY-----",
        "SG." + "a1" * 11 + "." + "b2" * 21 + "c",
        "ASIA" + "A1" * 8,
        "Basic dXNlcjpwYXNzd29yZA==",
    ],
)
@pytest.mark.parametrize("name", ["student", "student.base_url", "anything"])
def test_credentials_are_found_under_any_name(name: str, value: str) -> None:
    assert secrets_in({name: value}, frozenset()) == [name]
    assert secrets_in({name: ["x", value]}, frozenset()) == [name]
    assert secrets_in({name: {"inner": value}}, frozenset()) == [f"{name}.inner"]


@pytest.mark.parametrize(
    "name",
    ["student.header.Cookie", "bearer", "pw", "student.pw", "pwd", "db_pw", "jwt", "sas", "session_cookie", "signature",
     "passphrase", "pat"],
)  # fmt: skip
def test_more_names_of_secrets(name: str) -> None:
    assert secrets_in({name: "x"}, frozenset()) == [name]


@pytest.mark.parametrize(
    "name", ["path", "patience", "answer_pattern", "author", "sigma", "pattern", "assistant", "sasa"]
)
def test_names_that_only_begin_like_those_of_secrets(name: str) -> None:
    assert secrets_in({name: "x"}, frozenset()) == []


def test_the_value_of_a_secret_of_the_environment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPANY_API_KEY", "plainwords-as-a-key")
    monkeypatch.setenv("SOME_KEY_PATH", "/home/user/folder")
    monkeypatch.setenv("OTHER_KEY", "/home/user/folder")
    assert secrets_in({"a": "x/plainwords-as-a-key", "b": "/home/user/folder"}, frozenset()) == ["a"]


WORDS = ["llama", "Llama", "Qwen2.5", "Qwen3", "Mistral", "deepseek", "R1", "Distill", "Instruct", "Chat", "Base", "7B",
         "0.5B", "235B", "A22B", "2507", "GGUF", "AWQ", "Int4", "hf", "sk", "xai", "jina", "embeddings", "v2", "v0.3",
         "key", "token", "gsk8k", "AP", "SK", "AC", "APEBench", "AKI", "checkpoint", "step", "1000", "128k", "preview",
         "2024-05-01", "models--meta-llama--Llama-3.1-8B", "snapshots", "it", "eyJ", "pat", "sig", "r8"]  # fmt: skip


@st.composite
def model_names(draw: st.DrawFn) -> str:
    """Draw the name of a model as people make them: words, versions, sizes and hashes, with any separators."""
    parts = draw(st.lists(st.sampled_from(WORDS) | st.integers(0, 99999).map(str), min_size=1, max_size=8))
    name = parts[0]
    for part in parts[1:]:
        name += draw(st.sampled_from(["-", "_", "/", ".", "--"])) + part
    digest = draw(st.sampled_from(["", "sha1", "sha256", "short", "uuid"]))
    hexadecimal = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    tail = {"": "", "sha1": hexadecimal[:40], "sha256": hexadecimal, "short": hexadecimal[:7],
            "uuid": "-".join((hexadecimal[:8], hexadecimal[8:12], hexadecimal[12:16], hexadecimal[16:20],
                              hexadecimal[20:32]))}[digest]  # fmt: skip
    name += f"/{tail}" if tail else ""
    return draw(st.sampled_from(["", "hf:", "/data/", "./", "~/", "openai:", "vllm:", "s3://bucket/", "hf://"])) + name


@example("llama-eyJ-llama-llama.llama-llama", "")
@example("hf://llama", "@http://localhost:8000/v1")
@example("sk-llama-llama-llama-Qwen2.5", "")
@given(
    model_names(),
    st.sampled_from(["", "@http://localhost:8000/v1", "@https://host.example:443/a/v1?api-version=2024-02-01"]),
)
def test_names_paths_and_hashes_are_not_refused(name: str, address: str) -> None:
    assert secrets_in({"student": name + address, "list": [name]}, frozenset()) == []


@given(
    st.sampled_from(["hf_", "r8_", "sk-proj-", "ghp_", "gsk_", "https://host/?sig=", "http://", "Bearer "]),
    st.text(ALNUM, min_size=40, max_size=60),
    model_names(),
)
def test_keys_are_found_wherever_they_are(prefix: str, secret: str, name: str) -> None:
    value = f"{prefix}{secret}" + ("@host" if prefix == "http://" else "")
    assert secrets_in({"x": f"{name} {value} {name}"}, frozenset()) == ["x"]
