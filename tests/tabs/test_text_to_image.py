"""The Text to image tab without a browser: what it reads of words, what its film holds, then its handlers over the wire."""

import base64
import json
from io import BytesIO
from threading import Event

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio import Studio
from studio.conditions import TextsTold
from studio.errors import InvalidOption
from studio.media.images import to_pixels
from studio.models.downloads import LoadProgress
from studio.models.prompts import Reading, Token, Tokens
from studio.options import SampleOptions
from studio.sampling.export import frames, save_gif, save_mp4
from tabs.anatomy import patches_shown
from tabs.parts.controls import options_from
from tabs.parts.filmstrip import film
from tabs.parts.running import decoded_step
from tabs.parts.session import Session
from tabs.parts.words import unknown_line, words_of
from tabs.text_to_image import create_tab, download_line, generated, model_line, record, resident_line, words_as_told
from tests.tabs.fake_text import FACTOR, LIMIT, SIDE, FakeTextStudio

PROMPT = "a purple butterfly on a yellow background"


def run_of(**options):
    *steps, finished = FakeTextStudio().sample(SampleOptions(**{"model": "words", "prompt": PROMPT, "num_steps": 5, "guidance_scale": 4.0, **options}))
    return steps, finished.trajectory


def film_in(changes) -> dict:
    """The film among the changes of a page."""
    return next(shown for change in changes if "stage" in change and (shown := json.loads(change["stage"]))["kind"] == "film")


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


# --- words ---------------------------------------------------------------------------------------------------

def test_tokens_are_told_with_what_they_are_and_what_was_cut():
    told = json.loads(words_of(FakeTextStudio(), "words", PROMPT + " and nothing else whatever"))
    kinds = [token["kind"] for token in told["tokens"]]
    assert len(kinds) == told["limit"] == LIMIT and kinds[0] == "start" and kinds.count("end") == 1 and kinds.count("piece") == LIMIT - 2
    butterfly = [token["text"] for token in told["tokens"] if token["word"] == 2]
    assert butterfly == ["butter", "fly"] and told["cut_off"].split()[-1] == "er"


def test_the_rest_of_a_short_prompt_is_padding():
    kinds = [token["kind"] for token in json.loads(words_of(FakeTextStudio(), "words", "a cat"))["tokens"]]
    assert kinds == ["start", "piece", "piece", "end", *["padding"] * (LIMIT - 4)]


def test_embedding_levels_are_the_numbers_again():
    told = json.loads(words_of(FakeTextStudio(), "words", PROMPT))["embedding"]
    levels = np.frombuffer(base64.b64decode(told["levels"]), np.uint8).reshape(told["rows"], told["columns"])
    states = FakeTextStudio().readings("words", PROMPT)[0].states
    inside = np.abs(states) < told["reach"]
    assert np.allclose(((levels / 127.5 - 1) * told["reach"])[inside], states[inside], atol=told["reach"] / 200)


def test_of_several_encoders_each_is_shown_with_its_pooled_vector_or_why_it_reads_nothing(monkeypatch):
    studio = FakeTextStudio()
    [first] = studio.readings("words", "a cat")
    end = Tokens(tokens=(Token(id=1, text="</s>", word=None),), words=(), cut_off="", limit=9, begins=False)
    others = (
        Reading(encoder="G", tokens=first.tokens, states=first.states, pooled=np.array([3.0, -4.0, 0.0], np.float32)),
        Reading(encoder="T5", tokens=end, states=first.states[:1]), Reading(encoder="T6", note="switched off"),
    )
    monkeypatch.setattr(studio, "readings", lambda *asked: (first, *others))
    told = json.loads(words_of(studio, "words", "a cat"))
    assert [one["encoder"] for one in told["encoders"]] == ["Text encoder", "G", "T5", "T6"] and told["prompt"] == "a cat" and "tokens" not in told
    plain, pooled, t5, off = told["encoders"]
    assert "pooled" not in plain and pooled["pooled"]["norm"] == 5 and (pooled["pooled"]["rows"], pooled["pooled"]["columns"]) == (1, 3)
    levels = np.frombuffer(base64.b64decode(pooled["pooled"]["levels"]), np.uint8)
    assert np.allclose((levels / 127.5 - 1) * pooled["pooled"]["reach"], [3, -4, 0], atol=pooled["pooled"]["reach"] / 200)
    assert [token["kind"] for token in t5["tokens"]] == ["end"] and off == {"encoder": "T6", "note": "switched off"}


def test_words_are_read_as_the_controls_of_the_encoders_say(monkeypatch):
    studio, asked = FakeTextStudio(), []
    monkeypatch.setattr(studio, "takes", lambda name: ("texts.prompt_2", "texts.clip_skip"))
    monkeypatch.setattr(studio, "readings", lambda model, prompt, texts, added: asked.append(texts) or FakeTextStudio.readings(studio, model, prompt))
    words_as_told(studio, "words", "a cat", {"texts.prompt_2": "a dog ", "texts.clip_skip": 0, "texts.encoders": []})
    assert asked == [TextsTold(prompt_2="a dog")]
    assert "clip_skip must be" in json.loads(words_as_told(studio, "words", "a cat", {"texts.clip_skip": 99}))["note"]
    monkeypatch.setattr(studio, "takes", lambda name: ())
    words_as_told(studio, "words", "a cat", {"texts.prompt_2": "a dog"})
    assert asked[-1] == TextsTold()


def test_typing_never_starts_a_download():
    studio = FakeTextStudio()
    assert "press Generate" in json.loads(words_of(studio, "far/away", "a"))["note"]
    assert "press Generate" in json.loads(words_of(studio, "/some/folder", "a"))["note"]
    studio.loaded.append("far/away")
    assert json.loads(words_of(studio, "far/away", "a"))["tokens"]


@pytest.mark.parametrize(("prompt", "line"), [
    (PROMPT, ""), ("", ""), ("an astronaut", "“astronaut” is not a word of this model's world."),
    ("a cat riding a horse", "“riding” and “horse” are not words of this model's world."),
    ("one two three four five", "“one”, “two”, “three” and 2 more are not words of this model's world."),
])
def test_words_that_the_world_of_an_embedded_model_does_not_hold_are_named(prompt, line):
    assert unknown_line("toybox-sd", prompt) == line


@pytest.mark.parametrize("model", ["stable-diffusion-v1-5/stable-diffusion-v1-5", "runs/domino/model", "digits-ddpm", "", None])
def test_no_other_model_is_said_to_lack_words(model):
    assert unknown_line(model, "an astronaut") == ""


# --- the film of a latent run --------------------------------------------------------------------------------

def test_a_latent_film_shows_previews_and_the_decoded_end():
    _, trajectory = run_of(num_images=2)
    shown = film(trajectory, run="a")
    assert shown["tile"] == [SIDE, SIDE] and set(shown["decodes"]) == {"x_t", "x0_hat", "x0_uncond", "x0_cond"}
    assert {stream["name"] for stream in shown["streams"]} == {"x_t", "x0_hat", "eps_hat", "x0_uncond", "x0_cond"}
    [end] = shown["decoded"]
    sheet = pixels_of(end["src"])
    assert (end["stream"], end["index"], end["tile"]) == ("x0_hat", 4, [SIDE * FACTOR] * 2)
    assert np.array_equal(sheet[: SIDE * FACTOR, : SIDE * FACTOR], trajectory.final_pixels[0].numpy())


def test_without_guidance_there_is_no_view_of_it():
    shown = film(run_of(guidance_scale=1.0)[1], run="a")
    assert {stream["name"] for stream in shown["streams"]} == {"x_t", "x0_hat", "eps_hat"}


def test_the_norm_of_clips_gradient_is_told_step_by_step():
    shown = film(run_of(clip_guidance_scale=50.0, num_images=2)[1], run="a")
    assert [step["clip_gradient_norm"] for step in shown["steps"]] == [[float(f"{1 / (1 + i):.6g}")] * 2 for i in range(5)]
    assert "clip_gradient" in {stream["name"] for stream in shown["streams"]}


def test_attention_travels_by_piece_with_its_scale():
    _, trajectory = run_of(record_attention=True, num_images=2)
    told = film(trajectory, run="a", tokens=FakeTextStudio().tokens("words", PROMPT))["attention"]
    words = [piece["word"] for piece in told["pieces"]]
    assert [piece["text"] for piece in told["pieces"]][2:4] == ["butter", "fly"] and words == sorted(words)
    sheet, (width, height) = pixels_of(told["src"]), told["tile"]
    frame, image, piece = 3, 1, 2
    index = (frame * 2 + image) * len(words) + piece
    y, x = index // told["columns"] * height, index % told["columns"] * width
    shares = sheet[y : y + height, x : x + width] / 255 * told["scale"][piece]
    assert np.allclose(shares, trajectory.stream("attention")[frame, image, piece + 1].float(), atol=0.003)


def test_a_latent_film_is_exported_at_the_size_of_its_pictures():
    _, trajectory = run_of()
    shown = frames(trajectory, "x0_hat", scale=1)
    assert shown.shape[1:3] == (SIDE * FACTOR, SIDE * FACTOR) and np.array_equal(shown[-1], trajectory.final_pixels[0].numpy())
    preview = to_pixels(trajectory.pictures("x0_hat", 2))[0]
    assert np.array_equal(shown[2], preview.repeat(FACTOR, 0).repeat(FACTOR, 1))


@pytest.mark.parametrize(("stream", "count"), [("x0_hat", 5), ("x_t", 5), ("both", 10)])
def test_a_film_is_made_of_what_the_decoder_makes_of_every_step(stream, count):
    studio, (_, trajectory) = FakeTextStudio(), run_of()
    decoding, told = studio.decoded(trajectory, stream), []
    while True:
        try:
            told.append(next(decoding))
        except StopIteration as end:
            whole = end.value
            break
    assert told == [(done, count) for done in range(count)] and len(studio.decodes) == count
    side = "x0_hat" if stream == "both" else stream
    shown = frames(whole, side, scale=1)
    expected = studio.decode(trajectory, side, 2)[0]
    assert np.array_equal(shown[2], np.asarray(expected)) and np.array_equal(shown[-1], trajectory.final_pixels[0].numpy())


def test_noise_and_pixel_runs_are_filmed_as_they_are():
    studio, (_, trajectory) = FakeTextStudio(), run_of()
    with pytest.raises(StopIteration) as end:
        next(studio.decoded(trajectory, "eps_hat"))
    assert end.value.value is trajectory and not studio.decodes


# --- options, memory, download -------------------------------------------------------------------------------

def test_a_tab_without_a_model_says_what_to_do():
    with pytest.raises(InvalidOption, match="Choose a model"):
        options_from({"model": None, "init_image": None, "strength": 0.5, "width": None, "height": None})
    studio = FakeTextStudio()
    del studio.models["words"]
    with gr.Blocks():
        create_tab(studio)


def test_empty_sizes_are_the_models_own():
    options = options_from({"model": " words ", "init_image": None, "strength": 0.4, "width": 0, "height": None})
    assert (options.model, options.width, options.height, options.strength) == ("words", None, None, 1.0)


def test_what_is_in_memory_is_said_with_its_cost():
    studio = FakeTextStudio()
    assert "No model" in resident_line(studio)
    studio.loaded.append("words")
    assert resident_line(studio) == "In memory: words 0.25 GiB; room for 8.0 GiB."
    assert "2.0 GiB to fetch" in model_line(studio, "far/away") and "<b>" not in model_line(studio, "<b>")


def test_a_download_is_told_in_megabytes_and_time_left():
    assert download_line(LoadProgress(name="a/b", done_bytes=0, total_bytes=0), 1) == "Fetching a/b."
    assert download_line(LoadProgress(name="a/b", done_bytes=10_000_000, total_bytes=40_000_000), 5) == "Fetching a/b: 10 of 40 MB, about 15 s left."


def test_a_run_tells_its_download_then_itself_then_its_words():
    studio = FakeTextStudio()
    studio.fetches = [LoadProgress(name="far/away", done_bytes=5_000_000, total_bytes=10_000_000)]
    changes = list(generated(studio, SampleOptions(model="far/away", prompt=PROMPT, num_steps=3, record_attention=True), Event(), Session()))
    said = [change["status"] for change in changes if "status" in change]
    assert said[0].startswith("Loading") and said[1].startswith("Fetching far/away: 5 of 10 MB") and said[-1].startswith("Done: 3 steps")
    shown = film_in(changes)
    assert shown["attention"] and "away" in changes[-1]["resident"] and json.loads(changes[-1]["words"])["prompt"] == PROMPT


def test_a_step_is_decoded_for_the_run_that_is_held():
    studio, session = FakeTextStudio(), Session()
    session.keep(run_of()[1], "mine")
    answer = json.loads(decoded_step(studio, session, run="mine", stream="x0_cond", index=2))
    assert answer["tile"] == [SIDE * FACTOR] * 2 and studio.decodes == [("x0_cond", 2)]
    assert "press Generate" in json.loads(decoded_step(studio, session, run="other", stream="x0_hat", index=2))["error"]
    session.kept.close(session.visitor)
    assert "no longer held" in json.loads(decoded_step(studio, session, run="mine", stream="x0_hat", index=2))["error"]


def test_a_public_studio_takes_no_model_but_its_own():
    studio = FakeTextStudio()
    for public in (False, True):
        studio.public = public
        with gr.Blocks() as demo:
            create_tab(studio)
        [model] = [block for block in demo.blocks.values() if getattr(block, "elem_id", "") == "t2i-model"]
        assert model.allow_custom_value is not public


def test_a_recorded_run_opens_without_a_model():
    recorded = record(FakeTextStudio(), SampleOptions(model="words", prompt=PROMPT, num_steps=4, guidance_scale=4.0, record_attention=True)).places
    shown = json.loads(recorded["stage"])
    assert shown["run"] == "opening" and shown["autoplay"] and shown["attention"] and shown["decodes"] == [] and shown["decoded"]
    assert json.loads(recorded["words"])["prompt"] == PROMPT


def test_the_real_studio_goes_through_the_same_door(tiny_sd, tmp_path):
    studio, session = Studio(), Session()
    options = SampleOptions(model=tiny_sd, prompt="a red star", num_steps=3, guidance_scale=3.0, record_attention=True)
    changes = list(generated(studio, options, Event(), session))
    shown = film_in(changes)
    assert shown["attention"]["pieces"][0]["text"] == "a" and shown["tile"] == [8, 8] and shown["decoded"][0]["tile"] == [32, 32]
    assert "tiny" in changes[-1]["resident"] and json.loads(changes[-1]["words"])["limit"] == 16
    assert json.loads(decoded_step(studio, session, run=session.run, stream="x0_uncond", index=1))["tile"] == [32, 32]
    for write in (save_gif, save_mp4):
        assert write(session.trajectory, "both", tmp_path / f"film.{write.__name__[5:]}").stat().st_size > 1000


# --- over the wire -------------------------------------------------------------------------------------------

def test_sample_takes_a_prompt_by_name():
    from gradio_client import Client

    from tabs.endpoints import create_sample_endpoint
    from tabs.parts.blocks import StudioBlocks

    studio = FakeTextStudio()
    with StudioBlocks() as demo:
        create_tab(studio)
        create_sample_endpoint(studio)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(url, verbose=False)
        assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/sample"]
        stage = client.predict(model="words", prompt="a red star", guidance_scale=4.0, num_steps=3, num_images=1, api_name="/sample")[0]
    finally:
        demo.close()
    assert json.loads(stage)["kind"] == "film"
    assert studio.asked[-1] == SampleOptions(model="words", prompt="a red star", guidance_scale=4.0, num_steps=3)


# --- anatomy -------------------------------------------------------------------------------------------------

def test_patches_are_shown_on_the_picture_with_how_alike_their_places_are():
    studio = FakeTextStudio()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))
    assert patches_shown(studio.patches("words"), picture) == {}
    told = patches_shown(studio.patches("far/away"), picture)["patches"]
    assert (told["grid"], told["pixels"], told["width"]) == ([2, 4], 16, 3) and pixels_of(told["picture"]).shape == (32, 64, 3)
    alike = np.frombuffer(base64.b64decode(told["alike"]["levels"]), np.uint8).reshape(2, 4, 2, 4)
    # Places are (row - 1/2, column - 3/2): of the first and the last of a row (1/4 - 9/4) / (1/4 + 9/4) < 0.
    assert alike[0, 0, 0, 0] == 255 and alike[0, 0, 0, 3] == 0 and alike[0, 0, 1, 0] == round(255 * (9 / 4 - 1 / 4) / (9 / 4 + 1 / 4))
    levels = np.frombuffer(base64.b64decode(told["dimensions"]["levels"]), np.uint8).reshape(-1, 2, 4)
    assert told["dimensions"]["indices"] == [0, 1, 2] and told["dimensions"]["reach"] == 1.5
    assert levels[1].tolist() == [[0, 85, 170, 255]] * 2 and set(levels[2].ravel().tolist()) == {128}
