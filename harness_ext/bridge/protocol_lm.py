"""A protocol as an lm-eval model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from lm_eval.api.model import LM

from harness_ext import __version__
from harness_ext.bridge import loaded_tasks, task_settings
from harness_ext.bridge.choice_decisions import REMARK, choice_question
from harness_ext.bridge.choices import (
    ChoiceScore,
    Choose,
    Reasoning,
    Whole,
    choice_questions,
    offers_choices,
    scores_of,
    scoring_seat,
)
from harness_ext.bridge.pilot import informed
from harness_ext.bridge.question_run import DEMONSTRATION, QuestionRun
from harness_ext.bridge.requests import (
    continuations_of,
    count_draws,
    media_problems,
    questions_of,
    setting_problems,
    spread_to_padding,
    texts_of,
)
from harness_ext.bridge.results_folder import default_name, name_results, without_default
from harness_ext.bridge.session import Session
from harness_ext.config.run_plan import plan_run
from harness_ext.engine.endings import ends_by_signal
from harness_ext.engine.ranks import Ranks
from harness_ext.errors import ConfigurationError, Terminated
from harness_ext.protocol import Protocol, Question
from harness_ext.protocol.inner import all_seats
from harness_ext.records.chat import MESSAGES_TOKENIZER, ChatContext
from harness_ext.terminal import note

logger = logging.getLogger("harness_ext")
Answer = TypeVar("Answer")


class ProtocolLM(LM):  # type: ignore[misc]
    """Base of the lm-eval model classes: runs `protocol` on every request and returns its final answers.

    batch_size: lm-eval's setting, for every seat that does not set its own.
    max_batch_size: likewise.
    device: likewise.
    arguments: the protocol's options, the run's options (`RunOptions`), a model for each seat (`student=<spec>`) and
        the models' own arguments (`student.dtype=bfloat16`).

    Raises ConfigurationError before anything is loaded.
    """

    protocol: ClassVar[type[Protocol]]
    is_protocol: ClassVar[bool] = True  # it takes a seat as `protocol:<name>`, not as a backend
    # lm-eval refuses tasks with images for classes that do not set this. Whether the seats accept images depends on
    # their models, so `_check_media` checks it for each call.
    MULTIMODAL = True

    def __init__(
        self,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        Ranks.current()  # joins the other processes before a seat's model could set up accelerate for this one alone
        loaded_tasks.watch()
        task_settings.watch()
        self.plan = plan_run(self.protocol, arguments, batch_size, max_batch_size, device)
        self.session = Session.open(self.plan, self.plan.options.model or self.protocol_name)
        self.batch_size = batch_size
        if self.rank == 0:
            if self.plan.demonstration:
                print(DEMONSTRATION, file=sys.stderr)
            for remark in self.plan.remarks:
                note(remark)
            logger.info("harness-ext records this run in %s", self.session.run.path)

    @property
    def protocol_name(self) -> str:
        """Return the protocol's name as given to `lm_eval --model`."""
        return self.protocol.__module__.rpartition(".")[2]

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> ProtocolLM:
        """Create a model from the user's arguments and lm-eval's own settings; the user's arguments win.

        arg_dict: the user's arguments. lm-eval names its output folder after one of them, so a name is added if there
            is none.
        additional_config: lm-eval's settings. Default: none.
        """
        given = without_default(arg_dict)
        lm = cls(**{**{k: v for k, v in (additional_config or {}).items() if v is not None}, **given})
        for name in arg_dict.keys() - given.keys():
            del arg_dict[name]
        name_results(arg_dict, default_name(lm.protocol_name, lm.plan))
        return lm

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> ProtocolLM:
        """Create a model from arguments of the form `key=value,…`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # -- answering -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer `generate_until` requests. Raises RunFailed if some have no answer and `on_failure=stop`."""
        self._check_seats(requests)
        self._check_media(requests, scored=False)

        def fill_table(position: int, text: str) -> None:
            request = requests[position]
            self.session.tables.add(str(request.task_name), int(request.doc_id or 0), request.doc, text)

        with ends_by_signal(self._advice()):
            protocol = informed(self.session, questions_of(requests))
        run = QuestionRun(self.session, protocol, lambda transcript: transcript.text, fill_table)
        return spread_to_padding(requests, self._answers(run, requests, questions_of(requests), count_draws(requests)))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[ChoiceScore]:
        """Score choices after reasoning (`reason=on`), or exactly as lm-eval's own model would (`reason=off`).

        With `choices=decision`, the choices are the options of one question instead.
        """
        self._check_media(requests, scored=True)
        reasoning, decides = Reasoning.of(self.plan.options), self.plan.options.choices == "decision"
        groups = choice_questions(continuations_of(requests), reasoning)
        if decides:
            self._check_decidable(question for _, question in groups)
        choose = Choose(self.plan.protocol, self._scoring_seat(decides), reasoning, decides)
        run = QuestionRun(self.session, choose, scores_of)
        found = self._answers(run, requests, enumerate(q for _, q in groups), len(groups), strict=True)
        answers = {
            position: score
            for number, (positions, _) in enumerate(groups)
            for position, score in zip(positions, found[number], strict=True)
        }
        return spread_to_padding(requests, answers)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts as lm-eval's own model would. Refused with `reason=on`, because there is no question."""
        if self.plan.options.reason == "on":
            tasks = ", ".join(sorted({str(r.task_name) for r in requests}))
            problem = f"{tasks} scores whole texts, which leave nothing to reason about: give `reason=off` to score"
            raise ConfigurationError([f"{problem} them as lm-eval's own model would, by `{self._scoring_seat()}`"])
        self._check_media(requests, scored=True)
        run = QuestionRun(self.session, Whole(self._scoring_seat()), scores_of)
        found = self._answers(run, requests, texts_of(requests), count_draws(requests), strict=True)
        return spread_to_padding(requests, {position: scores[0][0] for position, scores in found.items()})

    def _answers(
        self,
        run: QuestionRun[Answer],
        requests: Sequence[Any],
        questions: Iterable[tuple[int, Question]],
        count: int,
        strict: bool = False,
    ) -> dict[int, Answer]:
        tasks = {str(request.task_name) for request in requests}
        if self.rank == 0:
            loaded_tasks.record_origins(self.session.run.path, tasks)
            task_settings.record_settings(self.session.run.path, tasks)
        with ends_by_signal(self._advice()):
            try:
                run.read_known()
                run.ask(questions, count)
                run.finish(strict)
            except (KeyboardInterrupt, Terminated):
                run.interrupted()
                raise
        return run.answers

    def _advice(self) -> str:
        """Return what to do about a run that a signal has ended."""
        return f"everything finished is stored. {self.session.again('to continue from here')}"

    def _scoring_seat(self, decides: bool = False) -> str:
        seat = scoring_seat(self.plan.protocol, self.plan.seats)
        backend = self.plan.models[seat].backend
        if "score" not in backend.capabilities and not decides:
            problem = f"`{seat}`: the task needs log-likelihoods, which {backend.name} does not return"
            remedy = "give `choices=decision` to ask for the choice, name another model, or use a generative version"
            raise ConfigurationError([f"{problem}: {remedy} of the task"])
        return seat

    def _check_decidable(self, questions: Iterable[Question]) -> None:
        """Raise ConfigurationError for tasks that do not offer choices, which `choices=decision` could compare."""
        problems: dict[str, str] = {}
        for question in questions:
            reason = None if offers_choices(question) else "a text that is not one of several choices is scored"
            try:
                if reason is None:
                    choice_question(question.continuations)
            except ValueError as error:
                reason = str(error)
            if reason is not None:
                problems.setdefault(question.task, f"{question.task} cannot be decided ({reason})")
        if problems:
            raise ConfigurationError([f"{problem}: use a model that scores texts" for problem in problems.values()])
        if self.rank == 0:
            note(REMARK)

    def _check_seats(self, requests: Sequence[Any]) -> None:
        """Raise ConfigurationError if a seat that written answers need was left out (`reason=off`)."""
        if self.plan.unnamed:
            tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
            models = ",".join(f"{seat}=<backend>:<model>" for seat in self.plan.unnamed)
            raise ConfigurationError([f"{tasks} asks for written answers, which need all seats: give `{models}`"])

    def _check_media(self, requests: Sequence[Any], scored: bool) -> None:
        problems = media_problems(requests, self.plan.models, scored)
        if problems := problems if scored else problems + setting_problems(requests):
            raise ConfigurationError(problems)

    # -- the rest of lm-eval's model interface ---------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a context that carries the messages, so that each seat can render them with its own template."""
        return ChatContext.of(chat_history)

    @property
    def tokenizer_name(self) -> str:
        """Return a constant, so that lm-eval's request cache never returns strings rendered for another model."""
        return MESSAGES_TOKENIZER

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the text that lm-eval's results show in place of a template."""
        return "harness_ext: messages, rendered by each seat with its own template" if chat_template else None

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's `--use_cache`."""
        if getattr(cache_hook, "dbdict", None) is not None:
            raise ConfigurationError(
                [
                    "lm-eval's --use_cache is not keyed by model, so one protocol would get another's answers: omit "
                    f"it. Finished calls are stored in {self.plan.options.store} anyway (`store=<folder>`)"
                ]
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Return the entry for lm-eval's results file: the run's records, seats and figures."""
        return {
            "harness_ext": {
                "version": __version__,
                "run": str(self.session.run.path),
                "protocol": self.protocol_name,
                "demonstration_pair": self.plan.demonstration,
                "prompts": self.plan.prompts_hash,
                "seats": {name: setup.backend.info() for name, setup in all_seats(self.plan.seats).items()},
                "summary": self.session.summary,
            }
        }

    # -- distributed runs: rank and world size come from the launcher, never from a seat ---------------------------

    @property
    def rank(self) -> int:
        return self.session.ranks.rank if hasattr(self, "session") else 0

    @property
    def world_size(self) -> int:
        return self.session.ranks.world if hasattr(self, "session") else 1

    def all_gather(self, tensor: Any) -> Any:
        return self.session.ranks.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        gathered = self.session.ranks.gather(obj)
        return gathered if self.rank == dst else None

    def barrier(self) -> None:
        self.session.ranks.barrier()
