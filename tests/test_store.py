"""Tests of the call store: concurrent processes, killed processes, damaged files and full disks."""

from __future__ import annotations

import gc
import io
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_engine

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.engine.queues import CallPolicy
from harness_ext.errors import StoreError
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Completion, Loglikelihood, store_file
from harness_ext.records.call_store import CallStore
from harness_ext.records.store_file import checksum_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
completions = st.builds(
    Completion,
    texts,
    st.sampled_from(["stop", "length", None]),
    prompt_tokens=st.none() | st.integers(0, 10**6),
    cached_tokens=st.none() | st.integers(0, 10**6),
    completion_tokens=st.none() | st.integers(0, 10**6),
    seconds=st.floats(0, 1e6),
    notes=st.lists(texts, max_size=2).map(tuple),
) | st.builds(Loglikelihood, st.floats(-1e6, 0), st.none() | st.booleans())
keys = st.integers(0, 20).map(lambda n: f"{n:064x}")
steps = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(keys, completions), max_size=5) | st.just("reopen")), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_behaves_like_one_dictionary(steps) -> None:  # type: ignore[no-untyped-def]
    """Three stores are open on one folder. Each sees its own entries at once, and the others' after it is reopened."""
    with TemporaryDirectory() as folder:
        stores = [CallStore(Path(folder)) for _ in range(3)]
        put: list[dict[str, Completion]] = [{}, {}, {}]
        for which, action in steps:
            if action == "reopen":
                stores[which].close()
                stores[which] = CallStore(Path(folder))
            else:
                stores[which].put(action)
                put[which].update(action)
                assert all(stores[which].get(key) == put[which][key] for key, _ in action)
        for store in stores:
            store.close()
        last = CallStore(Path(folder))
        for key in {k for puts in put for k in puts}:
            assert last.get(key) in [c for puts in put for k, c in puts.items() if k == key]
        assert last.get("f" * 64) is None
        last.close()


def test_a_reply_comes_back_as_it_was(tmp_path: Path) -> None:
    said = Completion(
        "ä\x00\u2028\U0001f600",
        "length",
        prompt_tokens=3,
        cached_tokens=None,
        completion_tokens=5,
        seconds=0.25,
        notes=("a", "b"),
    )
    scored = Loglikelihood(float("-inf"), greedy=False)
    store = CallStore(tmp_path)
    store.put([("aa", said), ("bb", scored)])
    store.close()
    again = CallStore(tmp_path)
    assert again.get("aa") == said
    assert again.get("bb") == scored


def test_a_reply_that_a_policy_refuses_is_replaced(tmp_path: Path) -> None:
    """Also if another process has stored it: its file stays as it is, and the reply that will do is found."""
    first = CallStore(tmp_path)
    first.put([("aa", Completion("")), ("bb", Completion("of the first"))])
    second = CallStore(tmp_path)
    assert second.get("aa", lambda reply: reply != Completion("")) is None
    second.put([("aa", Completion("better"))])
    first.put([("bb", Completion("again"))])
    for store in (first, second):
        store.close()
    last = CallStore(tmp_path)
    assert last.get("aa", lambda reply: reply != Completion("")) == Completion("better")
    assert last.get("bb") == Completion("again")
    last.close()


def test_an_empty_reply_is_paid_for_once_more_and_then_replaced(tmp_path: Path) -> None:
    class Draft(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"student": Role("writes")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            return await seats.student.generate(question.context, kind="draft")

    replies = iter(["", "full"])
    backend = ScriptedBackend(lambda prompt: next(replies), name="student")
    said = []
    for keep_empty in (True, False, False):
        store = CallStore(tmp_path)
        engine = Engine(store, policy=CallPolicy(keep_empty=keep_empty))
        found = run_engine(engine, Draft(), {"student": backend}, [Question("q", {}, task="t")])
        said.append(found[0].text)
        store.close()
    assert said == ["", "full", "full"]


def test_a_process_reads_what_others_wrote_and_writes_its_own_file(tmp_path: Path) -> None:
    first = CallStore(tmp_path)
    first.put([("aa", Completion("of the first"))])
    second = CallStore(tmp_path)
    assert second.get("aa") == Completion("of the first")
    first.put([("bb", Completion("later"))])
    assert second.get("bb") == Completion("later")
    assert len(list(tmp_path.glob("*.sqlite"))) == 2
    for store in (first, second):
        store.close()
    CallStore(tmp_path).close()
    assert len(list(tmp_path.glob("*.sqlite"))) == 2, "files of ended processes are reused"


def test_a_store_that_nobody_uses_any_more_releases_its_file(tmp_path: Path) -> None:
    for _ in range(3):
        CallStore(tmp_path).put([("aa", Completion("x"))])
        gc.collect()
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_store_files_are_private_and_never_links(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = CallStore(folder)
    store.put([("aa", Completion("x"))])
    assert {oct(path.stat().st_mode & 0o077) for path in [folder, *folder.iterdir()]} == {"0o0"}
    store.close()
    (lock,) = folder.glob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="store=<folder>"):
        CallStore(folder)
    assert not (tmp_path / "elsewhere").exists()


WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from harness_ext.records import Completion
    from harness_ext.records.call_store import CallStore

    store = CallStore(Path(sys.argv[1]))
    for i in range(int(sys.argv[3])):
        store.put([(f"{sys.argv[2]}{i:06x}", Completion(f"{sys.argv[2]} {i}"))])
        print(i, flush=True)
""")


def start_writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_processes_write_concurrently(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, name, 150) for name in ("aa", "bb")]
    assert [w.wait(60) for w in writers] == [0, 0]
    store = CallStore(tmp_path)
    assert len(store) == 300
    assert all(store.get(f"{name}{i:06x}") == Completion(f"{name} {i}") for name in ("aa", "bb") for i in range(150))


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    for number in range(4):
        name = f"a{number}"
        writer = start_writer(tmp_path, name, 10**6)
        assert writer.stdout is not None
        for _ in range(5 + 20 * number):
            said = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout.read().split("\n")[:-1]:  # complete lines that were still in the pipe
            said = int(line)
        writer.wait()
        store = CallStore(tmp_path)
        assert all(store.get(f"{name}{i:06x}") == Completion(f"{name} {i}") for i in range(said + 1))
        store.close()


@pytest.mark.parametrize("damage", ["random", "header", "cut", "page"])
def test_the_error_about_a_damaged_file_names_it_and_the_remedy(tmp_path: Path, damage: str) -> None:
    store = CallStore(tmp_path)
    store.put([(f"{i:064x}", Completion(f"text {i}" * 50)) for i in range(500)])
    store.close()
    (path,) = tmp_path.glob("*.sqlite")
    content = bytearray(path.read_bytes())
    if damage == "random":
        content[:] = bytes(i * 7 % 256 for i in range(len(content)))
    elif damage == "header":
        content[:16] = b"no longer SQLite"
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    def read_all() -> None:
        broken = CallStore(tmp_path)
        for i in range(500):
            broken.get(f"{i:064x}")

    with pytest.raises(StoreError, match=r"damaged.*mv .*same command again") as raised:
        read_all()
    assert str(path) in str(raised.value)
    path.rename(path.with_suffix(".damaged"))  # the remedy in the message
    again = CallStore(tmp_path)
    again.put([("aa", Completion("works"))])
    assert again.get("aa") == Completion("works")


OLD_SCHEMA = "CREATE TABLE calls (key BLOB NOT NULL UNIQUE, reply TEXT NOT NULL)"


def old_store(folder: Path, rows: dict[str, object]) -> Path:
    """Write a store as earlier versions did: without checksums."""
    CallStore(folder).close()
    (path,) = folder.glob("*.sqlite")
    path.unlink()
    path.with_suffix(".lock").write_text("")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(OLD_SCHEMA)
    connection.executemany("INSERT INTO calls VALUES (?, ?)", [(bytes.fromhex(k), r) for k, r in rows.items()])
    connection.close()
    return path


def test_stores_of_earlier_versions_are_read_and_continued(tmp_path: Path) -> None:
    old_store(tmp_path, {"aa": '{"text": "old", "finish": "stop"}', "bb": '{"text": ""}'})
    store = CallStore(tmp_path)
    assert store.get("aa") == Completion("old", "stop")
    store.put([("bb", Completion("new")), ("cc", Completion("newer"))])
    store.close()
    again = CallStore(tmp_path)
    assert [again.get(key) for key in ("bb", "cc")] == [Completion("new"), Completion("newer")]
    assert len(again) == 3
    again.close()


@pytest.mark.parametrize(
    "entry",
    [
        "[1, 2]",
        "3",
        "null",
        "{}",
        "no JSON",
        '{"text": null}',
        '{"text": 5}',
        '{"text": "", "logprob": "low"}',
        '{"text": "", "notes": [1]}',
        '{"text": "", "decision": []}',
        '{"text": "", "checks": {}}',
        "[" * 100_000,
    ],
)
def test_an_entry_of_another_form_names_the_remedy(tmp_path: Path, entry: str) -> None:
    path = old_store(tmp_path, {"aa": entry})
    store = CallStore(tmp_path)
    with pytest.raises(StoreError, match=r"not a reply.*mv .*same command again") as raised:
        store.get("aa")
    assert str(path) in str(raised.value)
    store.close()


@pytest.mark.parametrize("columns", ["id INTEGER, said TEXT", "key BLOB"])
def test_a_file_of_another_program_names_the_remedy(tmp_path: Path, columns: str) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute(f"CREATE TABLE calls ({columns})")
    connection.close()
    with pytest.raises(StoreError, match=r"other.sqlite is damaged.*mv .*same command again"):
        CallStore(tmp_path)


@pytest.mark.parametrize(
    "reply", ['{"text": "new", "mood": "good"}', '{"text": "", "ranking": [2, 1]}', '{"text": "x", "finish": 7}']
)
def test_a_reply_of_a_newer_version_is_missing_and_reported_once(
    tmp_path: Path, reply: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CallStore(tmp_path)
    store.put([("aa", Completion("x")), ("bb", Completion("known"))])
    store.close()
    (path,) = tmp_path.glob("*.sqlite")
    rewrite(path, "aa", reply)
    again = CallStore(tmp_path)
    assert [again.get("aa"), again.get("aa"), again.get("bb")] == [None, None, Completion("known")]
    said = capsys.readouterr().err
    assert said.count(str(path)) == 1
    assert "newer version" in said
    again.put([("aa", Completion("asked again"))])
    assert again.get("aa") == Completion("asked again")
    again.close()


def rewrite(path: Path, key: str, reply: str) -> None:
    """Replace a reply together with its checksum, as another version would have written it."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE replies SET reply = ?, checksum = ? WHERE key = ?",
            (reply, checksum_of(bytes.fromhex(key), reply.encode()), bytes.fromhex(key)),
        )
    connection.close()


# -- damage ----------------------------------------------------------------------------------------------------------

KEPT = {f"{i:064x}": Completion(f"reply {i} " * (700 if i % 7 == 0 else i), "stop") for i in range(40)}


class Files(dict[str, bytes]):
    """Contents of files by name; a failing test does not print them."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def kept_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the files of a store as a killed process leaves them: half of the replies are in the log alone."""
    folder = tmp_path_factory.mktemp("kept")
    store = CallStore(folder)
    store.put(list(KEPT.items())[:20])
    store.close()
    store = CallStore(folder)
    store.put(list(KEPT.items())[20:])
    files = Files({p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".sqlite-shm"})
    store.close()
    assert len(files) == 3
    return files


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_damaged_no_reply_is_another_one(kept_files: Files, data: st.DataObject) -> None:
    """A reply is right or missing, or there is an error. Earlier versions returned wrong texts in silence."""
    name = data.draw(st.sampled_from(sorted(n for n in kept_files if not n.endswith(".lock"))))
    content = bytearray(kept_files[name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            position = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
            content[position] ^= 1 << data.draw(st.integers(0, 7))
    with TemporaryDirectory() as folder:
        for other, there in kept_files.items():
            (Path(folder) / other).write_bytes(content if other == name else there)
        said = io.StringIO()
        with redirect_stderr(said), suppress(StoreError):
            store = CallStore(Path(folder))
            found = {}
            for key in KEPT:
                with suppress(StoreError):
                    found[key] = store.get(key)
            store.close()
            assert all(reply in (None, KEPT[key]) for key, reply in found.items())


@pytest.mark.parametrize("length", [0, 1, 100, 4096])
def test_a_file_that_was_cut_off_is_not_a_new_one(kept_files: Files, tmp_path: Path, length: int) -> None:
    for name, content in kept_files.items():
        if not name.endswith("-wal"):
            (tmp_path / name).write_bytes(content[:length] if name.endswith(".sqlite") else content)
    with pytest.raises(StoreError, match=r"is damaged.*mv .*same command again"):
        CallStore(tmp_path)
    (path,) = tmp_path.glob("*.sqlite")
    path.rename(path.with_suffix(".damaged"))  # the remedy in the message
    CallStore(tmp_path).close()


def test_a_damaged_reply_is_missing_reported_and_replaced(
    kept_files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in kept_files.items():
        (tmp_path / name).write_bytes(content.replace(b"reply 19 reply", b"reply 18 reply"))
    store = CallStore(tmp_path)
    key = f"{19:064x}"
    assert [store.get(key), store.get(key)] == [None, None]
    assert capsys.readouterr().err.count("damaged replies") == 1
    store.put([(key, KEPT[key])])
    assert store.get(key) == KEPT[key]
    store.close()


def test_the_name_of_a_file_does_not_control_the_terminal(
    kept_files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in kept_files.items():
        strange = f"strange\x1b[2J{name[name.index('.') :]}"
        (tmp_path / strange).write_bytes(content.replace(b"reply 19 reply", b"reply 18 reply"))
    store = CallStore(tmp_path)
    assert store.get(f"{19:064x}") is None
    store.close()
    said = capsys.readouterr().err
    assert "damaged replies" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("how", ["removed", "damaged", "older copy"])
def test_replies_that_a_crash_took_along_are_reported(
    kept_files: Files, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in kept_files.items():
        if not name.endswith("-wal"):
            (tmp_path / name).write_bytes(content)
        elif how == "damaged":
            (tmp_path / name).write_bytes(b"\0" * 32 + content[32:])
    if how == "older copy":
        (path,) = tmp_path.glob("*.sqlite")
        path.with_suffix(".lock").write_text("25\n")
    store = CallStore(tmp_path)
    missing = 5 if how == "older copy" else 20
    assert f"lacks the last {missing} of {20 + missing} replies" in capsys.readouterr().err
    assert [store.get(key) for key in KEPT] == [*list(KEPT.values())[:20], *[None] * 20]
    store.close()
    CallStore(tmp_path).close()
    assert not capsys.readouterr().err, "it is reported once"


def test_a_crash_leaves_little_in_the_log_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is merged by size, and where calls are slow by age."""
    store = CallStore(tmp_path)
    for i in range(2_000):
        store.put([(f"{i:08x}", Completion("x" * 500))])
    (path,) = tmp_path.glob("*.sqlite")
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / path.name).write_bytes(path.read_bytes())  # without its log
    without = CallStore(lost)
    assert 2_000 - len(without) < 300
    without.close()
    monkeypatch.setattr(store_file.time, "monotonic", lambda: 1e12)
    store.put([("aa", Completion("after a long time"))])
    (lost / path.name).write_bytes(path.read_bytes())
    without = CallStore(lost)
    assert len(without) == 2_001
    without.close()
    store.close()


def test_the_error_about_an_impossible_folder_names_the_options(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"store=<folder>.*store=off"):
        CallStore(tmp_path / "file" / "store")


def test_a_full_disk_is_reported_and_nothing_stored_is_lost(tmp_path: Path) -> None:
    """A limit on the file size stands in for a full disk: the system reports both to SQLite in the same way."""
    script = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from harness_ext.errors import StoreError
        from harness_ext.records import Completion
        from harness_ext.records.call_store import CallStore

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        store = CallStore(Path(sys.argv[1]))
        try:
            for i in range(10**6):
                store.put([(f"{i:08x}", Completion("x" * 2000))])
        except StoreError as error:
            print(i, error)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True
    )
    stored, _, message = ended.stdout.partition(" ")
    assert "make room" in message
    assert "Everything stored before is safe" in message
    store = CallStore(tmp_path)
    assert int(stored) > 30
    assert all(store.get(f"{i:08x}") is not None for i in range(int(stored)))
    store.put([("aa", Completion("there is room again"))])
    assert store.get("aa") is not None


def test_storing_many_small_batches_is_fast(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    started = time.process_time()
    for i in range(500):
        store.put([(f"{i:064x}", Completion("text"))])
        store.get(f"{i:064x}")
    assert (time.process_time() - started) / 500 < 0.005, "seconds per call"
