"""The bridge: a protocol as an lm-eval model."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lm_eval.api.model import LM

from harness_ext import __version__
from harness_ext.arguments import RUNS, RunPlan, plan_run
from harness_ext.backends.base import Backend
from harness_ext.budget import open_budget, total_spending
from harness_ext.chat import MESSAGES_TOKENIZER, ChatContext
from harness_ext.choices import Choose, Score, Whole, choice_questions, scores_of, scoring_seat
from harness_ext.dispatch import CallPolicy
from harness_ext.engine import Engine
from harness_ext.errors import ConfigurationError, RunFailed, StoreError
from harness_ext.instances import (
    continuations_of,
    count_draws,
    media_problems,
    questions_of,
    spread_to_padding,
    texts_of,
)
from harness_ext.progress import Progress
from harness_ext.protocol import Protocol, Question
from harness_ext.ranks import Ranks
from harness_ext.records import Identity, Transcript
from harness_ext.rundir import RunDirectory, installed_versions, new_run_path, read_transcripts, write_json
from harness_ext.store import CallStore
from harness_ext.summary import Summary
from harness_ext.tables import Tables

logger = logging.getLogger("harness_ext")


class ProtocolLM(LM):  # type: ignore[misc]
    """Base of the lm-eval model classes: runs `protocol` on every request and returns its final texts.

    Arguments are the protocol's options, a run's options (`RunOptions`), a model for each seat (`student=<spec>`) and
    the models' own arguments (`student.dtype=bfloat16`). Raises ConfigurationError before anything loads.
    """

    protocol: ClassVar[type[Protocol]]
    MULTIMODAL = True  # whether its seats take images is known when their models are

    def __init__(
        self,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        plan = plan_run(self.protocol, arguments, batch_size, max_batch_size, device)
        self.plan = plan
        self.ranks = Ranks.current()
        label = plan.options.model or self.protocol_name
        self.store = CallStore(Path(plan.options.store).expanduser()) if plan.options.store != "off" else None
        self.budget = open_budget(plan.options.budget, plan.seats, self.world_size)
        self.run = self._open_run(plan, label)
        self.tables = Tables(self.run.path, label, self.rank)
        self.batch_size = batch_size
        self._summary: dict[str, Any] = {}
        if self.rank == 0:
            if plan.demonstration:
                print(DEMONSTRATION, file=sys.stderr)
            logger.info("harness-ext records this run in %s", self.run.path)

    @property
    def protocol_name(self) -> str:
        """Return the protocol's name as lm-eval users know it."""
        return self.protocol.__module__.rpartition(".")[2]

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> ProtocolLM:
        """Make a model from arguments and lm-eval's own settings; an argument of the user's wins."""
        return cls(**{**{k: v for k, v in (additional_config or {}).items() if v is not None}, **arg_dict})

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> ProtocolLM:
        """Likewise, from `key=value,…`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _open_run(self, plan: RunPlan, label: str) -> RunDirectory:
        config = {
            "harness_ext": __version__,
            "label": label,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": installed_versions(),
            "seeds": {"torch": _torch_seed()},
            "demonstration_pair": plan.demonstration,
            "run": {k: v for k, v in vars(plan.options).items() if k not in ("run_dir",)},
            "seats": {
                n: {"chat": s.chat, "price_in": s.price_in, "price_out": s.price_out, **s.own, **s.backend.info()}
                for n, s in plan.seats.items()
            },
            "identity": {
                "protocol": type(plan.protocol).__qualname__,
                "options": dict(vars(plan.protocol)),
                "seats": {
                    n: {"fingerprint": s.backend.fingerprint, "chat": s.chat, **s.own} for n, s in plan.seats.items()
                },
                # A draw under another seed is another draw; where the task samples, its questions say so themselves.
                "seed": _torch_seed() if plan.protocol.samples or any(s.samples for s in plan.seats.values()) else None,
                "on_overflow": plan.options.on_overflow,
                "on_empty": plan.options.on_empty,
                "reasoning": vars(plan.options.reasoning) if plan.options.reasoning else None,
            },
        }
        path = plan.options.run_dir.expanduser() if plan.options.run_dir else None
        try:
            if path is None:
                path = Path(self.ranks.gather(str(new_run_path(RUNS, label)) if self.rank == 0 else None)[0])
            run = RunDirectory(path, config, self.rank, self.world_size)
        except OSError as error:
            raise StoreError(
                f"the run directory {path or RUNS} cannot be made: {error}. Name a writable folder (`run_dir=<folder>`)"
            ) from error
        self.ranks.barrier()
        return run

    # -- lm-eval's interface -------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer lm-eval's requests; raises RunFailed when some have no answer (`on_failure=stop`)."""
        self._check_media(requests, scored=False)

        def fill(position: int, text: str) -> None:
            request = requests[position]
            self.tables.add(str(request.task_name), int(request.doc_id or 0), request.doc, text)

        answers = self._run(
            self.plan.protocol, requests, questions_of(requests), count_draws(requests), lambda t: t.text, told=fill
        )
        return spread_to_padding(requests, answers)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Score]:
        """Score choices after reasoning (`reason=on`), or just as lm-eval's own model would (`reason=off`)."""
        self._check_media(requests, scored=True)
        reasoning = self.plan.options.reasoning
        groups = choice_questions(continuations_of(requests), reasoning.gen_kwargs if reasoning else None)
        protocol = Choose(self.plan.protocol, self._scoring_seat(), reasoning)
        found = self._run(protocol, requests, enumerate(q for _, q in groups), len(groups), scores_of, strict=True)
        answers = {
            place: score for i, (places, _) in enumerate(groups) for place, score in zip(places, found[i], strict=True)
        }
        return spread_to_padding(requests, answers)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts as lm-eval's own model would; refused with `reason=on`, since there is no question."""
        if self.plan.options.reason == "on":
            tasks = ", ".join(sorted({str(r.task_name) for r in requests}))
            problem = f"{tasks} scores whole texts, about which nobody can reason: give `reason=off` to score them as"
            raise ConfigurationError([f"{problem} lm-eval's own model would, with the seat `{self._scoring_seat()}`"])
        self._check_media(requests, scored=True)
        protocol = Whole(self._scoring_seat())
        found = self._run(protocol, requests, texts_of(requests), count_draws(requests), scores_of, strict=True)
        return spread_to_padding(requests, {place: scores[0][0] for place, scores in found.items()})

    def _scoring_seat(self) -> str:
        seat = scoring_seat(self.plan.protocol, self.plan.seats)
        backend = self.plan.seats[seat].backend
        if "score" not in backend.capabilities:
            problem = f"`{seat}`: the task scores log-likelihoods, and {backend.name} gives none"
            raise ConfigurationError([f"{problem}: name another model, or use a generative form of the task"])
        return seat

    def _check_media(self, requests: Sequence[Any], scored: bool) -> None:
        if problems := media_problems(requests, self.plan.seats, scored):
            raise ConfigurationError(problems)

    def _run(
        self,
        protocol: Protocol,
        requests: Sequence[Any],
        questions: Iterable[tuple[int, Question]],
        asked: int,
        result: Callable[[Transcript], Any],
        strict: bool = False,
        told: Callable[[int, Any], None] = lambda number, answer: None,
    ) -> dict[int, Any]:
        """Answer the numbered questions of some requests; return by number what `result` reads from their transcripts.

        What the run directory holds is not asked again; `told` hears of each answer as it is known. Raises what ended
        the run, and RunFailed for questions without an answer, unless `on_failure=score` scores them; `strict` says
        that no result could stand for a wrong answer.
        """
        seed = _torch_seed()
        summary = Summary(lambda seat: self.plan.seats[seat].cost)
        known: dict[Identity, Any] = {}
        failed_before: dict[Identity, Transcript] = {}
        for transcript in read_transcripts(self.run.path):
            if transcript.failure is not None:
                failed_before[transcript.identity] = transcript
            else:
                known[transcript.identity] = result(transcript)
                summary.add(transcript)
        answers: dict[int, Any] = {}
        open_numbers: list[int] = []

        def unanswered() -> Iterator[Question]:
            for number, question in questions:
                identity = question.identity(seed) if known else None
                if identity in known:
                    answers[number] = known[identity]
                    told(number, answers[number])
                else:
                    open_numbers.append(number)
                    yield question

        failures: list[str] = []

        def finished(number: int, transcript: Transcript) -> None:
            self.run.add(transcript)
            if self.protocol.readable is not None:
                self.run.append(self.protocol.readable, self.plan.protocol.write_up(transcript))
            summary.add(transcript)
            failed_before.pop(transcript.identity, None)
            answers[open_numbers[number]] = result(transcript)
            if transcript.failure is None:
                told(open_numbers[number], answers[open_numbers[number]])
            else:
                failures.append(f"{transcript.task}, document {transcript.doc_id}: {transcript.failure.message}")

        tasks = {request.task_name for request in requests}
        done = sum(identity[0] in tasks for identity in known)
        error = self._answer(protocol, unanswered(), max(asked - done, 0), finished, seed)
        for transcript in failed_before.values():
            summary.add(transcript)
        self._finish(summary, failures, error, asked - len(answers), strict)
        return answers

    def _answer(
        self,
        protocol: Protocol,
        questions: Iterable[Question],
        total: int,
        finished: Callable[[int, Transcript], None],
        seed: int,
    ) -> Exception | None:
        """Run the protocol; return what ended the run early, so that the other processes can be told."""
        options = self.plan.options
        policy = CallPolicy(truncate=options.on_overflow == "truncate", keep_empty=options.on_empty == "keep")
        engine = Engine(self.store, options.window, policy, seed, self.budget)
        try:
            if options.progress == "off" or self.rank != 0:
                engine.run(protocol, self.plan.seats, questions, finished)
            else:
                with Progress(total, self._seat_names(), True if options.progress == "on" else None) as progress:
                    engine.run(protocol, self.plan.seats, questions, finished, [progress])
        except KeyboardInterrupt:
            print("[harness-ext] interrupted; the same command goes on from here", file=sys.stderr)
            raise
        except Exception as error:
            return error
        finally:
            self.run.close()
        return None

    def _finish(
        self, summary: Summary, failures: list[str], error: Exception | None, unfinished: int, strict: bool
    ) -> None:
        """Write the summary; raise what ended the run, here or in another process, and what has no answer."""
        errors = self.ranks.gather(str(error) if error else None)
        failures = [failure for part in self.ranks.gather(failures) for failure in part]
        unfinished = sum(self.ranks.gather(unfinished))
        budgets = [budget for budget in self.ranks.gather(self.budget and self.budget.state) if budget is not None]
        if self.rank == 0:
            self.tables.merge(self.world_size)
            if self.world_size > 1:
                self.run.merge()
                summary = Summary(summary.costs)
                for transcript in read_transcripts(self.run.path):
                    summary.add(transcript)
            self._summary = {**summary.to_json(), "unfinished": unfinished}
            if budgets:
                self._summary["budget"] = {"cap": self.plan.options.budget, **total_spending(budgets)}
            write_json(self.run.path / "summary.json", {"demonstration_pair": self.plan.demonstration, **self._summary})
            print(self._closing_words(summary.events.counts.get("same_call", 0)), file=sys.stderr)
        self.ranks.barrier()
        if error is not None:
            raise error
        if other := next((e for e in errors if e), None):
            raise RunFailed(f"another process of this run ended early: {other}")
        if failures and (strict or self.plan.options.on_failure == "stop"):
            raise RunFailed(_failure_message(failures, self.run.path))

    def _closing_words(self, same_calls: int = 0) -> str:
        words = f"[harness-ext] records of this run: {self.run.path}"
        if same_calls:
            words = f"[harness-ext] {same_calls} {SAME_CALL}\n{words}"
        return f"{words}\n{DEMONSTRATION}" if self.plan.demonstration else words

    def _seat_names(self) -> dict[Backend, str]:
        names: dict[Backend, str] = {}
        for name, setup in self.plan.seats.items():
            names[setup.backend] = f"{names[setup.backend]}+{name}" if setup.backend in names else name
        return names

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a context that carries the messages: each seat renders them with its own template."""
        return ChatContext.of(chat_history)

    @property
    def tokenizer_name(self) -> str:
        """Return a constant, so that lm-eval's request cache never hands over strings rendered for another model."""
        return MESSAGES_TOKENIZER

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return what stands for the template in lm-eval's results."""
        return "harness_ext: messages, rendered by each seat with its own template" if chat_template else None

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's `--use_cache`."""
        if getattr(cache_hook, "dbdict", None) is not None:
            raise ConfigurationError(
                [
                    "lm-eval's --use_cache is not keyed by model and would hand one protocol another's answers: leave "
                    f"it out. Finished calls are kept anyway, in {self.plan.options.store} (`store=<folder>`)"
                ]
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Return what goes into lm-eval's results file: the run's records, its seats and its figures."""
        return {
            "harness_ext": {
                "version": __version__,
                "run": str(self.run.path),
                "protocol": self.protocol_name,
                "demonstration_pair": self.plan.demonstration,
                "seats": {name: setup.backend.info() for name, setup in self.plan.seats.items()},
                "summary": self._summary,
            }
        }

    @property
    def rank(self) -> int:
        return self.ranks.rank if hasattr(self, "ranks") else 0

    @property
    def world_size(self) -> int:
        return self.ranks.world if hasattr(self, "ranks") else 1

    def all_gather(self, tensor: Any) -> Any:
        return self.ranks.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        gathered = self.ranks.gather(obj)
        return gathered if self.rank == dst else None

    def barrier(self) -> None:
        self.ranks.barrier()


def _torch_seed() -> int:
    """Return lm-eval's torch seed, which reaches a model only this way."""
    torch = sys.modules.get("torch")
    return int(torch.initial_seed()) if torch is not None else 0


def _failure_message(failures: Sequence[str], run: Path, shown: int = 10) -> str:
    lines = [f"{len(failures)} questions have no answer; all others are finished and stored in {run}:"]
    lines += [f"  - {failure}" for failure in failures[:shown]]
    if len(failures) > shown:
        lines.append(f'  - and {len(failures) - shown} more, in the run\'s transcripts.jsonl (`"status": "failed"`)')
    lines.append(f"Run the same command again to try these alone: {shlex.join(['lm_eval', *sys.argv[1:]])}")
    lines.append("Or give `on_failure=score` to score them as wrong, counted in the summary.")
    return "\n".join(lines)


SAME_CALL = (
    "calls were the same greedy call as another one of their question: agents or draws of one model that decode "
    "greedily are one voice, counted several times. Let them sample (`--gen_kwargs do_sample=True,temperature=0.8`), "
    "or give them other models or system texts"
)
DEMONSTRATION = """\
+----------------------------------------------------------------------------+
| No seat was named: the built-in demonstration pair was used. It is a tiny  |
| pair trained on invented stories; its figures say nothing about any other  |
| model. Name yours: student=<backend>:<model>,teacher=<backend>:<model>     |
+----------------------------------------------------------------------------+"""
