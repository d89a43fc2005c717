"""Words from servers, files and models: what of them reaches messages, records and terminals."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Server
from support import instances

from harness_ext import credentials
from harness_ext.backends.http_client import Fault, NotOffered
from harness_ext.bridge.exports import export
from harness_ext.credentials import MASK, hide, mask
from harness_ext.decisions.calibration import Calibration
from harness_ext.errors import CallFailed, ConfigurationError, HarnessExtError, LoadError, RunFailed, StoreError
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.readers import open_source
from harness_ext.models.baseline import BaselineLM
from harness_ext.protocol.conversation import read_answers
from harness_ext.reading.rows import RowError
from harness_ext.records.run_directory import read_transcripts
from harness_ext.records.transcript import Failure
from harness_ext.tasks.teacherlm.rows import facts_of
from harness_ext.terminal import clean, note, outside

KEY = "my-very-own-key-0815"
ESCAPES = "\x1b[2J\x1b]0;title\x07\u202e\x9b31m"
ASKED = {"until": [], "max_gen_toks": 8}


@pytest.fixture(autouse=True, scope="module")
def forget_secrets() -> Iterator[None]:
    """Other tests in this process do not know what the tests here hide."""
    known = set(credentials._hidden)
    yield
    credentials._hidden.intersection_update(known)


def make(tmp_path: Path, url: str, **options: Any) -> BaselineLM:
    given: dict[str, Any] = {"store": "off", "run_dir": tmp_path / "r", "progress": "off", "student": f"openai:m@{url}"}
    return BaselineLM(**{**given, "student.max_retries": 0, **options})


def controls(text: str) -> list[str]:
    """Return the characters of a text that could control a terminal."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\u200c\u200d"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"error": {"message": f"{ESCAPES} your key {KEY}"}}),
        (200, {"error": f"{ESCAPES} {KEY}"}),
        (200, {"choices": [{"message": {"content": {f"{KEY}{ESCAPES}": 1}}}]}),
        (200, {"choices": {f"{KEY}{ESCAPES}": 1}}),
        (400, {"error": {"message": f"{ESCAPES} {KEY}"}}),
        (500, {"error": {"message": f"{ESCAPES} {KEY}"}}),
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}{ESCAPES}"}}),
    ],
)
def test_what_a_server_says_is_clean_wherever_it_appears(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: int, body: Any
) -> None:
    monkeypatch.setenv("SOME_KEY_NAME", KEY)
    with Server(lambda text: body, status=status) as server:
        lm = make(tmp_path, server.url, **{"student.api_key_env": "SOME_KEY_NAME"})
        with pytest.raises((RunFailed, LoadError)) as raised:
            lm.generate_until(instances(["a"], ASKED))
    assert server.seen_headers[0]["Authorization"] == f"Bearer {KEY}"
    written = [file.read_text() for file in (tmp_path / "r").iterdir() if file.is_file()]
    for text in (str(raised.value), *capfd.readouterr(), *written):
        assert KEY not in text
        assert not controls(text)


@pytest.mark.parametrize(
    "make_error",
    [HarnessExtError, StoreError, LoadError, lambda t: CallFailed("backend", t), DataError, ConfigError, RowError],
)
def test_no_error_of_this_package_carries_credentials_or_escapes(make_error: Any) -> None:
    hide(KEY)
    text = str(make_error(f"first line{ESCAPES}\nsecond {KEY} hf_{'aB' * 17} https://user@host/x?api_key=12345"))
    assert not controls(text)
    assert "\nsecond" in text
    assert KEY not in text
    assert "aBaB" not in text
    assert "user@" not in text
    assert "12345" not in text


def test_problems_with_arguments_are_clean() -> None:
    error = ConfigurationError([f"`x={ESCAPES}`: bad", f"hf_{'aB' * 17}"])
    assert not controls("".join(error.problems) + str(error))
    assert error.problems[1] == MASK


def test_the_records_failures_are_clean() -> None:
    assert Failure("protocol", f"P raised ValueError: {ESCAPES}{'sk-' + 'a1' * 20}").message.endswith(MASK)
    assert not controls(Failure("protocol", ESCAPES).message)


def test_faults_are_short_lines() -> None:
    for error in (Fault("bad", f"a\n{ESCAPES}" * 10_000), NotOffered("server", f"a\n{ESCAPES}" * 10_000)):
        assert "\n" not in str(error)
        assert len(str(error)) <= 600
        assert not controls(str(error))


@given(st.text(), st.integers(1, 50))
def test_any_words_from_outside_become_one_short_line(text: str, most: int) -> None:
    said = outside(text, most)
    assert len(said) <= most
    assert not controls(said)
    assert "\n" not in said


@given(st.text(), st.text(), st.text("abcdefghijklmnop0123456789-_", min_size=12, max_size=40))
def test_a_hidden_secret_is_never_said(before: str, after: str, secret: str) -> None:
    hide(secret)
    assert secret not in outside(before + secret + after)
    assert secret not in clean(before + secret + after)
    assert secret not in str(HarnessExtError(f"{before} {secret} {after}"))


@given(st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert mask(mask(text)) == mask(text)


def test_an_exception_that_cannot_be_described_is_described() -> None:
    class Strange(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert outside(Strange()) == "Strange without a text (RuntimeError)"


def test_keys_that_servers_want_but_do_not_check_are_ordinary_words() -> None:
    hide("EMPTY")
    hide("x")
    assert mask("EMPTY text") == "EMPTY text"


def test_201_with_a_good_body_is_a_reply(tmp_path: Path) -> None:
    with Server(status=201) as server:
        assert make(tmp_path, server.url).generate_until(instances(["a"], ASKED)) == ["re: a"]


def test_a_body_that_is_nested_too_deeply_is_a_fault_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp import web

    calls = iter(range(10))
    misbehave = Server._misbehave

    async def nested(self: Server, fault: str, request: Any, data: Any) -> web.StreamResponse:
        if fault == "nested":
            return web.Response(text="[" * 200_000 + "]" * 200_000, content_type="application/json")
        return await misbehave(self, fault, request, data)

    monkeypatch.setattr(Server, "_misbehave", nested)
    with Server(plan=lambda text: "nested" if next(calls) == 0 else None) as server:
        lm = make(tmp_path, server.url, **{"student.max_retries": 1})
        assert lm.generate_until(instances(["a"], ASKED)) == ["re: a"]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["faults"] == {"bad_json": 1}


NESTED = "[" * 200_000 + "]" * 200_000


def test_texts_and_files_that_are_nested_too_deeply_are_malformed_ones(tmp_path: Path) -> None:
    file = tmp_path / "samples_scienceqa_1.jsonl"
    file.write_text(NESTED)
    assert read_answers(NESTED) == []
    assert facts_of(NESTED) == [NESTED]
    with pytest.raises(DataError, match="line 1 is not JSON"):
        list(open_source(str(file))[""])
    with pytest.raises(ValueError, match="cannot be read"):
        Calibration.read(file)
    with pytest.raises(HarnessExtError, match="line 1 is not an lm-eval sample"):
        export([file], tmp_path)
    (tmp_path / "transcripts.jsonl").write_text(NESTED)
    assert list(read_transcripts(tmp_path)) == []


def test_messages_of_several_threads_never_share_a_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: note(f"message {number}"), range(4000)))
    finally:
        sys.setswitchinterval(before)
    expected = sorted(f"[harness-ext] message {number}" for number in range(4000))
    assert sorted(capfd.readouterr().err.split("\n")[:-1]) == expected


def test_a_message_that_nobody_reads_does_no_harm() -> None:
    closed = io.StringIO()
    closed.close()
    note("gone", closed)
    read, write = os.pipe()
    os.close(read)
    with suppress(BrokenPipeError), open(write, "w") as broken:
        note("gone", broken)
        note("gone again", broken)
