"""Which model arguments are treated as secrets, and which are not."""

from __future__ import annotations

import pytest

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
    ],
)
def test_secret_values(value: object, secret: bool) -> None:
    found = secrets_in({"student": value}, frozenset())
    assert bool(found) == secret
    assert all("a1a1" not in name for name in found)
