"""`--to hf`: a data set of questions, turns and scores that `datasets` loads, and with `--repo` one on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError
from harness_ext.analysis.exports.tables import RUN, TABLES, parquet_files
from harness_ext.files import atomic_write
from harness_ext.terminal import outside, safe_line

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def write(runs: Sequence[ExportedRun], output: Path, options: ExportOptions) -> list[str]:
    """Write a data set into the output folder, and push it if `options.repo` names a repository.

    Each table is a configuration of the data set. Returns what to tell the user. Raises ExportError if the hub refuses,
    or if the repository exists and is public although a private one was asked for.
    """
    if options.repo is not None and not _REPO.fullmatch(options.repo):
        raise ExportError(f"--repo {options.repo} is not the name of a data set: write `owner/name`")
    made = dict(parquet_files(runs, output))
    with atomic_write(output / "README.md", private=True) as file:
        file.write(_card(runs, list(made)))
    lines = [f"{output / name}.parquet: {count} rows" for name, count in made.items()]
    lines.append(f'to load it: datasets.load_dataset("{options.repo or output}", "{next(iter(made))}")')
    if options.repo is not None:
        lines.append(_pushed(options.repo, output, [f"{name}.parquet" for name in made], options.public))
    return lines


def _pushed(repo: str, folder: Path, files: Sequence[str], public: bool) -> str:
    """Push a folder's data set, and return what to tell the user."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(repo, repo_type="dataset").private:
            raise ExportError(
                f"--repo {repo} exists and is public, so nothing was sent: give --public, or another data set's name"
            )
        done = api.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=str(folder), allow_patterns=["README.md", *files],
            commit_message="Export runs of harness-ext",
        )  # fmt: skip
    except ExportError:
        raise
    except Exception as error:  # httpx, the hub and its transfer libraries each raise errors of their own
        raise ExportError(
            f"--repo {repo}: the hub refused or cannot be reached ({outside(error)}). The data set is complete in "
            f"{folder}: log in with `hf auth login` or set HF_TOKEN, then run the same command with --overwrite"
        ) from error
    return f"sent to {done.commit_url}"


def _card(runs: Sequence[ExportedRun], names: Sequence[str]) -> str:
    """Return the data set's page: its configurations, for `datasets`, and what the columns mean."""
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in names)
    lines = [f"---\nconfigs:\n{configs}---\n\n# Runs of harness-ext\n"]
    lines += [f"- {_inert(run.name)}: {_inert(run.label)}, started {run.started:%Y-%m-%d}" for run in runs]
    for name in names:
        columns = {**RUN, **TABLES[name][0]}
        lines += [f"\n## {name}\n", "| column | meaning |", "| --- | --- |"]
        lines += [f"| `{column}` | {meaning.replace('|', chr(92) + '|')} |" for column, meaning in columns.items()]
    return "\n".join(lines) + "\n"


def _inert(text: str) -> str:
    """Return a name as the text of a Markdown page, in which it is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~-])", r"\\\1", safe_line(text))
