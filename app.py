"""Diffusion Studio: see and steer how a diffusion model makes a picture.

    python app.py                    open it on this machine
    python app.py --help             everything else
"""

import argparse
import os
from functools import partial
from pathlib import Path

# Nothing is reported home, and nothing is asked of a network at start.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Before gradio itself: it is imported quicker there.
import tabs  # noqa: F401, I001

import gradio as gr

from studio import Studio, StudioError
from studio.machine import spare_one_core
from studio.scratch import scratch_folder, sweep
from tabs import contrast, controlnet, denoise, dreambooth, rank, refl, reward, runs, schedules, text_to_image
from tabs.endpoints import create_endpoints
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tabs.parts.queue import MAX_THREADS
from tabs.parts.ready import make_ready_once_up
from tabs.parts.receiving import receive_within, upload_room
from tabs.parts.showing import run_timers_of
from tabs.parts.sign_in import USERS_FILE, ask_for_user, signed_in
from tabs.parts.visitors import MAX_VISITORS, keep_little
from trainers.contrast import train_contrast

# Uploads, and files that visitors were given, are removed when they are a day old.
CLEAN_EVERY_S, KEEP_FILES_S = 3600, 86400

TABS = {
    "Noise schedules": schedules.create_tab,
    "Denoising": denoise.create_tab,
    "Text to image": text_to_image.create_tab,
    "ControlNet": controlnet.create_tab,
    "One step or many": partial(contrast.create_tab, train_contrast=train_contrast),
    "DreamBooth": dreambooth.create_tab,
    "Runs": runs.create_tab,
    "Rank": rank.create_tab,
    "Score": reward.create_tab,
    "ReFL": refl.create_tab,
}
# The tab that a page opens with.
OPENED = "Denoising"


def create_app(studio: Studio) -> gr.Blocks:
    """The page: a title and one panel for each entry of TABS."""
    with StudioBlocks(title="Diffusion Studio", fill_width=True, delete_cache=(CLEAN_EVERY_S, KEEP_FILES_S)) as app:
        gr.HTML("<h1 class='ds-brand'>Diffusion Studio</h1><p class='ds-tagline'>See and steer how a diffusion model makes a picture.</p>")
        first = {}
        with gr.Tabs(selected=OPENED) as tabs:
            for name, create_tab in TABS.items():
                with gr.Tab(name, id=name):
                    first[name] = create_tab(studio)
        run_timers_of(tabs)
        # The opened tab's model comes first.
        make_ready_once_up(studio, [press for name in sorted(first, key=OPENED.__ne__) if (press := first[name])])
        create_endpoints(studio)
        keep_little(app, studio)
        receive_within(upload_room(studio))
    return app


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start Diffusion Studio and print its address.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network (default: this machine only)")
    parser.add_argument("--port", type=int, default=None, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link through Gradio's servers")
    parser.add_argument("--auth-file", type=Path, help="visitors must sign in; the file names who may (see --add-user)")
    parser.add_argument("--add-user", metavar="NAME", help=f"ask for NAME's password, write it hashed into the --auth-file (default: {USERS_FILE}), and end")
    parser.add_argument(
        "--folder", type=Path, action="append", default=[], metavar="PATH",
        help="a folder that the page may use beside that of runs: LoRAs, embeddings and VAEs, pictures and models of trainings; may be given several times",
    )
    parser.add_argument("--public", action="store_true", help="for strangers: embedded models only, no folders or Hub ids (always on in Hugging Face Spaces)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.add_user is not None:
        return ask_for_user(args.add_user, args.auth_file)
    on_spaces = "SPACE_ID" in os.environ
    try:
        page = signed_in(PAGE, args.auth_file)
    except StudioError as error:
        raise SystemExit(str(error)) from None
    sweep()
    os.environ.setdefault("GRADIO_TEMP_DIR", str(scratch_folder() / "gradio"))
    app = create_app(Studio(public=args.public or on_spaces, folders=args.folder, threads=spare_one_core()))
    app.queue(default_concurrency_limit=4)
    app.launch(
        server_name="0.0.0.0" if on_spaces else args.host, server_port=args.port, share=args.share, max_file_size="30mb",
        show_error=False, state_session_capacity=MAX_VISITORS, max_threads=MAX_THREADS, **page,
    )


if __name__ == "__main__":
    main()
