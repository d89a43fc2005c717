"""The command `harness-ext export RUN… --to FORMAT`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError, open_run, unique_names
from harness_ext.analysis.find_runs import find_runs
from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.analysis.scoring.score import read_figures
from harness_ext.config.run_options import RUNS
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.files import make_private_folder
from harness_ext.terminal import clean, safe_text

Write = Callable[[Sequence[ExportedRun], Path, ExportOptions], list[str]]


@dataclass(frozen=True)
class Format:
    """A format of exports.

    writer: the function that writes it, as `module:function` of this package.
    help: what it is, for `--help`.
    options: the names of the options that only some formats take, and this one does.
    adds: whether a folder can take further exports, as the store of a tracker can. Default false.
    needs: a module that has to be installed. Default none.
    extra: the extra of this package that installs it.
    """

    writer: str
    help: str
    options: tuple[str, ...] = ()
    adds: bool = False
    needs: str | None = None
    extra: str = ""

    def load(self) -> Write:
        """Import the module and return the function."""
        module, _, function = self.writer.partition(":")
        loaded: Write = getattr(importlib.import_module(f"harness_ext.analysis.exports.{module}"), function)
        return loaded


_TRACKER = ("project", "upload")
FORMATS: Mapping[str, Format] = {
    "inspect": Format(
        "inspect_log:write", "logs for `inspect view`, one per task", needs="inspect_ai", extra="inspect"
    ),
    "every-eval-ever": Format(
        "shared_results:write", "results in the schema that Every Eval Ever shares", ("model_id", "organization")
    ),
    "csv": Format("tables:write_csv", "tables of questions, turns and scores"),
    "parquet": Format("tables:write_parquet", "the same tables as Parquet files", needs="pyarrow"),
    "hf": Format(
        "hub:write", "a data set for `datasets`, and for the hub with --repo", ("repo", "public"), needs="pyarrow"
    ),
    "trackio": Format("trackio_run:write", "runs in Trackio", _TRACKER, True, "trackio", "track"),
    "wandb": Format("wandb_run:write", "runs in Weights & Biases", _TRACKER, True, "wandb", "track"),
    "mlflow": Format("mlflow_run:write", "runs in MLflow", _TRACKER, True, "mlflow", "track"),
}


def main(arguments: Sequence[str]) -> int:
    """Export runs and return the exit status."""
    parser = make_parser()
    args = parser.parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    kind = FORMATS[args.to]
    output: Path = (args.output or Path(f"export-{args.to}")).expanduser()
    given = {f.name: value for f in fields(ExportOptions) if (value := getattr(args, f.name)) not in (None, False)}
    try:
        if problems := [*_misplaced(args.to, given), *_unwritable(output, kind, args.overwrite)]:
            print("\n".join(f"harness-ext export: {clean(problem)}" for problem in problems), file=sys.stderr)
            return USAGE
        if kind.needs and find_spec(kind.needs) is None:
            remedy = f"pip install 'harness-ext[{kind.extra}]'" if kind.extra else f"pip install {kind.needs}"
            raise ExportError(f"--to {args.to} needs {kind.needs}, which is not installed: {remedy}")
        runs = _runs(args)
        make_private_folder(output)
        for line in kind.load()(runs, output, ExportOptions(**given)):
            print(safe_text(line))
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext export: {clean(error)}", file=sys.stderr)
        return FAILED
    return OK


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser of `harness-ext export` for runs."""
    parser = argparse.ArgumentParser(
        prog="harness-ext export",
        description="Write runs in the formats of other tools.",
        epilog="formats:\n"
        + "\n".join(f"  {name:<16} {kind.help}" for name, kind in FORMATS.items())
        + "\n\nRuns without scores are scored first. Nothing leaves this machine without --repo or --upload. "
        "See docs/export.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="a run directory, a folder of them, or a run's label (its newest run)",
    )  # fmt: skip
    parser.add_argument("--to", choices=FORMATS, required=True, metavar="FORMAT", help="one of the formats below")
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="the folder (default: export-FORMAT)")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the folder that have the same names")
    parser.add_argument("--without_scores", action="store_true", help="export runs that cannot be scored, or need not")
    group = parser.add_argument_group("options of some formats")
    group.add_argument("--repo", metavar="OWNER/NAME", help="hf: push to this data set on the hub")
    group.add_argument("--public", action="store_true", help="hf: make it public if it is new (default: private)")
    group.add_argument("--project", metavar="NAME", help="trackers: the project or experiment (default: harness-ext)")
    group.add_argument(
        "--upload", action="store_true",
        help="trackers: send the run to the server that the tracker's environment variables name",
    )  # fmt: skip
    group.add_argument(
        "--model_id", metavar="DEVELOPER/MODEL", help="every-eval-ever: the model (default: harness-ext/<label>)"
    )
    group.add_argument(
        "--organization", metavar="NAME", help="every-eval-ever: who publishes the results (default: unknown)"
    )
    add_task_arguments(parser)
    return parser


def _runs(args: argparse.Namespace) -> list[ExportedRun]:
    """Return the runs that the arguments name, after scoring those that need it."""
    paths: list[Path] = []
    missing = []
    for named in args.runs:
        found = find_runs(named)
        paths += found if Path(named).expanduser().is_dir() else found[-1:]
        missing += [] if found else [named]
    if missing:
        raise ExportError(
            f"no run is called {', '.join(missing)}: name run directories ({RUNS}/<label>-<time>), or list the runs "
            f"with `harness-ext show {RUNS}`"
        )
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    scorer = Scorer("export", args)
    runs = []
    for path, name in zip(paths, unique_names(paths), strict=True):
        figures = None if args.without_scores else read_figures(path)
        if figures is None and not args.without_scores:
            try:
                scorer.score(path)
            except HarnessExtError as error:
                raise ExportError(f"{error}. To export the run without scores, give --without_scores") from error
            figures = read_figures(path)
        runs.append(open_run(path, name, figures))
    return runs


def _misplaced(name: str, given: Mapping[str, object]) -> list[str]:
    """Return a message for each option that the format does not take."""
    problems = []
    for option in given.keys() - set(FORMATS[name].options):
        takers = ", ".join(other for other, kind in FORMATS.items() if option in kind.options)
        problems.append(f"--{option} is not an option of --to {name}, but of {takers}: leave it out")
    if "public" in given and "repo" not in given and name == "hf":
        problems.append("--public says nothing without --repo: name the data set, or leave it out")
    return sorted(problems)


def _unwritable(output: Path, kind: Format, overwrite: bool) -> list[str]:
    if output.exists() and not output.is_dir():
        return [f"--output {output} is a file, and exports are folders: give another path"]
    if output.is_dir() and not (kind.adds or overwrite or all(map(_is_abandoned, output.iterdir()))):
        return [f"--output {output} is not empty: give another folder, or --overwrite to replace files in it"]
    return []


def _is_abandoned(path: Path) -> bool:
    """Return whether a file is what a killed export left; the next one removes it (`atomic_write`)."""
    return path.name.startswith(".") and path.suffix == ".part"
