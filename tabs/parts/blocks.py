"""gr.Blocks as the studio needs it: one place where mistakes of callers become sentences, for every handler and route.

    the caller's mistake   a StudioError, from the check of the values or from the handler: a sentence, nothing in the log
    anything else          a defect: its traceback in the log, a sentence that says so to the caller
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from gradio import networking
from gradio.blocks import Block
from gradio.exceptions import ComponentProcessingError
from gradio.utils import SyncToAsyncIterator

from studio.errors import InvalidOption, StudioError
from studio.files import lies_within
from studio.scratch import scratch_folder
from tabs.parts.arguments import checked
from tabs.parts.calls import mark_refused
from tabs.parts.queue import VisitorQueue
from tabs.parts.receiving import require_disk
from tabs.parts.uploads import OwnUploads

__all__ = ["StudioBlocks"]

FAILED = "The studio failed at this; its log says why."
# What components raise for a value of the right kind that they cannot take.
MISTAKES = (gr.Error, StudioError, ValueError, LookupError, OSError)
HANDED_OUT = (gr.File, gr.DownloadButton, gr.Image, gr.Gallery, gr.Video)
LONGEST_PATH = 4096


def keep_signatures() -> None:
    """Let every kind of component say the signature of its __init__ at once (PEP 362).

    Gradio looks it up anew for each component that is made, and again for each that is described: of a page of many
    components that takes longer than all else of its making.
    """
    kinds = [Block]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        init: Any = inspect.unwrap(kind.__init__)
        if inspect.isfunction(init) and not hasattr(init, "__signature__"):
            init.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]


class StudioBlocks(OwnUploads):
    """gr.Blocks whose handlers may raise StudioError, and are sent only what they take; its queue has places by visitor."""

    # Is told the session of every visitor who is gone.
    on_gone: Callable[[str], None] = staticmethod(lambda session: None)

    def __init__(self, *args: Any, **options: Any) -> None:
        keep_signatures()
        super().__init__(*args, **options)

    def queue(self, *args: Any, **options: Any) -> "StudioBlocks":
        """Gradio's own, with the visitors' queue in front of it."""
        super().queue(*args, **options)
        self._queue = VisitorQueue(self._queue)
        # Looked up when somebody goes, as Gradio makes its queue before the page.
        self._queue.on_gone = lambda session: self.on_gone(session)
        return self

    def launch(self, *args: Any, **options: Any) -> Any:
        """Gradio's own, without its limit on the first page.

        Gradio ends where that page takes over three seconds, as on a busy machine. That the server answers at all was asked before.
        """
        networking.url_ok = lambda url: True
        return super().launch(*args, **options)

    def get_config_file(self) -> Any:
        """What describes the app, with what the browser has no use for left out: its work grows with the product of parts and events.

        The page has none of the parts of endpoints; who asks for the whole (`/config`, `/gradio_api/info`) gets them. Handlers
        that show no progress have no part to show it on: Gradio would send every part that was ever one such the state of every
        frame of every run.
        """
        config = super().get_config_file()
        for event in config["dependencies"]:
            if event["show_progress"] == "hidden":
                event["show_progress_on"] = []
        unseen = {part["id"] for part in config["components"] if part["type"] == "api"}
        for page in config["page"].values():
            page["components"] = [part for part in page["components"] if part not in unseen]
            page["layout"]["children"] = [part for part in page["layout"]["children"] if part["id"] not in unseen]  # type: ignore[index]
        return config

    async def process_api(  # type: ignore[override]  # called by name from event_id on
        self, block_fn: Any, inputs: list[Any], state: Any = None, request: Any = None, iterator: Any = None, *, event_id: Any = None, **more: Any,
    ) -> dict[str, Any]:
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            if iterator is None and not fn.is_cancel_function:
                inputs = checked(fn, inputs)
            return await super().process_api(fn, inputs, state, request, iterator, event_id=event_id, **more)
        except StudioError as error:
            mark_refused(request)
            raise gr.Error(str(error), print_exception=False) from None
        except gr.Error as error:
            if not error.print_exception:
                mark_refused(request)
            raise
        except Exception as error:
            raise gr.Error(FAILED) from error

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **more: Any) -> list[Any]:
        """What components refuse of values of the right kind (a choice that is not in the menu, a file that was never uploaded) is the caller's mistake."""
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **more)
        except (gr.Error, ValueError, LookupError, OSError) as error:
            cause = error.__cause__ if isinstance(error, ComponentProcessingError) else error
            # What is said in a sentence already stays as it is said.
            if not isinstance(cause, MISTAKES) or getattr(error, "print_exception", None) is False:
                raise
            raise InvalidOption(sentence_of(cause)) from None

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Gradio keeps every file that it hands out: there must be room for it first."""
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if any(isinstance(block, HANDED_OUT) for block in fn.outputs):
            await anyio.to_thread.run_sync(require_disk, bytes_of(predictions))
        return await super().postprocess_data(fn, predictions, state)

    async def call_function(
        self, block_fn: Any, processed_input: list[Any], iterator: Any = None, requests: Any = None, event_id: Any = None, *args: Any, **more: Any,
    ) -> dict[str, Any]:
        check_route(block_fn, event_id)
        result = await super().call_function(block_fn, processed_input, iterator, requests, event_id, *args, **more)
        if isinstance(result["iterator"], SyncToAsyncIterator):
            result["iterator"] = ClosedAside(result["iterator"])
        return result


def bytes_of(prediction: Any) -> int:
    """Bytes of the files in what a handler gives."""
    if isinstance(prediction, dict | list | tuple):
        return sum(map(bytes_of, prediction.values() if isinstance(prediction, dict) else prediction))
    is_path = isinstance(prediction, Path) or (isinstance(prediction, str) and len(prediction) < LONGEST_PATH)
    return Path(prediction).stat().st_size if is_path and lies_within(prediction, [scratch_folder()]) and Path(prediction).is_file() else 0


def sentence_of(error: BaseException) -> str:
    """What a component said of a value: of several lines the first."""
    if isinstance(error, StudioError):
        return str(error)
    said = error.message if isinstance(error, gr.Error) else str(error)
    return f"This cannot be taken: {said.strip().partition(chr(10))[0].rstrip('.') or type(error).__name__}."


def check_route(fn: Any, event_id: Any) -> None:
    """What draws in steps has its turn in the queue; called directly it would end after the first."""
    if event_id is None and fn.queue and fn.types_generator:
        name = fn.api_name if fn.api_visibility == "public" else "NAME"
        raise InvalidOption(f"This goes on in steps: POST to /gradio_api/call/{name}, then listen at /gradio_api/call/{name}/EVENT_ID.")


class ClosedAside:
    """The steps of a handler that is a generator. Closed in a thread: what a run has to put in order must not hold up everyone's answers."""

    def __init__(self, steps: SyncToAsyncIterator) -> None:
        self.steps = steps

    def __aiter__(self) -> "ClosedAside":
        return self

    async def __anext__(self) -> Any:
        return await self.steps.__anext__()

    async def aclose(self) -> None:
        steps = self.steps.iterator
        while True:
            try:
                return await anyio.to_thread.run_sync(steps.close)
            except ValueError:
                # Its last step is under way in another thread.
                await anyio.sleep(0.05)
