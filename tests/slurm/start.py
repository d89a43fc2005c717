"""Starts a Slurm cluster of one node on this machine, and ends it with Ctrl-C: `python tests/slurm/start.py [FOLDER]`.

It prints the line that lets Slurm's commands find it. Everything is in a folder, by default a new one below /tmp.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from slurm_cluster import Cluster  # noqa: E402


def main(arguments: list[str]) -> int:
    """Install Slurm if possible and necessary, start the cluster and wait for a signal."""
    subprocess.run([str(HERE / "install.sh")], check=True)
    folder = Path(arguments[0]) if arguments else Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = Cluster(folder.resolve())
    try:
        cluster.start()
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return 0
    finally:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
