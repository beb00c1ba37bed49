"""What is put into a model, as the page writes and reads it: lines of files and weights, words of LoRAs, weights of tokens."""

import json

import pytest

from studio.additions import Lora, called
from studio.conditions import NOTHING_ADDED, Added
from studio.errors import InvalidOption
from studio.models.prompts import Token, Tokens
from studio.models.shelf import ShelfFile
from tabs.parts.controls import options_from, read, written
from tabs.parts.shelf import menu, with_line, words_line
from tabs.parts.stage import menu_of
from tabs.parts.words import tokens_shown, words_of
from tabs.text_to_image import named_model, resident_line
from tests.tabs.fake_text import FakeTextStudio

FILES = {
    "lora": [ShelfFile(path="/f/style.safetensors", kind="lora", words=("sks", "red <i>")), ShelfFile(path="/f/plain.safetensors", kind="lora")],
    "embedding": [ShelfFile(path="/f/odd.safetensors", kind="embedding", words=("odd",))], "vae": [],
    "model": [ShelfFile(path="/f/v1-5.safetensors", kind="model")],
}


@pytest.fixture
def studio():
    fake = FakeTextStudio()
    fake.shelf = FILES.__getitem__
    return fake


@pytest.mark.parametrize(("said", "loras"), [
    ("style 0.8", (Lora(file="style", weight=0.8),)), ("style", (Lora(file="style"),)), ("my style.safetensors -1\n\n  other ", (
        Lora(file="my style.safetensors", weight=-1.0), Lora(file="other"),
    )), ("my style", (Lora(file="my style"),)), ("", ()), (None, ()), ("2", (Lora(file="2"),)),
])
def test_loras_are_written_one_a_line(said, loras):
    assert read("added.loras", said) == loras
    assert read("added.loras", written("added.loras", loras)) == loras


def test_what_the_controls_say_is_one_group_of_options():
    values = {"model": "toybox-sd", "prompt": "a", "added.loras": "style 0.5", "added.embeddings": "odd\nother ", "added.vae": " own "}
    assert options_from(values).added == Added(loras=(Lora(file="style", weight=0.5),), embeddings=("odd", "other"), vae="own")
    assert options_from({**values, "added.loras": "", "added.embeddings": "", "added.vae": ""}).added == NOTHING_ADDED
    with pytest.raises(InvalidOption, match="weight"):
        read("added.loras", "style 9")


def test_the_menu_lists_the_files_and_the_line_their_words(studio):
    assert menu(studio) == [
        ("LoRA: style", "lora:/f/style.safetensors"), ("LoRA: plain", "lora:/f/plain.safetensors"), ("Embedding: odd", "embedding:/f/odd.safetensors"),
    ]
    assert with_line("a 1\n", "b") == "a 1\nb" and with_line("", "b") == "b" and with_line("b", "b") == "b"
    said = words_line(studio, "style 0.5\n/f/plain.safetensors", "odd", "")
    assert "style: sks, red &lt;i&gt;" in said and "plain: it names no words of its own" in said and "odd: odd" in said
    assert words_line(studio, "", "", "") == "" and "weight" in words_line(studio, "style 9", "", "")


def test_a_long_prompt_is_shown_chunk_by_chunk_with_the_weights_of_its_tokens():
    def mark(text):
        return Token(id=0, text=text, word=None)

    tokens = (mark("s"), Token(id=1, text="a", word=0, weight=1.3), Token(id=2, text="b", word=1), mark("e"),
              mark("s"), Token(id=3, text="c", word=2), mark("e"), mark("e"))
    shown = tokens_shown(Tokens(tokens=tokens, words=("a", "b", "c"), cut_off="", limit=4))["tokens"]
    assert [token["kind"] for token in shown] == ["start", "piece", "piece", "end", "start", "piece", "end", "padding"]
    assert [token.get("weight") for token in shown] == [None, 1.3, *[None] * 6]


def test_words_are_those_of_the_model_with_its_embeddings_where_that_is_in_memory(studio):
    asked = []
    studio.readings = lambda model, prompt, texts, added: asked.append(added) or FakeTextStudio.readings(studio, model, prompt)
    studio.loaded.append("words")
    added = Added(embeddings=("odd",))
    assert json.loads(words_of(studio, "words", "a", added=added))["tokens"] and asked == [NOTHING_ADDED]
    studio.residents = lambda: [type("R", (), {"name": "words", "added": "odd"})]
    words_of(studio, "words", "a", added=added)
    assert asked[-1] == added


def test_checkpoints_in_one_file_stand_in_the_menu_of_models(studio):
    assert menu_of(studio, text=True)[-1] == ("v1-5 (file)", "/f/v1-5.safetensors") and "(file)" not in str(menu_of(studio, text=False))


def test_files_whose_names_say_nothing_are_called_by_the_folder_above():
    assert called("/runs/my-cat/model/pytorch_lora_weights.safetensors") == "my-cat" and called("/f/style.safetensors") == "style" == called("style")
    assert called("/f/sd/vae/diffusion_pytorch_model.safetensors") == "sd" and called("model.safetensors") == "model"


def test_a_model_is_found_by_the_name_of_its_file_alone(studio):
    assert named_model(studio, "v1-5") == "/f/v1-5.safetensors" and named_model(studio, "words") == "words"
    assert named_model(studio, "unheard-of") is None and named_model(studio, "some/hub-id") == "some/hub-id"


def test_the_line_of_what_is_in_memory_says_what_was_put_in_and_how_it_is_held(studio):
    from studio.models.memory import Resident

    studio.residents = lambda: [Resident(name="a/sd", memory_gib=1.5, last_used=0.0, added="style 0.8", about="lent part by part, VAE in tiles")]
    assert "sd with style 0.8 1.50 GiB (lent part by part, VAE in tiles)" in resident_line(studio)
