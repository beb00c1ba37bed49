"""Weights in brackets and long prompts: as AUTOMATIC1111 reads them, and as diffusers reads what has none."""

import numpy as np
import pytest
import torch

from studio import SampleOptions, Studio
from studio.models.weighting import chunked, parse_weights, plain_text
from studio.sampling.loop import sample


@pytest.mark.parametrize(("text", "parts"), [
    ("a star", [("a star", 1.0)]), ("a (red:1.2) star", [("a ", 1.0), ("red", 1.2), (" star", 1.0)]),
    ("(red)", [("red", 1.1)]), ("[red]", [("red", 1 / 1.1)]), ("((red))", [("red", 1.1**2)]), ("([red])", [("red", 1.0)]),
    ("(a (b:1.5))", [("a ", 1.1), ("b", 1.65)]), ("(a", [("a", 1.1)]), ("a)", [("a)", 1.0)]), (r"\(a\)", [("(a)", 1.0)]), (r"\\a", [("\\a", 1.0)]),
    ("(a:.5)", [("a", 0.5)]), ("(a:-1)", [("a", -1.0)]), ("3:4", [("3:4", 1.0)]), ("(3:4)", [("3", 4.0)]), ("a BREAK b", [("a", 1.0), (None, 1.0), ("b", 1.0)]),
    ("", []), ("()", []),
])
def test_brackets_are_read_as_they_are_written_in_the_field(text, parts):
    found = parse_weights(text)
    assert [part for part, _ in found] == [part for part, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_the_words_without_their_weights():
    assert plain_text(r"a (red:1.2) [star] \(x\) BREAK on") == "a red star (x) on"


@pytest.fixture(scope="module")
def model(tiny_sd):
    from studio.models import load_model

    return load_model(tiny_sd)


def test_a_prompt_without_brackets_that_fits_is_what_the_tokenizer_makes_of_it(model):
    for text in ("a red star", "", "the butterfly on a blue background"):
        assert chunked(model.prompts.tokenizer, text, 16)[0].ids == tuple(model.prompts.ids(text)[0].tolist())


def test_chunks_are_as_long_as_the_encoder_and_end_at_a_comma_where_one_is_near(model):
    words, limit = model.prompts.tokenizer, model.prompts.limit
    chunks = chunked(words, "red " * 20, limit)
    assert [len(chunk.pieces) for chunk in chunks] == [14, 6] and all(len(chunk.ids) == limit for chunk in chunks)
    assert [len(chunk.pieces) for chunk in chunked(words, "red " * 9 + ", " + "star " * 9, limit)] == [10, 9]
    assert [len(chunk.pieces) for chunk in chunked(words, "red BREAK star", limit, least=3)] == [1, 1, 0]
    assert [piece.word for piece in chunked(words, "a (red:1.2) butterfly", limit)[0].pieces] == [0, 1, 2, 2]


def test_a_long_prompt_is_told_chunk_by_chunk(model):
    first, second = "red " * 14, "blue star"
    whole = model.prompts.encode(first + second)
    assert whole.shape == (1, 32, 32)
    torch.testing.assert_close(whole, torch.cat([model.prompts.encode(first), model.prompts.encode(second)], dim=1))
    cond, uncond = model.condition(SampleOptions(model=model.name, prompt=first + second))
    assert cond.text.shape == uncond.text.shape == (1, 32, 32)


def test_a_weight_multiplies_the_tokens_states_and_the_mean_stays(model):
    plain, weighted = (model.prompts.encode(text)[0] for text in ("a red star", "a (red:1.5) star"))
    place = 2  # the mark of the start, "a", "red"
    scale = plain.mean() / torch.cat([plain[:place], 1.5 * plain[place : place + 1], plain[place + 1 :]]).mean()
    torch.testing.assert_close(weighted[place], 1.5 * scale * plain[place], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted[0], scale * plain[0], rtol=1e-4, atol=1e-5)
    assert weighted.mean() == pytest.approx(plain.mean().item(), abs=1e-6)


def test_weights_and_chunks_are_seen_among_the_tokens_and_change_the_picture(model, tiny_sd):
    tokens = Studio().tokens(tiny_sd, "a (red:1.5) star " + "blue " * 14)
    assert len(tokens.tokens) == 32 and tokens.cut_off == "" and tokens.words[:3] == ("a", "red", "star")
    assert [token.weight for token in tokens.tokens if token.word == 1] == [1.5] and tokens.tokens[16].word is None
    options = SampleOptions(model=tiny_sd, prompt="a red star", num_steps=2, seed=3, guidance_scale=3.0)

    def drawn(prompt, **changes):
        *_, finished = sample(model, SampleOptions(**{**options.to_dict(), "prompt": prompt, **changes}))
        return np.asarray(finished.images[0]).astype(int), finished.trajectory

    assert np.abs(drawn("a (red:1.0) star")[0] - drawn("a red star")[0]).max() <= 1
    assert np.abs(drawn("a (red:3) star")[0] - drawn("a red star")[0]).max() > 1
    _, run = drawn("a red star " + "blue " * 14, record_attention=True)
    assert run.stream("attention").shape[2] == 32
