"""The queue of a served model: its calls run concurrently in the event loop, each as a request of its own."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from harness_ext.backends.served import Ask, ServedBackend
from harness_ext.engine.queues import CallOutcome, DeviceQueue, Pending, failure_of
from harness_ext.errors import CallFailed, HarnessExtError, LoadError


class ServedQueue(DeviceQueue):
    """Sends the calls of one `ServedBackend` in order, with at most `num_concurrent` of them in flight."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: asyncio.Queue[Pending] = asyncio.Queue()

    def submit(self, call: Pending) -> None:
        self._waiting.put_nowait(call)

    async def serve(self) -> None:
        call = await self._waiting.get()  # a run that the store answers opens no connection
        backend = cast(ServedBackend, call.backend)
        backend.run = self._rest
        slots = asyncio.Semaphore(backend.num_concurrent)
        try:
            async with backend.connect() as ask, asyncio.TaskGroup() as group:
                while True:
                    await slots.acquire()
                    group.create_task(self._answer(call, ask)).add_done_callback(lambda _: slots.release())
                    call = await self._waiting.get()
        except HarnessExtError as error:
            self._abort(error)
        except Exception as error:
            self._abort(LoadError(f"no connection to {backend.name} can be opened: {error}"))
        finally:
            backend.meter.idle()

    async def _answer(self, call: Pending, ask: Ask) -> None:
        call.backend.meter.started()
        outcome: CallOutcome | None = self._refusal(call)
        if outcome is None:
            try:
                outcome = self._accept(call.backend, call, await ask(call.request))
            except CallFailed as error:
                outcome = error
            except HarnessExtError as error:
                self._abort(error)
                return
            except Exception as error:
                outcome = failure_of(call.backend, error)
        self._report(call, outcome)
