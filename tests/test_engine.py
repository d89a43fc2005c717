"""Tests of the engine with random protocols, failures, windows and resumes: no deadlock, no lost or repeated call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Trouble, TroubledBackend, number_of, reply_to, run_engine, watch

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.engine.engine import Engine
from harness_ext.engine.queues import CallPolicy, ThreadQueue
from harness_ext.errors import CallFailed, LoadError, StoreError
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Completion, Loglikelihood, Solution, Transcript, Turn
from harness_ext.records.call_store import CallStore

GREEDY = {"max_gen_toks": 8}
SAMPLED = {"max_gen_toks": 8, "do_sample": True, "temperature": 1.0}


@dataclass(frozen=True)
class Call:
    """One call of a plan. A shared call is the same in all questions; others depend on everything said before."""

    seat: str
    shared: bool = False
    sampled: bool = False
    score: bool = False


Plan = tuple[tuple[Call, ...], ...]


@dataclass(frozen=True)
class Planned(Protocol):
    """Question n follows plan n: rounds of concurrent calls, whose prompts contain the replies of the round before."""

    plans: tuple[Plan, ...] = ()
    roles: ClassVar[Mapping[str, Role]] = {"a": Role("one"), "b": Role("two")}
    open: ClassVar[list[int]] = [0, 0]

    async def solve(self, question: Question, seats: Seats) -> Solution:
        self.open[0] += 1
        self.open[1] = max(self.open)
        try:
            state = question.context
            for round_, calls in enumerate(self.plans[question.doc_id]):
                replies = await asyncio.gather(
                    *(ask(seats, c, prompt_of(state, round_, i, c)) for i, c in enumerate(calls))
                )
                state = " ".join([state[:40], *replies])
            return Solution(state)
        finally:
            self.open[0] -= 1


def prompt_of(state: str, round_: int, position: int, call: Call) -> str:
    return f"shared {round_ % 3}" if call.shared else f"{state} / {round_}.{position}"


async def ask(seats: Seats, call: Call, prompt: str) -> str:
    if call.score:
        values = await seats[call.seat].score(prompt, [" yes", " no"], kind="score")
        return str(values)
    return (await seats[call.seat].generate(prompt, kind="call", gen_kwargs=SAMPLED if call.sampled else GREEDY)).text


@dataclass
class Expected:
    """The expected result of a question, computed one call after another. The text of a failed question is None."""

    text: str | None
    good: list[tuple[str, str]]


def expected(context: str, plan: Plan, troubles: Mapping[str, Trouble]) -> Expected:
    """Compute greedy plans without the engine. `good` lists the (seat, prompt) pairs that get an answer."""
    state, good = context, []
    for round_, calls in enumerate(plan):
        replies, failed = [], False
        for i, call in enumerate(calls):
            prompt = prompt_of(state, round_, i, call)
            parts = [f"{prompt}|{c}" for c in (" yes", " no")] if call.score else [prompt]
            failed |= any(troubles[call.seat].bad(p) for p in parts)
            good += [(call.seat, p) for p in parts if not troubles[call.seat].bad(p)]
            replies.append(str([-float(number_of(p) % 97) for p in parts]) if call.score else reply_to(prompt))
        if failed:
            return Expected(None, good)
        state = " ".join([state[:40], *replies])
    return Expected(state, good)


def questions_of(count: int) -> list[Question]:
    return [Question(f"question {i}", GREEDY, task="t", doc_id=i) for i in range(count)]


calls = st.builds(Call, st.sampled_from("ab"), shared=st.booleans(), score=st.booleans())
plans = st.lists(
    st.lists(st.lists(calls, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple), min_size=1, max_size=12
).map(tuple)


def every(modulus: int, remainder: int):  # type: ignore[no-untyped-def]
    return lambda prompt: modulus > 0 and number_of(prompt) % modulus == remainder


troubles = st.builds(
    lambda m, largest, crashes: Trouble(every(m, 0), every(m, 1), every(m, 2), every(m, 3), largest, crashes),
    st.sampled_from([0, 0, 7, 15]),
    st.sampled_from([1, 2, 5, 10**9]),
    st.lists(st.integers(1, 4), max_size=3),
)


def without_timing(transcript: Transcript) -> dict:  # type: ignore[type-arg]
    data = transcript.to_json()
    for turn in data["turns"]:
        del turn["timing"]
    data.pop("failure", None)  # which of several failures comes first depends on the batches
    return data


@settings(max_examples=120, deadline=None)
@given(
    plans,
    troubles,
    troubles,
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 2048]), st.randoms(use_true_random=False)), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_random_runs_agree(plans, trouble_a, trouble_b, runs, one_device, keep, joins):  # type: ignore[no-untyped-def]
    """Several runs on one store, each with another order and window, give the answers that were computed by hand."""
    both = {"a": trouble_a, "b": trouble_b}
    backends = {s: TroubledBackend(s, "one" if one_device else s, t, joins=joins) for s, t in both.items()}
    wanted = {i: expected(q.context, plans[i], both) for i, q in enumerate(questions_of(len(plans)))}
    seen: dict[int, dict] = {}  # type: ignore[type-arg]
    with TemporaryDirectory() as folder:
        for window, order in runs:
            store = CallStore(Path(folder)) if keep else None
            questions = questions_of(len(plans))
            order.shuffle(questions)
            Planned.open[:] = [0, 0]
            done = run_engine(Engine(store, window), Planned(plans), backends, questions)
            assert sorted(done) == list(range(len(questions)))
            assert Planned.open[1] <= window
            assert Planned.open[0] == 0
            for number, transcript in done.items():
                doc = questions[number].doc_id
                assert transcript.doc_id == doc
                assert (transcript.text if transcript.failure is None else None) == wanted[doc].text
                assert seen.setdefault(doc, without_timing(transcript)) == without_timing(transcript)
                assert len(transcript.turns) == len(wanted[doc].good)
            if store is not None:
                store.close()
    for seat, backend in backends.items():
        prompts = {p for w in wanted.values() for s, p in w.good if s == seat}
        assert set(backend.answered) - {p for p in backend.answered if not backend.answered[p]} == prompts
        assert backend.together <= 1
        assert backend.loads <= 1
        if keep:
            assert not backend.resent
            assert set(backend.answered.values()) <= {0, 1}


def test_calls_join_a_running_batch() -> None:
    """While a call holds its batch up, another question's second call comes, and is answered before it."""
    answered: list[str] = []

    class Waits(TroubledBackend):
        def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
            work = list(enumerate(requests))
            while work:
                held = [(i, r) for i, r in work if r.prompt == "question 0 / 0.0"]
                for i, request in work:
                    if request.prompt != "question 0 / 0.0":
                        answered.append(request.prompt)
                        deliver(i, Completion("said", "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1))
                work, taken = held, len(requests)
                if held and len(answered) < 3:  # the batch goes on until the others' calls have come
                    while not (new := self.waiting(5)):
                        time.sleep(0.001)
                    work = [*held, *enumerate(new, taken + self.joined)]
                    self.joined += len(new)
                elif held:
                    answered.append(held[0][1].prompt)
                    deliver(held[0][0], Completion("late", prompt_tokens=1, cached_tokens=0, completion_tokens=1))
                    return

    backend = Waits("a")
    plan = (((Call("a"),),), ((Call("a"),), (Call("a"),), (Call("a"),)))
    done = run_engine(Engine(), Planned(plan), {"a": backend, "b": backend}, questions_of(2))
    assert [done[i].failure for i in range(2)] == [None, None]
    assert backend.joined == 2
    assert answered[-1] == "question 0 / 0.0"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from([1, 2, 99]), st.sampled_from([1, 3, 10**9]))
def test_each_sampled_call_is_drawn_once(draws: list[int], window: int, largest: int) -> None:
    """n equal sampled calls of a question are n draws, and a resumed run repeats none of them."""
    plan = tuple((tuple(Call("a", shared=True, sampled=True) for _ in range(n)),) for n in draws)
    backend = TroubledBackend("a", trouble=Trouble(largest=largest))
    with TemporaryDirectory() as folder:
        texts = []
        for _ in range(2):
            store = CallStore(Path(folder))
            done = run_engine(
                Engine(store, window), Planned(plan), {"a": backend, "b": backend}, questions_of(len(draws))
            )
            texts.append([done[i].text for i in range(len(draws))])
            store.close()
    assert len(backend.sampled_draws) == sum(draws)
    assert texts[0] == texts[1]
    said = [turn.text for transcript in done.values() for turn in transcript.turns]
    assert sorted(said) == sorted(backend.sampled_draws)


def test_another_seed_draws_anew(tmp_path: Path) -> None:
    backend = TroubledBackend("a")
    plan: Plan = ((Call("a", sampled=True),),)
    store = CallStore(tmp_path)
    first, again, other = (
        run_engine(Engine(store, seed=seed), Planned((plan,)), {"a": backend, "b": backend}, questions_of(1))[0].text
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_equal_calls_of_many_questions_are_sent_once() -> None:
    backend = TroubledBackend("a")
    plan: Plan = ((Call("a", shared=True),),)
    done = run_engine(Engine(), Planned((plan,) * 30), {"a": backend, "b": backend}, questions_of(30))
    assert backend.batches == [1]
    assert sum(not t.turns[0].reused for t in done.values()) == 1


def test_waiting_calls_are_sent_as_one_batch() -> None:
    """This includes calls that each reply wakes inside a `gather`, and calls of all seats on one device."""
    backend = TroubledBackend("a")
    plan: Plan = ((Call("a"),), (Call("a"), Call("a"), Call("a")), (Call("a"),))
    run_engine(Engine(), Planned((plan,) * 20), {"a": backend, "b": backend}, questions_of(20))
    assert backend.batches == [20, 60, 20]


def test_a_batch_waits_for_questions_that_need_more_passes() -> None:
    """A reply wakes one question at once and another through a chain of tasks. Their next calls are one batch."""

    @dataclass(frozen=True)
    class Nested(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            async def first() -> Completion:
                return await seats.a.generate(f"first {question.doc_id}", kind="call")

            if question.doc_id % 2:
                await asyncio.gather(asyncio.gather(first()))
            else:
                await first()
            return await seats.a.generate(f"second {question.doc_id}", kind="call")

    backend = TroubledBackend("a")
    run_engine(Engine(), Nested(), {"a": backend}, questions_of(10))
    assert backend.batches == [10, 10]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=12))
def test_a_batch_waits_however_often_questions_pass_the_event_loop(passes: list[int]) -> None:
    @dataclass(frozen=True)
    class Passing(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            for kind in ("first", "second"):
                for _ in range(passes[question.doc_id]):
                    await asyncio.sleep(0)
                last = await seats.a.generate(f"{kind} {question.doc_id}", kind="call")
            return last

    backend = TroubledBackend("a")
    run_engine(Engine(), Passing(), {"a": backend}, questions_of(len(passes)))
    assert backend.batches[0] == len(passes)
    # Results arrive one by one from another thread, so the second calls are one batch once the device is free again.
    assert backend.batches[1] == len(passes)


@pytest.mark.parametrize("outside", ["timer", "thread", "process", "polling"])
def test_a_question_that_waits_for_something_else_does_not_hold_up_the_others(outside: str) -> None:
    """It waits until the other question is answered, so a batch that waited for it would never be sent."""
    answered = asyncio.Event()  # set in the engine's loop
    seen = threading.Event()

    async def wait() -> None:
        if outside == "timer":
            while not answered.is_set():
                await asyncio.sleep(0.01)
        elif outside == "thread":
            await asyncio.to_thread(seen.wait, PATIENCE)
        elif outside == "process":
            child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
            await answered.wait()
            await child.communicate(b"")
        else:
            while not answered.is_set():
                await asyncio.sleep(0)

    @dataclass(frozen=True)
    class Waiting(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            if question.doc_id == 0:
                await wait()
            reply = await seats.a.generate(question.context, kind="call")
            if question.doc_id == 1:
                answered.set()
                seen.set()
            return reply

    backend = TroubledBackend("a")
    done = run_engine(Engine(), Waiting(), {"a": backend}, questions_of(3))
    assert [t.failure for t in done.values()] == [None] * 3
    assert backend.batches == [2, 1]


def test_the_seat_with_most_waiting_goes_first() -> None:
    backends = {seat: TroubledBackend(seat, "one") for seat in "ab"}
    order: list[str] = []
    for seat, backend in backends.items():
        watch(backend, lambda requests, seat=seat: order.append(seat))  # type: ignore[misc]
    plans: tuple[Plan, ...] = (((Call("a"),),), ((Call("b"),),), ((Call("b"),),))
    run_engine(Engine(), Planned(plans), backends, questions_of(3))
    assert order == ["b", "a"]


def test_seats_on_different_devices_run_side_by_side() -> None:
    import threading

    meet = threading.Barrier(2, timeout=PATIENCE)

    class Meeting(TroubledBackend):
        def _answer(self, requests, deliver):  # type: ignore[no-untyped-def]
            meet.wait()
            super()._answer(requests, deliver)

    plan: Plan = ((Call("a"), Call("b")),)
    done = run_engine(Engine(), Planned((plan,)), {"a": Meeting("a"), "b": Meeting("b")}, questions_of(1))
    assert done[0].failure is None


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (Trouble(raises=lambda p: "7" in p), "backend"),
        (Trouble(forgets=lambda p: "7" in p), "no_reply"),
        (Trouble(says_none=lambda p: "7" in p), "no_reply"),
        (Trouble(says_wrong=lambda p: "7" in p), "no_reply"),
    ],
)
def test_a_bad_question_does_not_affect_others(trouble: Trouble, code: str) -> None:
    backend = TroubledBackend("a", trouble=trouble)
    done = run_engine(Engine(), Planned((((Call("a"),),),) * 20), {"a": backend, "b": backend}, questions_of(20))
    failed = {i: t.failure.code for i, t in done.items() if t.failure is not None}
    assert failed == {7: code, 17: code}
    assert set(backend.answered.values()) <= {0, 1}


def test_a_failed_call_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    trouble = Trouble(raises=lambda p: "3" in p)
    backend = TroubledBackend("a", trouble=trouble)
    store = CallStore(tmp_path)
    protocol, seats, questions = Planned((((Call("a"),),),) * 6), {"a": backend, "b": backend}, questions_of(6)
    assert [i for i, t in run_engine(Engine(store), protocol, seats, questions).items() if t.failure] == [3]
    trouble.raises = lambda p: False
    backend.batches.clear()
    assert not any(t.failure for t in run_engine(Engine(store), protocol, seats, questions).values())
    assert backend.batches == [1]


def test_a_call_still_running_when_its_question_fails_is_recorded() -> None:
    """One of two concurrent calls fails at once. The other is paid for, so it is recorded, but nothing follows it."""

    @dataclass(frozen=True)
    class Branches(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one"), "b": Role("two")}

        async def solve(self, question: Question, seats: Seats) -> Solution:
            async def twice() -> None:
                await seats.b.generate("slow", kind="call")
                await seats.b.generate("never", kind="call")

            try:
                await asyncio.gather(seats.a.generate("bad", kind="call"), twice())
            finally:
                slow.gate.set()
            raise AssertionError("not reached")

    slow = Gated("b")
    backends = {"a": TroubledBackend("a", trouble=Trouble(raises=lambda p: p == "bad")), "b": slow}
    done = run_engine(Engine(), Branches(), backends, questions_of(1))
    assert done[0].failure is not None
    assert [t.text for t in done[0].turns] == [reply_to("slow")]
    assert backends["b"].answered == {"slow": 1}


PATIENCE = 240.0  # seconds until a test that hangs fails


class Gated(TroubledBackend):
    """Answers once its gate is open."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = threading.Event()

    def _answer(self, requests, deliver):  # type: ignore[no-untyped-def]
        assert self.gate.wait(PATIENCE)
        super()._answer(requests, deliver)


def test_a_cancelled_call_still_reaches_the_store_and_the_records(tmp_path: Path) -> None:
    """A task group cancels the waiter, not the call itself. It is paid for, so it is stored and recorded."""
    slow = Gated("b")

    @dataclass(frozen=True)
    class Grouped(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one"), "b": Role("two")}

        async def solve(self, question: Question, seats: Seats) -> Solution:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(seats.b.generate("slow", kind="call"))
                    group.create_task(seats.a.generate("bad", kind="call"))
            finally:
                slow.gate.set()
            return Solution("not reached")

    store = CallStore(tmp_path)
    backends = {"a": TroubledBackend("a", trouble=Trouble(raises=lambda p: True)), "b": slow}
    done = run_engine(Engine(store), Grouped(), backends, questions_of(1))
    assert len(store) == 1
    assert done[0].failure is not None
    assert [(turn.text, turn.notes) for turn in done[0].turns] == [(reply_to("slow"), ("cancelled",))]


@pytest.mark.parametrize("late", [False, True])
def test_the_calls_that_lose_a_race_are_recorded(late: bool) -> None:
    """The first of two replies wins. The other is paid for, whether it comes before or after the question ends."""
    slow = Gated("b")

    @dataclass(frozen=True)
    class FirstWins(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one"), "b": Role("two")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            asked = [asyncio.create_task(seats[s].generate(f"{s}!", kind="draft")) for s in "ba"]
            won, lost = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for task in lost:
                task.cancel()
            if late:
                asyncio.get_running_loop().call_later(0.05, slow.gate.set)
            else:
                slow.gate.set()
                await seats.b.generate("after", kind="check")
            return won.pop().result()

    done = run_engine(Engine(), FirstWins(), {"a": TroubledBackend("a"), "b": slow}, questions_of(1))
    assert done[0].failure is None
    assert done[0].text == reply_to("a!")
    turns = [(turn.seat, turn.text, turn.notes) for turn in done[0].turns]
    expected = [("b", reply_to("b!"), ("cancelled",)), ("a", reply_to("a!"), ())]
    assert turns == expected + ([] if late else [("b", reply_to("after"), ())])


@pytest.mark.parametrize("way", ["raises", "cancels itself", "awaits a cancelled task"])
def test_a_protocol_that_is_cancelled_fails_its_question(way: str) -> None:
    @dataclass(frozen=True)
    class Cancelled(Protocol):
        roles: ClassVar[Mapping[str, Role]] = {"a": Role("one")}

        async def solve(self, question: Question, seats: Seats) -> Completion:
            reply = await seats.a.generate(question.context, kind="call")
            if question.doc_id == 1:
                task = asyncio.create_task(asyncio.sleep(3600))
                if way == "cancels itself":
                    current = asyncio.current_task()
                    assert current is not None
                    current.cancel()
                elif way == "raises":
                    raise asyncio.CancelledError
                else:
                    task.cancel()
                await task
            return reply

    backend = TroubledBackend("a")
    done = run_engine(Engine(), Cancelled(), {"a": backend}, questions_of(3))
    assert {i: t.failure and (t.failure.code, t.failure.message) for i, t in done.items()} == {
        0: None, 1: ("protocol", "Cancelled raised CancelledError"), 2: None
    }  # fmt: skip
    assert [turn.text for turn in done[1].turns] == [reply_to("question 1")]


def test_a_protocol_that_raises_fails_its_question_alone() -> None:
    @dataclass(frozen=True)
    class Broken(Planned):
        async def solve(self, question: Question, seats: Seats) -> Solution:
            if question.doc_id == 2:
                raise KeyError("oh")
            return await super().solve(question, seats)

    backend = TroubledBackend("a")
    done = run_engine(Engine(), Broken((((Call("a"),),),) * 4), {"a": backend, "b": backend}, questions_of(4))
    assert [(i, t.failure.code) for i, t in sorted(done.items()) if t.failure] == [(2, "protocol")]


def test_a_model_that_does_not_load_ends_the_run_with_one_error() -> None:
    class Missing(TroubledBackend):
        def load(self) -> None:
            raise OSError("no weights here")

    plan: Plan = ((Call("a"), Call("b")),)
    with pytest.raises(LoadError, match=r"b could not be loaded: no weights here"):
        run_engine(Engine(), Planned((plan,) * 5), {"a": TroubledBackend("a"), "b": Missing("b")}, questions_of(5))


def test_an_error_in_the_callers_code_ends_the_run() -> None:
    backend = TroubledBackend("a")

    class Loud:
        def call_finished(self, backend: object, completion: Completion) -> None:
            raise BrokenPipeError("nobody reads the progress")

        def turn_noted(self, before: Turn, after: Turn) -> None: ...

        def question_finished(self, transcript: Transcript) -> None: ...

    with pytest.raises(BrokenPipeError):
        run_engine(
            Engine(),
            Planned((((Call("a"),),),) * 5),
            {"a": backend, "b": backend},
            questions_of(5),
            observers=[Loud()],
        )

    def numbered() -> Iterator[Question]:
        yield from questions_of(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_engine(Engine(), Planned((((Call("a"),),),) * 5), {"a": backend, "b": backend}, numbered())


def test_a_store_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, backend = CallStore(tmp_path), TroubledBackend("a")

    def full(calls: Sequence[object]) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(StoreError, match="no room"):
        run_engine(Engine(store), Planned((((Call("a"),),),) * 5), {"a": backend, "b": backend}, questions_of(5))


def test_no_questions_at_all() -> None:
    backend = TroubledBackend("a")
    assert run_engine(Engine(), Planned(()), {"a": backend, "b": backend}, []) == {}
    assert backend.loads == 0


def test_a_score_without_a_number_is_a_failure() -> None:
    class NotANumber(TroubledBackend):
        def score(self, requests, deliver):  # type: ignore[no-untyped-def]
            for i in range(len(requests)):
                deliver(i, Loglikelihood(float("nan")) if i else Completion(""))

    plan: Plan = ((Call("a", score=True),),)
    done = run_engine(Engine(), Planned((plan,)), {"a": NotANumber("a"), "b": TroubledBackend("b")}, questions_of(1))
    assert done[0].failure is not None
    assert done[0].failure.code == "no_reply"


@pytest.mark.parametrize("first", [True, False])
def test_policies_apply_to_stored_replies_too(tmp_path: Path, first: bool) -> None:
    """A stored reply that another run accepted (a cut prompt, an empty text) is not used by a stricter run."""

    class Short(TroubledBackend):
        def check(self, request):  # type: ignore[no-untyped-def]
            return CallFailed("overflow", "too long", can_cut=True) if "question 0" in request.prompt else None

        def generate(self, requests, deliver):  # type: ignore[no-untyped-def]
            for i, request in enumerate(requests):
                deliver(i, Completion("" if "question 1" in request.prompt else "text"))

    strict, lenient = CallPolicy(keep_empty=False), CallPolicy(truncate=True)
    store, backend = CallStore(tmp_path), Short("a")
    for policy in (lenient, strict) if first else (strict, lenient):
        done = run_engine(
            Engine(store, policy=policy), Planned((((Call("a"),),),) * 3), {"a": backend, "b": backend}, questions_of(3)
        )
        codes = {i: t.failure.code for i, t in done.items() if t.failure}
        assert codes == ({} if policy is lenient else {0: "overflow", 1: "empty"})
        if policy is lenient:
            assert done[0].turns[0].result.notes == ("prompt_cut",)


def test_an_overflow_that_cannot_be_cut_fails_under_every_policy() -> None:
    class Tiny(TroubledBackend):
        def check(self, request):  # type: ignore[no-untyped-def]
            return CallFailed("overflow", "no room for new tokens")

    backend = Tiny("a")
    done = run_engine(
        Engine(policy=CallPolicy(truncate=True)),
        Planned((((Call("a"),),),)),
        {"a": backend, "b": backend},
        questions_of(1),
    )
    assert done[0].failure is not None
    assert not backend.batches


def test_a_prompt_whose_check_raises_fails_alone() -> None:
    class Choking(TroubledBackend):
        def check(self, request):  # type: ignore[no-untyped-def]
            if "question 1" in request.prompt:
                raise ValueError("no token for this")

    backend = Choking("a")
    done = run_engine(Engine(), Planned((((Call("a"),),),) * 3), {"a": backend, "b": backend}, questions_of(3))
    assert {i: t.failure.message for i, t in done.items() if t.failure} == {1: "a raised ValueError: no token for this"}


def test_lone_surrogates_in_a_reply_are_replaced_and_noted(tmp_path: Path) -> None:
    class Broken(TroubledBackend):
        def generate(self, requests, deliver):  # type: ignore[no-untyped-def]
            deliver(0, Completion("a\ud800b"))

    backend = Broken("a")
    done = run_engine(
        Engine(CallStore(tmp_path)), Planned((((Call("a"),),),)), {"a": backend, "b": backend}, questions_of(1)
    )
    assert done[0].turns[0].text == "a�b"
    assert done[0].turns[0].result.notes == ("surrogates_replaced",)


def test_a_run_waits_for_a_model_that_an_interrupted_run_keeps_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, a cell is interrupted and run again. Two concurrent calls of one model would mix their results."""
    backend = Gated("a")
    protocol, seats = Planned((((Call("a"),),),) * 3), {"a": backend, "b": backend}

    # as if the batch took longer than the run waits for it
    monkeypatch.setattr(ThreadQueue, "join", lambda self, timeout: None)
    with pytest.raises(LoadError):
        run_engine(Engine(window=1), BusyFirst(protocol.plans), seats, questions_of(1))
    assert backend.busy
    threading.Timer(0.1, backend.gate.set).start()  # if that is before the next run begins, the test shows less
    done = run_engine(Engine(), protocol, seats, questions_of(3))
    assert [done[i].text for i in range(3)] == [f"question {i} {reply_to(f'question {i} / 0.0')}" for i in range(3)]
    assert backend.together == 1


@dataclass(frozen=True)
class BusyFirst(Planned):
    """Leaves its call running and raises an error that ends the run."""

    async def solve(self, question: Question, seats: Seats) -> Solution:
        waiting = asyncio.create_task(super().solve(question, seats))
        while not seats.a.backend.busy:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
        raise LoadError(f"the run ends while {waiting.get_name()} waits")
