"""Tests of the call store: concurrent processes, killed processes, damaged files and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.errors import StoreError
from harness_ext.records import Completion, Loglikelihood
from harness_ext.records.call_store import CallStore

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
        first_put: list[dict[str, Completion]] = [{}, {}, {}]
        for which, action in steps:
            if action == "reopen":
                stores[which].close()
                stores[which] = CallStore(Path(folder))
            else:
                stores[which].put(action)
                for key, completion in action:
                    first_put[which].setdefault(key, completion)
                    assert stores[which].get(key) is not None
        for store in stores:
            store.close()
        last = CallStore(Path(folder))
        for key in {k for puts in first_put for k in puts}:
            assert last.get(key) in [c for puts in first_put for k, c in puts.items() if k == key]
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
    store.put([("aa", Completion("other"))])
    store.close()
    again = CallStore(tmp_path)
    assert again.get("aa") == said
    assert again.get("bb") == scored


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


def test_a_malformed_entry_is_an_error(tmp_path: Path) -> None:
    store = CallStore(tmp_path)
    store.put([("aa", Completion("x"))])
    store.close()
    (path,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE calls SET reply = '[1, 2]'")
    connection.close()
    with pytest.raises(StoreError, match="contains an entry that is not a reply"):
        CallStore(tmp_path).get("aa")


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
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
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
