"""Keeping a run: films, contact sheets, and pictures that carry their options."""

import json
import math
import tracemalloc
import zlib

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from studio.errors import BadImage, InvalidOption, StudioBusy, StudioError, TooLarge, UnknownName
from studio.machine import Room
from studio.options import SampleOptions
from studio.sampling import export
from studio.sampling.events import StepInfo
from studio.sampling.trajectory import Trajectory
from studio.toybox import render_batch, sample_scene

OPTIONS = SampleOptions(model="toybox-ddpm", num_steps=5, scheduler="ddim", eta=0.25, seed=2**53 + 1, class_label="a red heart")


def make_trajectory(num_steps=5, batch=1, size=32, channels=3, taken=None, options=OPTIONS):
    """A run that an all-knowing model would make, straight from noise to toybox pictures."""
    taken = num_steps if taken is None else taken
    x0 = pictures(batch, size)[:, :channels]
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    steps = [step_info(index, num_steps) for index in range(taken)]
    x_t = torch.stack([x0 * (i / num_steps) + eps * (1 - i / num_steps) for i in range(taken + 1)])
    x0_hat = torch.stack([x0 * (i + 1) / (num_steps + 1) for i in range(taken)])
    return Trajectory(
        options=options, steps=steps, model={}, x_t=x_t[:-1].half(), x0_hat=x0_hat.half(),
        eps_hat=eps.expand(taken, *eps.shape).half(), x_final=x_t[-1].float(),
    )


def pictures(batch, size):
    rng = np.random.default_rng(0)
    pixels = render_batch([sample_scene(rng) for _ in range(batch)], size)
    return torch.from_numpy(np.asarray(pixels)).movedim(-1, 1).float() / 127.5 - 1


def step_info(index, num_steps):
    sigma = (num_steps - index) / num_steps
    return StepInfo(index=index, num_steps=num_steps, timestep=999 - index, sigma=sigma, log_snr=-2 * math.log(sigma))


# --- frames --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stream", ["x_t", "x0_hat", "eps_hat"])
def test_a_film_has_a_frame_a_step_and_the_result(stream):
    film = export.frames(make_trajectory(), stream)
    assert film.shape == (6, 256, 256, 3) and film.dtype == np.uint8


def test_both_streams_stand_side_by_side_with_the_state_on_the_left():
    trajectory = make_trajectory()
    both = export.frames(trajectory, "both", scale=1)
    assert both.shape == (6, 32, 32 + 2 + 32, 3)
    np.testing.assert_array_equal(both[:, :, :32], export.frames(trajectory, "x_t", scale=1))
    np.testing.assert_array_equal(both[:, :, -32:], export.frames(trajectory, "x0_hat", scale=1))


def test_the_last_frame_is_the_final_picture_to_the_pixel():
    trajectory = make_trajectory()
    expected = ((trajectory.x_final[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    for stream in ("x_t", "x0_hat"):
        np.testing.assert_array_equal(export.frames(trajectory, stream, scale=1)[-1], expected)


def test_a_stopped_run_ends_on_its_last_belief_and_its_last_state():
    trajectory = make_trajectory(taken=2)
    beliefs, states = export.frames(trajectory, "x0_hat", scale=1), export.frames(trajectory, "x_t", scale=1)
    np.testing.assert_array_equal(beliefs[-1], beliefs[-2])
    assert (states[-1] != states[-2]).any()


def test_enlarging_repeats_pixels_and_invents_none():
    trajectory = make_trajectory()
    small, large = export.frames(trajectory, "x_t", scale=1), export.frames(trajectory, "x_t", scale=3)
    np.testing.assert_array_equal(large[:, 1::3, 1::3], small)
    np.testing.assert_array_equal(large[:, ::3, 2::3], small)


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (9, 3, 3)])
def test_a_batch_is_a_near_square_grid(batch, rows, columns):
    film = export.frames(make_trajectory(batch=batch, num_steps=1), "x_t", scale=1)
    assert film.shape == (2, rows * 33 - 1, columns * 33 - 1, 3)


def test_noise_is_drawn_at_a_third_of_its_deviation():
    film = export.frames(make_trajectory(size=64), "eps_hat", scale=1)
    assert film.std() == pytest.approx(127.5 / 3, rel=0.05) and film.mean() == pytest.approx(127.5, abs=2)


def test_grey_runs_come_out_in_three_equal_channels():
    film = export.frames(make_trajectory(channels=1), "both")
    assert film.shape[-1] == 3
    np.testing.assert_array_equal(film[..., 0], film[..., 2])


def test_thinning_keeps_the_first_and_the_last_and_spreads_evenly():
    assert export._evenly(1001, 5) == [0, 250, 500, 750, 1000]
    assert export._evenly(3, 5) == [0, 1, 2]
    assert len(set(export._evenly(1001, 160))) == 160


def test_an_unknown_stream_states_that_are_no_pictures_and_a_scale_of_zero_are_refused_in_a_sentence():
    with pytest.raises(UnknownName, match="x0_hat"):
        export.frames(make_trajectory(), "x0_hut")
    with pytest.raises(InvalidOption, match="no pictures"):
        latents = torch.zeros(1, 1, 4, 8, 8)
        export.frames(Trajectory(options=OPTIONS, steps=[step_info(0, 1)], model={}, x_t=latents, x0_hat=latents, eps_hat=latents, x_final=latents[0]), "x_t")
    with pytest.raises(InvalidOption, match="scale"):
        export.frames(make_trajectory(), "x_t", scale=0)


# --- films ---------------------------------------------------------------------------------------------------

def gif_frames(path):
    with Image.open(path) as gif:
        for index in range(gif.n_frames):
            gif.seek(index)
            yield gif.info["duration"], np.asarray(gif.convert("RGB"))


@pytest.mark.parametrize("stream", ["x_t", "x0_hat", "both"])
def test_a_gif_has_a_frame_a_step_loops_and_holds_the_last(tmp_path, stream):
    path = export.save_gif(make_trajectory(), stream, tmp_path / "run.gif", fps=10)
    durations, film = zip(*gif_frames(path))
    assert durations == (100, 100, 100, 100, 100, 1500)
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
    assert film[0].shape == export.frames(make_trajectory(), stream)[0].shape


def test_a_gif_of_a_grey_run_is_exact(tmp_path):
    trajectory = make_trajectory(channels=1)
    path = export.save_gif(trajectory, "x_t", tmp_path / "run.gif")
    for (_, shown), frame in zip(gif_frames(path), export.frames(trajectory, "x_t")):
        np.testing.assert_array_equal(shown, frame)


def test_a_gif_of_a_colour_run_is_off_by_little(tmp_path):
    trajectory = make_trajectory(batch=4)
    path = export.save_gif(trajectory, "x_t", tmp_path / "run.gif")
    shown = np.stack([frame for _, frame in gif_frames(path)]).astype(float)
    error = np.sqrt(((shown - export.frames(trajectory, "x_t")) ** 2).mean(axis=(1, 2, 3)))
    assert error.max() < 16 and error[-1] < 4  # noise has 4,096 colours and gets 256; a drawn picture has few


def test_a_gif_carries_its_options(tmp_path):
    path = export.save_gif(make_trajectory(), "x_t", tmp_path / "run.gif")
    assert export.read_options(path) == OPTIONS


def test_an_mp4_decodes_to_the_steps_the_result_and_its_hold(tmp_path):
    trajectory = make_trajectory(batch=2)
    path = export.save_mp4(trajectory, "both", tmp_path / "run.mp4", fps=10)
    shown, film = imageio.imread(path, plugin="FFMPEG"), export.frames(trajectory, "both")
    assert len(shown) == len(film) + 15
    height, width = film.shape[1:3]
    error = np.abs(shown[: len(film), :height, :width].astype(float) - film).mean(axis=(1, 2, 3))
    # Noise loses some of its colour to 4:2:0 chroma; the final picture, held, is nearly exact.
    assert error.max() < 12 and np.abs(shown[-1, :height, :width].astype(float) - film[-1]).mean() < 3


def test_an_mp4_is_h264_with_even_sides_in_the_colours_that_browsers_expect(tmp_path):
    options = SampleOptions(num_steps=1)
    path = export.save_mp4(make_trajectory(num_steps=1, size=17, options=options), "both", tmp_path / "run.mp4")
    meta = imageio.immeta(path, plugin="FFMPEG")
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and "bt709" in meta["pix_fmt"]
    assert all(side % 2 == 0 for side in meta["size"])


def test_long_runs_are_thinned_to_a_reasonable_length(tmp_path):
    trajectory = make_trajectory(num_steps=1000, size=16)
    with Image.open(export.save_gif(trajectory, "x_t", tmp_path / "run.gif")) as gif:
        assert gif.n_frames == 160


@pytest.mark.parametrize("fps", [0, -1, 51, math.nan, "12", True])
@pytest.mark.parametrize("save", [export.save_gif, export.save_mp4])
def test_a_nonsensical_frame_rate_is_refused_and_nothing_is_written(tmp_path, save, fps):
    with pytest.raises(InvalidOption, match="fps"):
        save(make_trajectory(num_steps=1), "x_t", tmp_path / "run", fps)
    assert not list(tmp_path.iterdir())


# --- contact sheets ------------------------------------------------------------------------------------------

def test_a_contact_sheet_has_a_cell_a_step_and_one_for_the_result():
    sheet = export.contact_sheet(make_trajectory(), "x_t")  # 6 cells of 128 px: 3 columns, 2 rows
    assert sheet.size == (12 + 3 * 140, 34 + 2 * (128 + 36 + 12) + 12)


def test_a_contact_sheet_of_a_long_run_shows_at_most_what_was_asked():
    trajectory = make_trajectory(num_steps=1000, size=16)
    sheet = export.contact_sheet(trajectory, "x0_hat", max_steps=8)
    assert sheet.size == (12 + 4 * 140, 34 + 2 * (128 + 36 + 12) + 12)


def test_the_cells_of_a_contact_sheet_are_the_frames_in_order():
    trajectory = make_trajectory()
    sheet, film = np.asarray(export.contact_sheet(trajectory, "x_t")), export.frames(trajectory, "x_t", scale=4)
    for i, frame in enumerate(film):
        top, left = 34 + i // 3 * 176 + 6, 12 + i % 3 * 140
        np.testing.assert_array_equal(sheet[top : top + 128, left : left + 128], frame)


def test_labels_are_written_under_the_cells():
    sheet = np.asarray(export.contact_sheet(make_trajectory(), "x_t"))
    assert (sheet[34 + 6 + 128 : 34 + 6 + 128 + 36, 12:140] < 100).any()
    assert export._label(make_trajectory(), 0) == ("step 1 of 5", "t = 999")
    assert export._label(make_trajectory(), 5) == ("result", "after 5 steps")
    assert export._label(make_trajectory(taken=2), 2) == ("stopped", "after 2 of 5")


@pytest.mark.parametrize("max_steps", [0, 1, 201, 2.5, True])
def test_a_nonsensical_number_of_cells_is_refused(max_steps):
    with pytest.raises(InvalidOption, match="max_steps"):
        export.contact_sheet(make_trajectory(), "x_t", max_steps=max_steps)


# --- options in pictures -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    OPTIONS,
    SampleOptions(timesteps="10,15,20", scheduler="ddpm", clip_x0=False, num_images=9, strength=0.3),
    SampleOptions(class_label="ein Käfer, 虫, \u0000 and \"quotes\""),
])
def test_options_survive_the_picture(tmp_path, options):
    path = export.save_png(Image.new("RGB", (4, 4)), tmp_path / "picture.png", options)
    assert export.read_options(path) == options


def test_a_contact_sheet_carries_its_options_too(tmp_path):
    sheet = export.contact_sheet(make_trajectory(), "both")
    assert export.read_options(export.save_png(sheet, tmp_path / "sheet.png", OPTIONS)) == OPTIONS


def save_with(path, text, *, compressed=False):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("diffusion-studio", text, zip=compressed)
    Image.new("L", (2, 2)).save(path, pnginfo=info)
    return path


def envelope(**options):
    return json.dumps({"version": 1, "options": options})


@pytest.mark.parametrize("text", [
    "{", "[]", "null", "7", "{}", '{"version": 1}', '{"version": 1, "options": []}', '{"version": 2, "options": {}}',
    "[" * 40_000, envelope(scheduler=["ddim"]), envelope(timesteps={"a": 1}), envelope(model="x" * export.MAX_JSON),
])
def test_damaged_options_are_a_bad_picture_in_a_sentence(tmp_path, text):
    with pytest.raises(StudioError, match=r"[.]$"):
        export.read_options(save_with(tmp_path / "picture.png", text))


@pytest.mark.parametrize(("values", "named"), [
    ({"num_steps": 0}, "num_steps"), ({"num_steps": 10**30}, "num_steps"), ({"eta": 2}, "eta"), ({"eta": math.nan}, "eta"),
    ({"scheduler": "nope"}, "nope"), ({"surprise": 1}, "surprise"), ({"seed": True}, "seed"),
])
def test_nonsense_in_a_picture_is_refused_by_the_options_themselves(tmp_path, values, named):
    with pytest.raises((InvalidOption, UnknownName), match=named):
        export.read_options(save_with(tmp_path / "picture.png", envelope(**values)))


def test_a_text_chunk_that_swells_when_read_is_refused(tmp_path):
    path = save_with(tmp_path / "picture.png", "a" * (64 * 1024 * 1024), compressed=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(BadImage, match="drop"):
        export.read_options(path)


def test_a_picture_without_options_says_so(tmp_path):
    for suffix in ("png", "gif"):
        Image.new("L", (2, 2)).save(tmp_path / f"plain.{suffix}")
        with pytest.raises(BadImage, match="no options"):
            export.read_options(tmp_path / f"plain.{suffix}")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_files_that_are_no_picture_are_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadImage, match="drop"):
        export.read_options(tmp_path / "file")


def test_a_picture_cut_short_anywhere_before_its_options_is_refused_in_a_sentence(tmp_path):
    whole = export.save_png(Image.new("RGB", (8, 8)), tmp_path / "whole.png", OPTIONS).read_bytes()
    for length in range(0, whole.index(b"IDAT") - 8, 7):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(BadImage):
            export.read_options(tmp_path / "cut.png")


def test_the_size_that_a_header_claims_is_never_allocated(tmp_path):
    huge = b"\x00\x00\xff\xff" * 2 + b"\x08\x02\x00\x00\x00"
    chunk = b"IHDR" + huge
    header = len(huge).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header)
    with pytest.raises(BadImage, match="drop"):
        export.read_options(tmp_path / "bomb.png")


# --- memory --------------------------------------------------------------------------------------------------

def shaped(height, width, batch=1, num_steps=1):
    """A run whose pictures are of an odd shape, as a run file may hold it."""
    steps, x = [step_info(index, num_steps) for index in range(num_steps)], torch.zeros(num_steps, batch, 3, height, width, dtype=torch.half)
    return Trajectory(options=OPTIONS, steps=steps, model={}, x_t=x, x0_hat=x, eps_hat=x, x_final=x[-1].float())


# A line, a column, and many pictures of few pixels.
ODD = [(1, 3000, 1), (3000, 1, 1), (1, 1, 900), (1, 9000, 1), (2, 500, 40)]
MAKERS = {
    "gif": lambda run, stream, folder: export.save_gif(run, stream, folder / "run.gif"),
    "mp4": lambda run, stream, folder: export.save_mp4(run, stream, folder / "run.mp4"),
    "sheet": lambda run, stream, folder: export.save_png(export.contact_sheet(run, stream), folder / "sheet.png", OPTIONS),
    "frames": lambda run, stream, folder: export.frames(run, stream),
}


@pytest.mark.parametrize("stream", ["x_t", "both"])
@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_made_of_an_odd_run_takes_no_more_than_was_foretold_or_is_refused(tmp_path, monkeypatch, kind, shape, stream):
    foretold, height, width, batch = [], *shape
    monkeypatch.setattr(export, "require_ram", lambda needed, what, instead: foretold.append(needed))
    run = shaped(height, width, batch)
    tracemalloc.start()
    try:
        MAKERS[kind](run, stream, tmp_path)
    except TooLarge as error:
        assert str(error).endswith(f"{export.SMALLER}.")
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Beside the pixels there is what numpy and Pillow need to know of them.
    assert taken < max(foretold, default=0) + 2 * 2**20


@pytest.mark.parametrize(("save", "longest"), [(export.save_gif, "65,535"), (export.save_mp4, "16,384")])
def test_a_film_with_sides_that_its_format_cannot_have_is_refused_in_numbers(tmp_path, save, longest):
    with pytest.raises(TooLarge, match=f"at most {longest}"):
        save(shaped(1, 66_000), "x_t", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_contact_sheet_of_a_line_is_refused_as_it_would_be_enlarged():
    with pytest.raises(TooLarge, match=r"983 megapixels a frame"):  # 60,000 pixels, 128 times as long and as high
        export.contact_sheet(shaped(1, 60_000), "x_t")


def test_films_that_are_made_at_once_share_one_allowance(tmp_path, monkeypatch):
    run, room = shaped(64, 64), Room(export.MAX_TOGETHER, 0.0, "Come back.")
    monkeypatch.setattr(export, "TOGETHER", room)
    with room.taken(export.MAX_TOGETHER):
        for make in MAKERS.values():
            with pytest.raises(StudioBusy, match="Come back"):
                make(run, "x_t", tmp_path)
    assert MAKERS["gif"](run, "x_t", tmp_path).exists()
