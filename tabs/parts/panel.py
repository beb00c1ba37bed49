"""The run panel: what starts a run and ends it, how far it is, what it shows, keeps and opens. One for every tab that samples.

    panel = RunPanel(studio, "t2i", "Generate")   then, where the tab wants them to stand:
    panel.create_press()                          Run, Stop, and the line that says how far it is
    panel.create_files()                          Keep it, Open
    panel.create_stage(...)                       where the run is seen
    panel.wire_run(changes, inputs)               a press asks at once, the run waits for the device, Stop ends it after its step
    panel.wire_files(controls, of_model)          what was kept comes back, options and all

A run is an iterator of changes of the page, by the names of the panel's places: {"status": words, "stage": JSON text, ...}.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidOption, StudioError
from studio.models.device import Work
from studio.options import SampleOptions
from studio.sampling.export import read_picture
from studio.scratch import passing_folder
from tabs.parts.api import SamplingApi, TextApi
from tabs.parts.arguments import event_value
from tabs.parts.controls import Controls, restored
from tabs.parts.filmstrip import film
from tabs.parts.keeping import DOWNLOAD, FILMS, KEEPERS, STREAMS, told
from tabs.parts.running import at_the_end, decoded_step
from tabs.parts.session import Session
from tabs.parts.stage import CHEAP, PRIVATE, create_stage, said_in_a_sentence, to_stage
from tabs.parts.turns import alone, given
from tabs.parts.words import tokens_of

if TYPE_CHECKING:
    from studio.models.prompts import Tokens

__all__ = ["RunPanel", "Change", "Changes", "Values", "DEVICE", "FILES"]

# What the page shows from now on, by the name of the place; what a run is asked with, by component.
Change = dict[str, Any]
Values = Mapping[Any, Any]
Changes = Callable[[Values, Event], Iterator[Change]]

# Whatever uses the device begins at once, and has its turns in the device's own line (tabs.parts.turns); files are read and written beside it.
DEVICE: Mapping[str, Any] = MappingProxyType({"concurrency_id": "gpu", "concurrency_limit": None})
FILES: Mapping[str, Any] = MappingProxyType({"concurrency_id": "files", "concurrency_limit": 2})

STOPPING = "Stopping after this step."

# How often a run that waits for the visitor's own one before it looks whether anybody is still there.
LOOK_EVERY_S = 0.25


class RunPanel:
    """The parts of one kind of run, made where they are to stand and wired once.

    Args:
        studio: opens run files, and keeps what visitors left.
        name: begins the elem_ids of the parts.
        verb: on the starting button.
        decoder: the studio again where the runs are of latents: its real decoder makes films and single steps of them.
    """

    def __init__(self, studio: SamplingApi, name: str, verb: str, *, decoder: TextApi | None = None) -> None:
        self.studio, self.name, self.verb, self.decoder = studio, name, verb, decoder
        self.session = gr.State(Session(studio.kept, name), delete_callback=close)
        # Where the changes of a run go.
        self.places: dict[str, Any] = {}

    # --- the parts

    def create_press(self) -> None:
        """The button that starts, the one that stops, and the line that says how far it is."""
        with gr.Row(elem_classes="ds-press"):
            self.run = gr.Button(self.verb, variant="primary", elem_id=f"{self.name}-run", min_width=80, scale=2)
            self.stop = gr.Button("Stop", interactive=False, elem_id=f"{self.name}-stop", min_width=60, scale=1)
        self.create_status()

    def create_presses(self, verbs: Mapping[str, str]) -> dict[str, gr.Button]:
        """Several buttons that start, each another kind of run, and the same beside them; gives the buttons by kind."""
        with gr.Row(elem_classes="ds-press"):
            starts = {kind: gr.Button(label, size="sm", elem_id=f"{self.name}-{kind}") for kind, label in verbs.items()}
            self.stop = gr.Button("Stop", size="sm", interactive=False, elem_id=f"{self.name}-stop")
        self.create_status()
        return starts

    def create_status(self) -> None:
        """The line that says how far it is."""
        self.status = gr.HTML(elem_id=f"{self.name}-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
        self.places |= {"stop": self.stop, "status": self.status}
        # Said by the page itself: the studio's answer could come after what the run says of its end, and stand there for good.
        self.stop.click(None, None, self.status, js=f"() => {json.dumps(STOPPING)}", **CHEAP)
        self.stop.click(self.on_stop, self.session, self.status, **CHEAP)

    def create_stage(self, value: str = "", invitation: str = "") -> gr.HTML:
        """The stage of a film. value: what it shows first."""
        self.stage = create_stage(f"{self.name}-stage", drop_to=f"#{self.name}-open", invitation=invitation, value=value)
        self.places["stage"] = self.stage
        return self.stage

    def create_files(self) -> None:
        """What keeps a run as a file, and what opens one."""
        with gr.Accordion("Keep it", open=False, elem_id=f"{self.name}-keep"):
            self.stream = gr.Radio(STREAMS, value="both", label="Stream", info="What the film and the contact sheet show.")
            with gr.Row(elem_classes="ds-keep"):
                self.keepers = {
                    kind: gr.Button(label, size="sm", min_width=72, elem_id=f"{self.name}-keep-{kind}") for kind, (label, _) in KEEPERS.items()
                }
            self.kept = gr.File(label="Kept", interactive=False, visible=False, height=60, elem_id=f"{self.name}-kept")
        with gr.Column(elem_id=f"{self.name}-open"):
            self.opened = gr.UploadButton("Open a run or a saved picture", size="sm", file_types=[".safetensors", ".png", ".gif"])

    # --- a run

    def wire_run(self, changes: Changes, inputs: Collection[Any], on: Collection[Any] = (), *, failed: Callable[[Values], Change] = lambda values: {}) -> Any:
        """Tie the press to a run; gives the event of the run, to hang more on.

        Args:
            changes: of the page while the run goes on, from the values of `inputs` and the switch that Stop sets. What it
                raises at once, before its first change, is said at once: such a press waits for nothing and stops nothing.
            on: the events that start a run; the press of the starting button where there are none.
            failed: what else the page shows of a run that failed.
        """
        def on_ask(values: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self._asked(changes, values, values[self.session].of(request))

        def on_run(session: Session) -> Iterator[dict[Any, Any]]:
            yield from self._running(session, failed)

        asked = gr.on(list(on) or [self.run.click], on_ask, {self.session, *inputs}, [self.stop, self.status], trigger_mode="multiple", **CHEAP)
        ran = asked.then(
            on_run, self.session, list(self.places.values()), trigger_mode="multiple", api_visibility="private", show_progress="minimal",
            show_progress_on=self.status, **DEVICE,
        )
        ran.failure(self.on_refused, self.session, [self.stop, self.status], **CHEAP)
        return ran

    def on_refused(self, session: Session) -> dict[Any, Any]:
        """The queue took no more, so what was asked for will never begin. Whatever has begun has said itself how it failed."""
        if not session.withdraw():
            return {self.stop: gr.skip(), self.status: gr.skip()}
        return {self.stop: gr.update(interactive=False), self.status: f"The queue was full, so nothing was begun; press {self.verb} again in a little while."}

    def on_stop(self, session: Session) -> dict[Any, Any]:
        """Stop was pressed."""
        return {self.status: gr.skip() if session.stop() else "Nothing is running."}

    def _asked(self, changes: Changes, values: Values, session: Session) -> dict[Any, Any]:
        try:
            session.ask(lambda switch: changes(values, switch), values)
        except StudioError as error:
            return {self.stop: gr.skip(), self.status: str(error)}
        return {self.stop: gr.update(interactive=True), self.status: "Waiting for the device."}

    def _running(self, session: Session, failed: Callable[[Values], Change]) -> Iterator[dict[Any, Any]]:
        """A run, after the one before it of the same session, which was stopped by the press."""
        session.came = True
        while not session.turn.acquire(timeout=LOOK_EVERY_S):
            yield {self.status: gr.skip()}
        try:
            yield from self._begun(session, failed)
        finally:
            session.turn.release()

    def _begun(self, session: Session, failed: Callable[[Values], Change]) -> Iterator[dict[Any, Any]]:
        """The changes in their places; then, or after a failure that is said in a sentence, Stop as it must be."""
        with session.begun() as asked:
            if asked is None:
                yield {self.status: gr.skip()}
                return
            try:
                change: Change = {}
                for change in asked.changes:
                    yield self._placed(change)
                if "stop" not in change:
                    yield self._placed(at_the_end(session))
            except Exception as error:
                # Gradio drops what is chained to a run that raises, so the page is put in order before.
                yield self._placed({"status": failure_line(error), **at_the_end(session), **failed(asked.values)})
                with said_in_a_sentence():
                    raise

    def _placed(self, change: Change) -> dict[Any, Any]:
        return {self.places[name]: value for name, value in change.items()}

    # --- files

    def wire_files(
        self, controls: Controls, of_model: Callable[[SampleOptions], dict[Any, Any] | None], *, beside: Collection[Any] = (),
    ) -> Any:
        """Tie what keeps and what opens; gives the event of a file that is opened, to hang more on.

        Args:
            controls: by the names of their options; they are set to what was opened.
            of_model: the updates of those that depend on the model; None where it is not to be had.
            beside: further components that `of_model` updates.
        """
        self.controls, self.of_model = controls, of_model
        outputs = [self.stage, self.status, *controls.values(), *beside]
        opened = self.opened.upload(self.on_file, [self.opened, self.session], outputs, **PRIVATE, **FILES)
        for kind, button in self.keepers.items():
            # Films are of decoded pictures, which is the device's work.
            where = DEVICE if self.decoder and kind in FILMS else FILES
            written = button.click(self.on_keep(kind), [self.stream, self.session], [self.kept, self.status], **PRIVATE, **where)
            written.success(None, self.kept, None, js=DOWNLOAD, **CHEAP)
        if self.decoder:
            self.stage.select(self.on_open_step, self.session, [self.stage, self.status], **PRIVATE, **DEVICE)
        return opened

    def on_file(self, path: str | None, session: Session, request: gr.Request) -> dict[Any, Any]:
        """Take up a run file as the run on the stage, and of a kept picture its options."""
        with said_in_a_sentence():
            if path is None:
                raise InvalidOption("No file was given; choose a run file, or a picture that was kept.")
            if Path(path).suffix.lower() != ".safetensors":
                options, left_out = read_picture(path)
                said = f" Not known here, and left out: {', '.join(left_out)}." if left_out else ""
                return self._restored(options, f"The options of this picture are set; press {self.verb} to make it again.{said}")
            trajectory = session.of(request).open(self.studio, path)
            shown = film(trajectory, run=session.run, title=f"Run file {Path(path).name}", autoplay=True, tokens=self._tokens_of(trajectory.options))
            return {self.stage: to_stage(shown), **self._restored(trajectory.options, f"Opened a run of {len(trajectory.steps)} steps.")}

    def _tokens_of(self, options: SampleOptions) -> "Tokens | None":
        """Those of the prompt of an opened run, where its model is at hand and its attention was recorded."""
        return tokens_of(self.decoder, options, even_unloaded=False) if self.decoder else None

    def _restored(self, options: SampleOptions, sentence: str) -> dict[Any, Any]:
        values, of_model = restored(self.controls, options), self.of_model(options)
        if of_model is None:
            return {**values, self.status: f"{sentence} Its model, {options.model}, is none of these, so the chosen one stays."}
        return {**values, **of_model, self.status: sentence}

    def on_keep(self, kind: str) -> Callable[[str, Session], Iterator[dict[Any, Any]]]:
        """The handler that writes the run on the stage as a file of a kind: a key of KEEPERS."""
        label, write = KEEPERS[kind]

        def keep(stream: str, session: Session) -> Iterator[dict[Any, Any]]:
            with said_in_a_sentence(), passing_folder() as folder:
                whole = session.required(f"There is no run of yours to keep yet: press {self.verb} first.")
                if self.decoder and kind in FILMS:
                    decoding = self.decoder.decoded(whole, stream)
                    whole = yield from told(given(self.decoder.device, session.asker, Work(name="decode a run"), decoding), self.status)
                path = write(whole, stream, folder)
                # Gradio copies the file before it goes on.
                yield {self.kept: gr.update(value=str(path), visible=True), self.status: f"{label} is ready: {path.name}."}
        return keep

    def on_open_step(self, session: Session, asked: gr.EventData) -> Iterator[dict[Any, Any]]:
        """Decode the step that is looked at, in a turn of the device."""
        assert self.decoder is not None
        with said_in_a_sentence():
            step = event_value(asked, run=str, stream=str, index=int)
            work = partial(decoded_step, self.decoder, session, **step)
            shown = yield from alone(self.decoder.device, session.asker, "decode a step", work, self.status)
        yield {self.stage: gr.HTML(decoded=shown)}


def close(session: Session) -> None:
    """The visitor has gone: what runs for them ends."""
    session.stop()


def failure_line(error: Exception) -> str:
    """What the page says of a run that failed."""
    return str(error) if isinstance(error, StudioError) else "The run failed; the log of the studio says why."
