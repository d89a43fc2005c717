"""Checkpoints: only those whose marker matches their files count as complete."""

from __future__ import annotations

import json
from pathlib import Path

from harness_ext.finetune.checkpoints import MARKER, last_complete, mark_complete, why_incomplete


def write(root: Path, step: int, complete: bool = True) -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"w" * 10)
    (folder / "sub" / "state.json").write_text("{}", encoding="utf-8")
    if complete:
        mark_complete(folder, step=step)
    return folder


def test_the_highest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    write(tmp_path, 9)
    best = write(tmp_path, 10)
    (tmp_path / "checkpoint-last").mkdir()
    found = last_complete(tmp_path)
    assert found.checkpoint == best
    assert found.skipped == ()
    assert json.loads((best / MARKER).read_text(encoding="utf-8"))["step"] == 10


def test_incomplete_checkpoints_are_skipped_with_the_reason(tmp_path: Path) -> None:
    good = write(tmp_path, 5)
    write(tmp_path, 6, complete=False)
    (write(tmp_path, 7) / "weights.bin").write_bytes(b"w" * 9)
    (write(tmp_path, 8) / "sub" / "state.json").unlink()
    (write(tmp_path, 9) / MARKER).write_text("{", encoding="utf-8")
    (tmp_path / "checkpoint-10").mkdir()
    found = last_complete(tmp_path)
    assert found.checkpoint == good
    assert [reason.split()[0].split("/")[0] for reason in found.skipped] == [
        f"checkpoint-{step}" for step in (10, 9, 8, 7, 6)
    ]
    assert "9 bytes instead of 10" in found.skipped[3]


def test_nothing_is_found_in_a_fresh_folder(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "none").checkpoint is None
    assert last_complete(tmp_path).skipped == ()
    assert "saving was not finished" in why_incomplete(tmp_path)
