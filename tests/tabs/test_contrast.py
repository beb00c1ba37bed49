"""The tab "One step or many?" without a browser: what it shows, and how it starts and stops."""

import base64
import dataclasses
import json
import math
from io import BytesIO
from threading import Event

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption
from studio.runs.trainers.contrast import ContrastFinished, ContrastOptions, ContrastSamples, ContrastStep, Figures
from tabs.contrast import MAX_POINTS, TrainingSoFar, create_tab, explanation, picture, record, shown, thinned
from tabs.parts.openings import read_opening, recorded
from tabs.parts.session import Session
from tests.tabs.fakes import FakeStudio


class FakeTraining:
    """Learns in no time: ten updates, pictures after the fourth, and remembers whether it was closed."""

    def __init__(self, num_steps=10):
        self.num_steps, self.asked, self.made, self.closed = num_steps, [], 0, False

    def train(self, options, stop):
        self.asked.append(options)
        try:
            for index in range(self.num_steps):
                if stop.is_set():
                    break
                self.made = index + 1
                yield step(index, self.num_steps)
                if index == 3:
                    yield samples(4)
            if not stop.is_set():
                yield finished(self.num_steps)
            elif self.made:
                yield samples(self.made)
        finally:
            self.closed = True


def step(index, num_steps=10, loss=None):
    loss = 1 / (index + 1) if loss is None else loss
    return ContrastStep(index=index, num_steps=num_steps, loss_one_step=loss, loss_ddpm=2 * loss, samples_per_s=640.0, seconds_left=float(num_steps - index))


def samples(step):
    return ContrastSamples(step=step, one_step=torch.zeros(16, 1, 16, 16), ddpm=torch.ones(16, 1, 16, 16))


def finished(num_steps=10):
    pictures = torch.zeros(16, 1, 16, 16)
    figures = {name: Figures(variety=v, sharpness=0.2, distance=0.3) for name, v in (("one_step", 0.01), ("ddpm", 0.38), ("repeated", 0.39), ("real", 0.41))}
    return ContrastFinished(step=num_steps, seconds=90.0, one_step=pictures, ddpm=pictures, repeated=pictures, real=pictures, figures=figures)


def stages(training, options=None, switch=None):
    """Every payload of the stage, and the explanation if there is one."""
    changes = list(shown(training.train, options or ContrastOptions(), switch or Event()))
    return [json.loads(change["stage"]) for change in changes if "stage" in change], changes[-1].get("why")


def wired():
    """The tab's functions by name."""
    training = FakeTraining()
    with gr.Blocks() as demo:
        create_tab(FakeStudio(), lambda options, stop: training.train(options, stop))
    return demo, training, {fn.fn.__name__: fn for fn in demo.fns.values() if fn.fn is not None}


def test_the_first_thing_shown_is_what_happens_now():
    payloads, _ = stages(FakeTraining())
    assert payloads[0]["title"] == "Preparing the digits and both networks." and payloads[0]["share"] == 0


def test_a_whole_training_ends_with_four_grids_a_table_and_an_explanation():
    payloads, why = stages(FakeTraining())
    last = payloads[-1]
    assert last["state"] == "done" and last["share"] == 1 and last["title"] == "Done: 10 updates of each network in 90 s of training."
    assert [drawing["step"] for drawing in last["drawings"]] == [4, 10]
    assert list(last["drawings"][-1]["pictures"]) == ["one_step", "ddpm", "repeated", "real"]
    assert last["table"][0] == {"name": "One step, asked once", "variety": 0.01, "sharpness": 0.2, "distance": 0.3}
    assert why["visible"] and r"\mathbb{E}[x_0 \mid x_T]" in why["value"] and "0.010" in why["value"]


def test_pictures_on_the_way_are_shown_at_once_with_their_update():
    payloads, _ = stages(FakeTraining())
    drawn = next(payload for payload in payloads if payload["drawings"])["drawings"]
    assert [drawing["step"] for drawing in drawn] == [4] and set(drawn[0]["pictures"]) == {"one_step", "ddpm"}


def test_losses_come_as_running_means_that_start_at_the_first_loss():
    progress = TrainingSoFar(times=50)
    for index, loss in enumerate([1.0, 0.0, 0.5]):
        progress.take(step(index, loss=loss))
    assert progress.losses["one_step"] == pytest.approx([1.0, 0.5, 0.5])  # means of 1, 2 and 3 losses
    assert progress.losses["ddpm"] == pytest.approx([2.0, 1.0, 1.0])


def test_the_title_says_update_time_and_speed():
    progress = TrainingSoFar(times=50)
    progress.take(step(2))
    assert progress.title == "Update 3 of about 10, 8 s left, 640 digits/s"


def test_stop_ends_the_training_within_a_step_and_says_what_it_kept(monkeypatch):
    monkeypatch.setattr("tabs.contrast.UPDATE_EVERY_S", 0.0)
    training, switch = FakeTraining(num_steps=1000), Event()
    changes = shown(training.train, ContrastOptions(), switch)
    while training.made < 7:
        next(changes)
    made = training.made
    switch.set()
    last = json.loads(list(changes)[-1]["stage"])
    assert training.closed and training.made == made
    assert last["state"] == "stopped" and last["title"] == f"Stopped after update {made} of about 1000; the curves and its pictures stay."
    assert [drawing["step"] for drawing in last["drawings"]] == [4, made] and len(last["losses"]["step"]) > 0


def test_stop_while_waiting_in_the_queue_trains_nothing_to_keep():
    switch = Event()
    switch.set()
    payloads, _ = stages(FakeTraining(), switch=switch)
    assert payloads[-1]["title"] == "Stopped before the first update."


def test_leaving_the_page_closes_the_training():
    training = FakeTraining()
    changes = shown(training.train, ContrastOptions(), Event())
    next(changes), next(changes)
    changes.close()
    assert training.closed


def test_long_curves_are_thinned_and_keep_their_end():
    losses = {"step": list(range(1, 5001)), "one_step": [0.5] * 4999 + [math.nan], "ddpm": [0.1] * 5000}
    short = thinned(losses)
    assert len(short["step"]) <= MAX_POINTS + 1 and short["step"][0] == 1 and short["step"][-1] == 5000
    assert len(short["one_step"]) == len(short["step"]) and short["one_step"][-1] is None


def test_pictures_travel_as_one_png_with_clear_gaps():
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 16, 16)
    kind, data = picture(x).split(",", 1)
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(data))))
    assert kind == "data:image/png;base64" and pixels.shape == (2 * 17 - 1, 3 * 17 - 1, 2)
    assert (pixels[:16, 17:33, 0] == 64).all() and (pixels[:16, :16, 1] == 255).all()
    assert (pixels[16, :, 1] == 0).all() and (pixels[:, 16, 1] == 0).all()


def test_a_recording_is_the_whole_training_and_says_that_it_is_one():
    recording = record(FakeTraining().train, ContrastOptions(seed=3))
    shown = json.loads(recording.places["stage"])
    assert shown["state"] == "recorded" and shown["title"].startswith("A recorded training: 10 updates")
    assert [drawing["step"] for drawing in shown["drawings"]] == [4, 10] and len(shown["table"]) == 4
    assert recording.places["why"] == explanation(finished(), 50) and recording.made_with == {"seed": 3}


def test_the_tab_opens_with_a_training_recorded_by_the_real_networks():
    demo, training, _ = wired()
    stage, why = (next(block for block in demo.blocks.values() if block.elem_id == name) for name in ("contrast-stage", "contrast-why"))
    assert stage.value == recorded("contrast", "stage") and not training.asked
    shown = read_opening("contrast")["places"]["stage"]
    assert shown["state"] == "recorded" and shown["losses"]["step"][-1] == shown["drawings"][-1]["step"]
    assert len(shown["drawings"]) >= 5 and set(shown["drawings"][-1]["pictures"]) == {"one_step", "ddpm", "repeated", "real"}
    figures = {row["name"]: row for row in shown["table"]}
    # What the tab is about: asked once it draws one blur, asked often nearly as much variety as there is.
    assert figures["One step, asked once"]["variety"] < 0.1 < 0.3 < figures["DDPM"]["variety"]
    assert why.visible and "whatever the noise" in why.value


def test_the_explanation_compares_with_real_digits():
    text = explanation(finished(), 25)
    assert "25 answers" in text and "100% of the sharpness" in text and "0.390" in text


def test_too_short_a_training_is_not_explained_away():
    event = finished(num_steps=3)
    short = dataclasses.replace(event, figures={**event.figures, "one_step": Figures(variety=0.3, sharpness=0.2, distance=0.3)})
    text = explanation(short, 50)
    assert "After 3 updates" in text and "more seconds" in text and "whatever the noise" not in text


def pressed(functions, session, **values):
    """What the status says at the press."""
    ask = functions["on_ask"]
    named = {"seconds": 7, "sample_steps": 25, "width": 16, "batch_size": 32, "seed": 0, **values}
    given = {block: session if isinstance(block, gr.State) else named[block.elem_id.removeprefix("contrast-").replace("-", "_")] for block in ask.inputs}
    return list(ask.fn(given, None).values())[-1]


def test_the_controls_become_the_options():
    _, training, functions = wired()
    session = Session()
    assert pressed(functions, session, width=24, seed=3) == "Waiting for the device."
    list(functions["on_run"].fn(session))
    assert training.asked == [ContrastOptions(seconds=7, sample_steps=25, width=24, batch_size=32, seed=3)]


@pytest.mark.parametrize("seed", [-1, None, 2.5])
def test_nonsense_is_one_sentence_at_once_and_touches_nothing(seed):
    _, training, functions = wired()
    session = Session()
    assert "seed must be a whole number" in pressed(functions, session, seed=seed)
    list(functions["on_run"].fn(session))
    assert not training.asked


def test_only_what_the_training_refuses_is_shown_to_the_user():
    _, training, functions = wired()

    def refuses(options, stop):
        raise InvalidOption("Too much.")
        yield

    def breaks(options, stop):
        raise ZeroDivisionError
        yield

    for train, error, sentence in ((refuses, gr.Error, "Too much."), (breaks, ZeroDivisionError, "^$")):
        training.train, session = train, Session()
        pressed(functions, session)
        with pytest.raises(error, match=sentence):
            list(functions["on_run"].fn(session))


def test_leaving_the_page_frees_what_the_training_holds():
    _, training, functions = wired()
    session = Session()
    pressed(functions, session)
    changes = functions["on_run"].fn(session)
    for _ in range(3):
        next(changes)
    changes.close()
    assert training.closed and session.running == []


def test_who_wants_to_train_while_another_does_is_told_to_wait():
    studio, training = FakeStudio(), FakeTraining()
    with gr.Blocks() as demo:
        create_tab(studio, training.train)
    functions = {fn.fn.__name__: fn for fn in demo.fns.values() if fn.fn is not None}
    session = Session()
    pressed(functions, session)
    changes = functions["on_run"].fn(session)
    with studio.device.ask("somebody else"):
        next(changes)
        assert "you are next" in str(list(next(changes).values())) and training.made == 0
    list(changes)
    assert training.made == 10 and training.closed and len(studio.device) == 0


def test_every_handler_is_private_and_training_shares_the_device_queue():
    _, _, functions = wired()
    assert all(fn.api_visibility == "private" for fn in functions.values())
    assert functions["on_run"].concurrency_id == "gpu"
    assert not functions["on_stop"].queue and not functions["on_ask"].queue
