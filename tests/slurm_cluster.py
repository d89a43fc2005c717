"""A real Slurm cluster of one node, for tests that submit batch scripts.

The daemons run as ordinary processes of the current user, with all files in a temporary folder, and end with the tests.
A test module gets the cluster by importing the fixture `slurm`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
DEADLINE = 600.0
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")

# The partitions differ in what happens to their jobs when a job in `urgent` needs the node. All times are so long that
# they never pass on a slow machine: a job ends because its processes end.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
MessageTimeout=100
TCPTimeout=60
BatchStartTimeout=600
KillWait=600
UnkillableStepTimeout=900
MinJobAge=86400
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
MailProg={folder}/mail
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 Gres=gpu:2 Features=fast,blue
PartitionName=grace Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=3600
PartitionName=requeue Nodes={host} PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """A running cluster.

    folder: the folder with its configuration, state and logs.
    host: the name of its node.
    cpus: the CPUs that the node offers, independently of the machine's.
    environment: the environment in which Slurm's commands find the cluster.
    """

    def __init__(self, folder: Path, cpus: int = 8) -> None:
        self.folder, self.cpus = folder, cpus
        self.host = socket.gethostname().split(".")[0]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until the node accepts jobs. Fails the test if they do not start."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        user = self.output("id", "-un").strip()
        ports = free_ports(2)
        text = CONFIGURATION.format(
            folder=self.folder, host=self.host, user=user, cpus=self.cpus, controller_port=ports[0], node_port=ports[1]
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        mail = self.folder / "mail"
        mail.write_text(f"#!/bin/bash\nprintf '%s\\n' \"$*\" >> {self.folder}/mails\n", encoding="utf-8")
        mail.chmod(0o755)
        for gpu in ("gpu0", "gpu1"):  # Slurm only checks that the devices exist
            (self.folder / gpu).touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n", encoding="utf-8")
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        # `--force`: munged otherwise refuses folders that others can write to, such as those below /tmp.
        munged = [f"--{option}={self.folder}/munge.{ending}" for option, ending in files.items()]
        self._daemon("munged", "--foreground", "--force", *munged)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged did not open its socket")
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-N", self.host)
        self._wait(self._node_is_idle, "the node is not idle")

    def stop(self) -> None:
        """Kill all jobs and end the daemons."""
        for job in self.output("squeue", "-h", "-o", "%A", check=False).split():
            self.output("scancel", "--full", "--signal=KILL", job, check=False)
            self.output("scancel", job, check=False)
        self._wait(lambda: not self.output("squeue", "-h", check=False).strip(), "jobs are left")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def output(self, *command: str, check: bool = True, cwd: Path | None = None) -> str:
        """Run one of Slurm's commands and return what it prints. Fails the test if it fails, unless `check` is off."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def submit(self, script: Path, *options: str) -> str:
        """Submit a batch script from its own folder and return the job's number."""
        return self.output("sbatch", "--parsable", *options, str(script), cwd=script.parent).strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm says about a job, or about one task of an array (`12_3`), by Slurm's names."""
        line = self.output("scontrol", "--oneliner", "show", "job", number).splitlines()[0]
        return dict(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", line))

    def wait(self, number: str, *states: str) -> dict[str, str]:
        """Wait until a job is in one of the states, and return what Slurm says about it.

        A requeued job, which Slurm would delay by two minutes, becomes ready to start soon. Fails the test when the job
        ends otherwise.
        """
        end = time.monotonic() + DEADLINE
        hurried: set[str] = set()
        while True:
            facts = self.job(number)
            if facts["JobState"] in states:
                return facts
            if facts["JobState"] in ENDED or time.monotonic() > end:
                printed = Path(facts["StdOut"])
                text = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
                pytest.fail(f"job {number} is not {' or '.join(states)}: {facts}\n{text[-3000:]}\n{self.logs()}")
            if (facts["JobState"], facts["Reason"]) == ("PENDING", "BeginTime") and facts["Restarts"] not in hurried:
                # slurmd counts in seconds: in the second in which it ended a job, it takes its restart for the job that
                # was killed, and refuses it.
                self.output("scontrol", "update", f"JobId={number}", "StartTime=now+3seconds", check=False)
                hurried.add(facts["Restarts"])
            time.sleep(0.5)

    @property
    def mails(self) -> list[str]:
        """Return the mails that Slurm has sent, each with its subject and who it is for."""
        path = self.folder / "mails"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def logs(self) -> str:
        """Return the last lines that the daemons wrote."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            found.append("\n".join([f"{path.name}:", *lines]))
        return "\n".join(found)

    def _node_is_idle(self) -> bool:
        state = self.output("sinfo", "-h", "-o", "%T", check=False)
        if "drain" in state or "inval" in state:
            pytest.fail(f"the node does not accept its configuration\n{self.logs()}")
        return "idle" in state

    def _daemon(self, program: str, *options: str) -> None:
        with open(self.folder / f"{program}.out.log", "wb") as out:
            self._daemons.append(
                subprocess.Popen([_found(program), *options], env=self.environment, stdout=out, stderr=out)
            )

    def _wait(self, ready: Callable[[], bool], problem: str) -> None:
        end = time.monotonic() + DEADLINE
        while not ready():
            ended = [one.args for one in self._daemons if one.poll() is not None]
            if ended or time.monotonic() > end:
                pytest.fail(f"{problem}; ended: {ended}\n{self.logs()}")
            time.sleep(0.2)


def missing_programs() -> Sequence[str]:
    """Return the programs of Slurm and Munge that are not installed."""
    return [program for program in PROGRAMS if not _found(program)]


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that are not in use."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _found(program: str) -> str:
    # Daemons are often in folders that only root's search path contains.
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    return shutil.which(program, path=folders) or ""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster. Skips the test where Slurm is not installed."""
    if missing := missing_programs():
        pytest.skip(
            f"Slurm is not installed ({', '.join(missing)}): `tests/slurm/install.sh` installs it, as root on Debian"
        )
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
