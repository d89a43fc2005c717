"""Servers that a run starts when it first needs them, and that seats, threads and processes of one host share."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness_ext.errors import LoadError, RunAborted
from harness_ext.serving.election import Election, State, is_alive
from harness_ext.serving.engines import ENGINES
from harness_ext.serving.process import (
    HOST,
    LOOK_EVERY,
    Clock,
    Port,
    ServerProcess,
    answers,
    has_model,
    is_healthy,
)
from harness_ext.terminal import note

SAY_EVERY = 15.0  # seconds
ANY_ADDRESS = "0.0.0.0"
PORTS_TRIED = 3  # another program may take a port before the server does
NOT_INHERITED = frozenset(
    # Keys that a server would demand of its clients; only processes of this run talk to it.
    {"VLLM_API_KEY", "LLAMA_API_KEY", "SGLANG_API_KEY"}
    # Of the launcher of this process. A server that finds them would take itself for one of several processes.
    | {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"}
    | {"ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)


@dataclass(frozen=True)
class ServerSpec:
    """What a server is started with. Seats with equal ones share a server.

    engine: the engine's name.
    model: the model's name in messages, and on the server if the engine gives it no other.
    command: the command, in which name, host and port are to be filled in.
    why: why this engine was chosen; empty if the user chose it.
    devices: the GPUs that it sees, by what CUDA_VISIBLE_DEVICES calls them. Default None: all.
    threads: the number of its threads on the CPU. Default None: as many as it likes.
    deadline: the time within which it must answer, in seconds. Default 1800.
    """

    engine: str
    model: str
    command: tuple[str, ...]
    why: str = ""
    devices: tuple[str, ...] | None = None
    threads: int | None = None
    deadline: float = 1800.0

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables of the server, given those of this process."""
        left_out = NOT_INHERITED.union(name for name in inherited if name.startswith("TORCHELASTIC_"))
        found = {name: value for name, value in inherited.items() if name not in left_out}
        found |= {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}  # the working directory may have a folder `models`
        if self.devices is not None:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        if self.threads is not None:
            found["OMP_NUM_THREADS"] = str(self.threads)
            found = dict(ENGINES[self.engine].on_cpu) | found  # what the user has set counts
        return found


@dataclass
class _Running:
    """A server that answers: the process that this run started, or None if another process of the run did."""

    url: str
    name: str
    pid: int
    process: ServerProcess | None = None


class Server:
    """A server that is started when it is first needed. It ends with this object, or with this process.

    spec: what it is started with.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.engine = ENGINES[spec.engine]
        self.label = f"serve:{spec.model}"
        self.log: Path | None = None
        self._alone = True
        self._cancelled = threading.Event()
        self._others: weakref.WeakSet[Server] = weakref.WeakSet()
        self._early: threading.Thread | None = None
        self._failed: LoadError | None = None
        self._lock = threading.Lock()
        self._state = _State()
        self._listens, self._host, self._secret = HOST, HOST, ""
        self._end = weakref.finalize(self, _State.end, self._state)

    @property
    def key(self) -> str:
        """Return what its clients have to send; empty if it takes requests from anybody."""
        return self._secret

    def open_to(self, host: str) -> None:
        """Let the server answer other hosts as well, once it is started. An engine that can demands a key of them.

        host: the name by which they reach this one.
        """
        self._listens, self._host = ANY_ADDRESS, host
        self._secret = secrets.token_urlsafe(32) if self.engine.key_variable else ""

    def attach(self, folder: Path, seat: str, alone: bool) -> None:
        """Tell where its log goes, and whether other processes of the run may use it. The first call counts.

        folder: the run directory.
        seat: the seat that it answers for.
        alone: whether this process is the only one of its run.
        """
        with _registry:
            self._others = _runs.setdefault(folder, self._others)
            self._others.add(self)
        if self.log is None:
            host = "" if alone else f".{os.uname().nodename}"
            self.log, self._alone = folder / f"serve.{seat}{host}.log", alone

    def start_others(self) -> None:
        """Begin to start the other servers of the run, each in a thread of its own.

        A run that needs one of its models will most likely need the others, and a large one takes minutes to load.
        """
        with _registry:
            others = [other for other in self._others if other is not self and other._early is None]
            for other in others:
                other._early = threading.Thread(target=other._start_early, name="harness-ext start", daemon=True)
        for other in others:
            if other._early is not None:
                other._early.start()

    def _start_early(self) -> None:
        try:
            self.ready(early=True)
        except LoadError as error:
            note(f"{error}\nThe run goes on until it needs this model.")
        except RunAborted:
            pass

    def ready(self, cancelled: threading.Event | None = None, early: bool = False) -> tuple[str, str]:
        """Return its address, up to `/v1`, and the model's name on it, once it answers. It is started if necessary.

        cancelled: is set, before a call of `stop`, when nobody needs the server any more. Default None: never.
        early: whether nobody needs it yet. What goes wrong is then also raised by the next call. Default False.

        Raises LoadError if it does not start within its deadline, or has ended since it was started, and RunAborted
        once it is cancelled.
        """
        cancelled = cancelled or threading.Event()
        while not self._lock.acquire(timeout=LOOK_EVERY):  # another seat has it started
            if cancelled.is_set():
                raise RunAborted("interrupted")
        try:
            if (failed := self._failed) is not None:
                self._failed = None
                raise failed
            if (running := self._state.running) is not None:
                if (ended := self.ended()) is not None:
                    self.stop()  # the next run starts another one
                    raise LoadError(ended)
                return running.url, running.name
            self._cancelled = cancelled
            try:
                self._state.running = running = self._start() if self._alone else self._share()
            except BaseException as error:
                # The other processes have to hear of a failure, so the election stays as it is.
                self._state.end(withdraw=not isinstance(error, LoadError))
                if early and isinstance(error, LoadError):
                    self._failed = error
                raise
            return running.url, running.name
        finally:
            self._lock.release()

    def ended(self) -> str | None:
        """Return what happened to a server that has ended by itself; None if it runs or was not started."""
        running = self._state.running
        if running is None:
            return None
        if running.process is None:
            return None if is_alive(running.pid) else f"{self.label}, started by another process of this run, has ended"
        if running.process.status is None:
            return None
        return running.process.obituary(self.label, "although the run still needs it")

    def stop(self) -> None:
        """End the server, also one that is just being started. `ready` starts it again."""
        self._cancelled.set()
        self._state.end()

    def _share(self) -> _Running:
        """Start the server if this is the first process of the host to need it, and otherwise wait until it answers."""
        log = self._log_file()
        election = self._state.election or Election(log.with_name(f".{log.name}.lock"))
        end = time.monotonic() + self.spec.deadline + SAY_EVERY
        while True:
            if election.won():
                self._state.election = election
                try:
                    running = self._start()
                except LoadError as error:
                    election.tell(State(os.getpid(), message=str(error)))
                    raise
                election.tell(State(os.getpid(), url=running.url, name=running.name, server=running.pid))
                return running
            told = election.heard()
            if told is not None and told.message:
                raise LoadError(told.message)
            if told is not None and told.url:
                return _Running(told.url, told.name, told.server)
            if time.monotonic() > end:
                raise LoadError(f"{self.label}: the process of this run that starts it has said nothing: see {log}")
            self._pause()

    def _start(self) -> _Running:
        spec, log = self.spec, self._log_file()
        where = "" if spec.devices is None else f" on GPU {'+'.join(spec.devices)}" if spec.devices else " on the CPU"
        chosen = f" ({spec.why})" if spec.why else ""
        with ExitStack() as stack:
            for device in sorted(spec.devices or ()):
                stack.enter_context(self._turn(device))
            note(f"{self.label}: starting {self.engine.title}{where}{chosen}, log in {log}")
            for attempt in range(PORTS_TRIED):
                port = Port(self._listens)
                alias = f"{Path(spec.model).stem}-{secrets.token_hex(4)}".replace(",", "_")
                name = alias if self.engine.alias else spec.model
                command = self.engine.fill(spec.command, name, self._listens, port.number)
                environment = spec.environment(os.environ)
                if self._secret:
                    environment[self.engine.key_variable] = self._secret
                process = self._state.process = ServerProcess(command, environment, log, port)
                if self._becomes_ready(process, name, may_retry=attempt + 1 < PORTS_TRIED):
                    return _Running(f"http://{self._host}:{port.number}/v1", name, process.pid, process)
                process.stop()
        raise AssertionError("the last attempt returns or raises")

    def _becomes_ready(self, process: ServerProcess, name: str, may_retry: bool) -> bool:
        """Return whether the server answers, and False if it did not get its port. Raises LoadError and RunAborted."""
        deadline, stage = self.spec.deadline, "it is loading the model"
        root = f"http://{HOST}:{process.port.number}"
        url = f"{root}/v1"

        def line(seconds: float) -> str:
            last = process.last_lines()[-1:]
            said = f"; its last line: {last[0][:160]}" if last else ""
            return f"{self.label}: still starting after {seconds:.0f} s of at most {deadline:.0f} s ({stage}){said}"

        with Clock(line, SAY_EVERY) as clock:
            while True:
                if self._cancelled.is_set():
                    raise RunAborted("interrupted")
                if process.status is not None:
                    if may_retry and process.lost_its_port():
                        return False
                    raise LoadError(process.obituary(self.label, "while it was starting"))
                if clock.seconds > deadline:
                    process.stop()
                    raise LoadError(
                        f"{self.label} did not answer within {deadline:.0f} s ({stage}): allow more time "
                        f"(`serve.deadline`), or see why in {self._log_file()}"
                    )
                if is_healthy(f"{root}{self.engine.health}") and (
                    not self.engine.alias or has_model(url, name, self._secret)
                ):
                    stage = "it is healthy, and asked for its first token"
                    left = max(1.0, deadline - clock.seconds)
                    problem = answers(url, name, left, self._secret)
                    if problem is None and process.status is None:
                        note(f"{self.label}: ready after {clock.seconds:.0f} s, {url}")
                        return True
                    stage = f"it is healthy, but its first completion failed: {problem}" if problem else stage
                self._pause()

    @contextmanager
    def _turn(self, device: str) -> Iterator[None]:
        """Wait until no other server is starting on a GPU: engines measure its free memory while they start."""
        lock = _starting.setdefault(device, threading.Lock())
        while not lock.acquire(timeout=LOOK_EVERY):
            if self._cancelled.is_set():
                raise RunAborted("interrupted")
        try:
            yield
        finally:
            lock.release()

    def _pause(self) -> None:
        if self._cancelled.wait(LOOK_EVERY):
            raise RunAborted("interrupted")

    def _log_file(self) -> Path:
        if self.log is None:
            descriptor, path = tempfile.mkstemp(prefix="harness-ext-serve-", suffix=".log")
            os.close(descriptor)
            self.log = Path(path)
        return self.log


@dataclass
class _State:
    """What has to be ended with a server. It does not refer to the server, so that the server can be collected."""

    running: _Running | None = None
    process: ServerProcess | None = None
    election: Election | None = None
    owner: int = field(default_factory=os.getpid)

    def end(self, withdraw: bool = True) -> None:
        if os.getpid() != self.owner:
            return  # a forked process must not end what belongs to its parent
        process, self.process, self.running = self.process, None, None
        if process is not None:
            process.stop()
        if withdraw and self.election is not None:
            self.election.withdraw()
            self.election = None


_servers: weakref.WeakValueDictionary[ServerSpec, Server] = weakref.WeakValueDictionary()
_runs: dict[Path, weakref.WeakSet[Server]] = {}  # the servers of each run directory
_starting: dict[str, threading.Lock] = {}
_registry = threading.Lock()


def server_for(spec: ServerSpec) -> Server:
    """Return the server with this specification: the existing one if there is one in this process."""
    with _registry:
        server = _servers.get(spec)
        if server is None:
            server = _servers[spec] = Server(spec)
        return server
