"""The parts of a model as a forward pass meets them, and the VAE's round trip."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from studio import Studio
from studio.errors import InvalidOption
from studio.media.images import from_images


@pytest.fixture(scope="module")
def studio():
    return Studio()


def test_every_part_has_its_parameters_and_the_shapes_that_passed(studio, tiny_sd):
    parts = {part.name: part for part in studio.anatomy(tiny_sd, "a red star")}
    model = studio.model(tiny_sd)
    assert [name for name, part in parts.items() if part.depth == 0] == ["text_encoder", "unet", "vae.encoder", "vae.decoder"]
    assert parts["unet"].parameters == sum(p.numel() for p in model.network.parameters())
    assert parts["unet"].memory_mib == pytest.approx(parts["unet"].parameters * 4 / 2**20)
    assert parts["text_encoder"].shape_in == (1, 16) and parts["text_encoder"].shape_out == (1, 16, 32)
    assert parts["unet"].shape_in == parts["unet"].shape_out == (1, 4, 8, 8)
    assert parts["unet.down_blocks.0"].shape_in == (1, 32, 8, 8) and parts["unet.down_blocks.0"].shape_out == (1, 32, 4, 4)
    assert parts["unet.mid_block"].shape_in == (1, 64, 4, 4)
    assert parts["vae.encoder"].shape_in == (1, 3, 32, 32) and parts["vae.encoder"].shape_out == (1, 8, 8, 8)
    assert parts["vae.decoder"].shape_in == (1, 4, 8, 8) and parts["vae.decoder"].shape_out == (1, 3, 32, 32)
    blocks = sum(part.parameters for name, part in parts.items() if name.startswith("unet."))
    assert 0.95 * parts["unet"].parameters < blocks <= parts["unet"].parameters
    assert not any(module._forward_hooks for module in model.network.modules())


def test_pixel_models_have_a_unet_only(studio, tiny_model):
    parts = studio.anatomy(tiny_model)
    assert parts[0].name == "unet" and parts[0].shape_in == parts[0].shape_out == (1, 1, 8, 8) and all(p.name.startswith("unet") for p in parts)


def test_the_patches_of_a_transformer_are_those_that_its_tokens_are_made_of(studio, tiny_sd, tmp_path):
    from tests.tiny_families import save_tiny_dit, save_tiny_sd3

    for save, own in ((save_tiny_dit, lambda embed: embed.pos_embed[0]), (save_tiny_sd3, lambda embed: embed.cropped_pos_embed(8, 8)[0])):
        folder = save(tmp_path / save.__name__)
        patches, model = studio.patches(folder), studio.model(folder)
        embed, x = model.network.pos_embed, torch.randn(1, model.vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        assert patches.grid == (4, 4) and (patches.pixels, patches.side, patches.channels) == (8, 2, x.shape[1])
        places = patches.positions.flatten(1).T
        torch.testing.assert_close(places, own(embed), atol=1e-5, rtol=0)
        # A token is what the patch gives, and its place.
        patch = x[0, :, 2:4, 4:6]
        token = (embed.proj.weight * patch).sum((1, 2, 3)) + embed.proj.bias + places[1 * 4 + 2]
        torch.testing.assert_close(embed(x)[0, 6], token, atol=1e-5, rtol=1e-5)
        alike = patches.alike().float().reshape(16, 16) / 255
        wanted = torch.nn.functional.cosine_similarity(places[:, None], places[None], dim=-1).clamp(min=0)
        torch.testing.assert_close(alike, wanted, atol=0.5 / 255 + 1e-4, rtol=0)
        assert alike[5, 6] > alike[5, 7]
    assert studio.patches(tiny_sd) is None


def test_the_round_trip_is_the_vaes_own(studio, tiny_sd):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8))
    trip = studio.vae_round_trip(tiny_sd, picture)
    model = studio.model(tiny_sd)
    x = from_images([trip.original])
    with torch.no_grad():
        mean = model.vae.encode(x).latent_dist.mean
        expected = model.vae.decode(mean).sample.clamp(-1, 1)
    assert trip.original.size == trip.reconstruction.size == (32, 32) and len(trip.channels) == 4 and trip.channels[0].size == (8, 8)
    assert trip.psnr_db == pytest.approx(10 * math.log10(4 / ((expected - x) ** 2).mean().item()), abs=1e-3)
    np.testing.assert_allclose(trip.latents, 0.6 * mean[0].numpy(), atol=1e-5)


def test_perturbed_latents_come_from_the_seed_and_cost_quality(studio, tiny_sd):
    picture = Image.new("RGB", (32, 32), "red")
    plain, moved, again, other = (studio.vae_round_trip(tiny_sd, picture, perturb, seed) for perturb, seed in ((0, 0), (2, 1), (2, 1), (2, 2)))
    assert np.array_equal(moved.latents, again.latents) and not np.array_equal(moved.latents, other.latents)
    assert abs((moved.latents - plain.latents).std() - 2) < 0.3
    for perturb in (-1, 11, float("nan")):
        with pytest.raises(InvalidOption, match="perturb"):
            studio.vae_round_trip(tiny_sd, picture, perturb)


def test_pixel_models_have_no_latents(studio, tiny_model):
    for ask in (lambda: studio.vae_round_trip(tiny_model, Image.new("RGB", (8, 8))), lambda: studio.tokens(tiny_model, "a")):
        with pytest.raises(InvalidOption, match="pixel model"):
            ask()


def test_the_facade_decodes_a_step_and_shows_tokens(studio, tiny_sd):
    from studio import SampleOptions

    *_, finished = studio.sample(SampleOptions(model=tiny_sd, prompt="a star", num_steps=3, num_images=2))
    pictures = studio.decode(finished.trajectory, "x0_hat", 1)
    assert len(pictures) == 2 and pictures[0].size == (32, 32)
    assert studio.decode(finished.trajectory, "eps_hat", 1)[0].size == (8, 8)  # noise has no picture: the linear map
    assert studio.preview_pictures(finished.trajectory, "x_t", [0, 2]).shape == (2, 2, 3, 8, 8)
    assert studio.tokens(tiny_sd, "a star").words == ("a", "star") and studio.readings(tiny_sd, "a star")[0].states.shape == (16, 32)
