"""Keeps out of the log what libraries say again and again and no user can act on: each known message by itself.

Everything else that a library warns about is still shown.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from harness_ext.finetune.args import TrainArgs


@dataclass(frozen=True)
class KnownWarning:
    """A warning that concerns only whoever maintains the library that causes it.

    message: a regular expression for the beginning of its text.
    module: the module that Python attributes it to.
    why: what causes it.
    """

    message: str
    module: str
    why: str


KNOWN_WARNINGS = (
    KnownWarning(
        r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated",
        "torch.distributed.c10d_logger",
        "DeepSpeed calls torch's functions by their old names, hundreds of times per step under ZeRO-3",
    ),
    KnownWarning(
        r"`is_gradient_checkpointing` is deprecated",
        "transformers.modeling_utils",
        "PEFT and TRL ask a model by transformers' old name whether it recomputes activations",
    ),
)
# transformers accumulates gradients itself, so accelerate's own number stays 1; the configuration for DeepSpeed has the
# number of the settings, or is refused.
ACCUMULATION = "accelerate.accelerator", re.compile(r"Gradient accumulation steps mismatch: .* has 1, DeepSpeed")
# What DeepSpeed prints, in every process, each time it has loaded an extension.
BUILT = re.compile(r"DeepSpeed \S+ built successfully$")
# It warns of a missing kernel for weights in 4 bits as soon as PEFT imports it.
FOUR_BIT_KERNELS = "bitsandbytes.backends.cpu.ops"


def silence_known(args: TrainArgs) -> None:
    """Silence the warnings of libraries that are known to mean nothing for a run with these settings."""
    for known in KNOWN_WARNINGS:
        warnings.filterwarnings(
            "ignore", message=known.message, category=FutureWarning, module=re.escape(known.module) + "$"
        )
    logger, message = ACCUMULATION
    logging.getLogger(logger).addFilter(_Without(message))
    if args.adapter != "qlora":
        # Without weights in 4 bits, the kernel would not be used.
        logging.getLogger(FOUR_BIT_KERNELS).setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Without(logging.Filter):
    """Lets all messages of a logger pass except those that contain the pattern. Equal ones are added only once."""

    pattern: re.Pattern[str]

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.pattern.search(record.getMessage())


@contextmanager
def prints_to_stderr(dropped: re.Pattern[str]) -> Iterator[None]:
    """Send what a library prints to standard error, since the only output of a training is the folder of its model.

    dropped: matches the lines that are not printed at all.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not dropped.match(line):
                print(line, file=sys.stderr, flush=True)


@contextmanager
def transformers_bars(shown: bool) -> Iterator[None]:
    """Let transformers draw its own bars, for loading and writing weights, only if `shown`.

    In a file, they are lines of control characters; below another bar, they break it; and of several processes, each
    draws them.
    """
    from transformers.utils import logging as library

    if shown or not library.is_progress_bar_enabled():
        yield
        return
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.enable_progress_bar()
