"""Losses and gradient norms that are not finite end a training before anything of that step is saved."""

from __future__ import annotations

import math
from typing import Any

from harness_ext.errors import FAILED
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.callbacks import highest
from harness_ext.finetune.checkpoints import last_complete

# In float16, the loss is scaled, and a scale that is too large gives infinite gradients. Such a step is skipped and the
# scale is halved. From the initial scale of 65536, this many halvings in a row leave nothing to scale.
MOST_OVERFLOWS = 30
_FINE, _BAD_NORM, _BAD_LOSS = 0, 1, 2


class Diverged(Exception):
    """A loss or a gradient norm is not finite. The message names the step, the cause and the remedy."""

    status = FAILED


class FiniteCheck:
    """Watches the losses and gradient norms of a training and raises once one of them is not finite.

    args: the run's settings.
    compute: the data type of the computation, from `precision`.
    """

    def __init__(self, args: TrainArgs, compute: str) -> None:
        self.args = args
        self.compute = compute
        self._loss: Any = 0.0
        self._overflows = 0

    def add(self, loss: Any) -> None:
        """Take note of the loss of a forward pass, a tensor with one element. Nothing is computed or copied yet."""
        self._loss = self._loss + loss

    def end_step(self, step: int, norm: Any, device: Any) -> None:
        """Check an optimizer step: the losses since the last call, and the norm of its gradients.

        All processes must call this after the same step. Raises Diverged in all of them if a value is not finite in
        any. In float16, gradients that are not finite are an overflow and expected, unless there is no end to them.

        step: the number of the step.
        norm: the gradient norm, or None if the library computes none.
        device: the device on which the processes communicate.
        """
        loss, self._loss = float(self._loss), 0.0
        norm = 0.0 if norm is None else float(norm)
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        expected = self.compute == "float16" and self._overflows < MOST_OVERFLOWS
        found = _FINE if math.isfinite(norm) or expected else _BAD_NORM
        found = highest(found if math.isfinite(loss) else _BAD_LOSS, device)
        if found:
            what = f"the loss is {_shown(loss)}" if found == _BAD_LOSS else f"the gradient norm is {_shown(norm)}"
            raise Diverged(f"step {step}: {what}. {self._cause(step)} {self._rest()}")

    def end_evaluation(self, step: int, loss: float | None) -> None:
        """Check a validation error, which is the same in all processes. Raises Diverged if it is not finite.

        step: the step after which it was computed.
        loss: the validation error, or None if there is none.
        """
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"step {step}: the validation error is {loss}. {self._cause(step + 1)} {self._rest()}")

    def _cause(self, step: int) -> str:
        if self.compute == "float16":
            return "In float16, values above 65504 overflow. Remedy: set dtype: bfloat16 or float32."
        if step == 1:
            return (
                "Nothing was trained before, so the learning rate is not the cause: the weights of the model, or what "
                f"it computes in {self.compute}, are not finite. Remedy: check that {self.args.model} works as it is"
                + (", or set dtype: float32." if self.compute != "float32" else ".")
            )
        return (
            f"The training has diverged, most likely because the learning rate {self.args.learning_rate:g} is too "
            "high. Remedy: set a lower `learning_rate` or more `warmup_steps`."
        )

    def _rest(self) -> str:
        last = last_complete(self.args.output_dir, resumable=True).checkpoint
        if last is None:
            return "Nothing was saved."
        return (
            f"Nothing of this step was saved: the same command continues from {last}, and other settings need another "
            "`output_dir`."
        )


def _shown(value: float) -> str:
    # Another process may have met the value that is not finite.
    return "not finite in another process" if math.isfinite(value) else str(value)
