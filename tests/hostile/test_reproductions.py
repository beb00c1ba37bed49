"""The attacks that once worked, each as it was done, with and without --public."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from tests.hostile.files import CANARY_COLOUR, OPTIONS, STEP, bomb, png, reference, run_file

# --- 1: whatever picture lies on the disk ---------------------------------------------------------------------

def references(path) -> list[dict]:
    """What a client may say of a file: with Gradio's mark, without it, and as an address."""
    path = str(path)
    return [
        {"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path, "url": path, "orig_name": "x.png", "is_stream": True},
        {"path": f"file://{path}"}, {"path": "x.png", "url": f"file://{path}"}, {"path": f"/gradio_api/file={path}"},
    ]


def shows_canary(text: str) -> bool:
    """Whether a picture in the answer has the canary's colour."""
    for part in text.replace("\\", "").split("base64,")[1:]:
        data = part.split('"')[0]
        try:
            pixels = np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).reshape(-1, 3).astype(int)
        except Exception:
            continue
        if (abs(pixels - CANARY_COLOUR).max(axis=1) < 12).any():
            return True
    return False


def test_no_handler_reads_a_picture_that_was_not_uploaded(app, tmp_path):
    secret, missing = tmp_path / "hostile-canary.png", tmp_path / "nothing-here.png"
    secret.write_bytes(png())
    takers = [handler for handler in app.handlers() if handler.takes_file]
    assert takers
    told = []
    for handler in takers:
        for asked, absent in zip(references(secret), references(missing)):
            for call in (app.direct, app.queued):
                there, not_there = (call(handler, handler.values(file=reference)) for reference in (asked, absent))
                if there.text.replace(str(secret), "") != not_there.text.replace(str(missing), ""):
                    told.append(f"{handler.name} tells {asked} from one that is missing: {there.text[:200]} {not_there.text[:200]}")
                if there.ok and shows_canary(there.text):
                    told.append(f"{handler.name} shows {asked}")
    assert not told
    assert not [line for line in app.report() if "hostile-canary" in line]


# --- 3: picture bombs in parallel -----------------------------------------------------------------------------

def test_twelve_picture_bombs_at_once_cost_little(app):
    noise = app.named("noise_image")
    path = app.upload("wall.png", bomb(7000, 7000))
    app.queued(noise, [reference(app.upload("small.png", png())), "flow", 1000, 0, 0])  # what the first call loads
    before, app.peak_mib = app.memory_mib, 0.0
    with ThreadPoolExecutor(12) as together:
        answers = list(together.map(lambda _: app.direct(noise, [reference(path), "flow", 1000, 0, 0]), range(12)))
    assert not app.killed_for_memory and app.alive()
    assert all(answer.ok or answer.sentence for answer in answers), [answer.text[:200] for answer in answers]
    assert app.peak_mib - before < 600


# --- 4: memory that sessions keep -----------------------------------------------------------------------------

def large_run(num_steps: int = 380) -> bytes:
    """A whole run file of 27 MiB."""
    steps = [{**STEP, "index": i, "num_steps": num_steps, "timestep": float(num_steps - i)} for i in range(num_steps)]
    return run_file(shape=(num_steps, 1, 3, 64, 64), options={**OPTIONS, "num_steps": num_steps}, steps=steps)


def test_a_run_file_opened_by_forty_sessions_is_not_kept_forty_times(app):
    said = reference(app.upload("run.safetensors", large_run()))
    handler = app.openers()[0]
    first = app.queued(handler, handler.values(file=said))
    assert first.ok, first.text[:300]
    before = app.memory_mib
    for _ in range(40):
        app.queued(handler, handler.values(file=said))
    assert app.memory_mib - before < 300
    assert not app.killed_for_memory


def studio_folders(app) -> int:
    return len([path for path in app.temp.glob("studio-*") if path.is_dir()])


def test_sessions_that_keep_nothing_leave_no_folders(app):
    before = studio_folders(app)
    for handler in app.handlers():
        if "state" in {one.kind for one in handler.inputs} and not handler.queue:
            for _ in range(20):
                app.direct(handler, handler.values(), session=uuid4().hex)
    assert studio_folders(app) - before < 5


# --- 6: runs of one name --------------------------------------------------------------------------------------

def test_of_six_starts_of_one_name_one_wins_whole(own):
    train, start = own.named("train"), own.places()[0]
    sets = [[own.upload(f"{i}-{j}.png", png(64, 64, (40 * i, 80 * j, 128))) for j in range(3)] for i in range(6)]
    with ThreadPoolExecutor(6) as together:
        answers = list(together.map(lambda pictures: own.direct(train, train.values(name="race", pictures=[reference(path) for path in pictures])), sets))
    assert [answer.ok for answer in answers].count(True) == 1, [answer.text[:300] for answer in answers]
    assert all("race" in (answer.error or "") and answer.sentence for answer in answers if not answer.ok)
    config = json.loads((own.runs / "race" / "config.json").read_text())
    assert len(list(Path(config["instances"]).glob("*.png"))) == 3
    assert "Traceback" not in own.log(start)


# --- 8: a broken run folder -----------------------------------------------------------------------------------

GOOD = {"trainer": "ddpm", "state": "stopped", "created": 1.0, "message": ""}


def state(**changes) -> dict[str, str]:
    return {"state.json": json.dumps({**GOOD, **changes})}


DONE = state(state="finished")
BROKEN: dict[str, dict[str, str]] = {
    **{f"state-{name}": {"state.json": text} for name, text in {
        "list": "[]", "null": "null", "text": '"x"', "number": "7", "cut": '{"trainer": "dd', "empty": "", "bytes": "\x00\x01", "deep": "[" * 50_000,
    }.items()},
    "created-text": state(created="soon"), "created-list": state(created=[]), "created-nan": state(created=float("nan")),
    "created-huge": state(created=10**400),
    "pid-text": state(state="running", pid="x"), "pid-negative": state(state="running", pid=-1), "pid-huge": state(state="running", pid=10**30),
    "state-unknown": state(state="flying"), "state-dict": state(state={}), "trainer-list": state(trainer=[]), "trainer-unknown": state(trainer="../x"),
    **{f"config-{name}": {"config.json": text} for name, text in {
        "list": "[]", "null": "null", "steps-text": '{"steps": "many"}', "steps-list": '{"steps": [1]}', "steps-infinite": '{"steps": 1e999}',
        "batch-text": '{"steps": 5, "batch_size": "x"}',
    }.items()},
    **{f"event-{name}": {"events.jsonl": line + "\n"} for name, line in {
        "step-text": '{"step": "three", "loss": 1.0}', "loss-text": '{"step": 3, "loss": "x"}', "list": "[1, 2]", "nan": '{"step": NaN, "loss": NaN}',
        "phase": '{"phase": 3, "done": "x", "total": []}',
    }.items()},
    "event-speed": {"config.json": '{"steps": 9, "batch_size": 1}', "events.jsonl": '{"step": 3, "samples_per_s": "fast"}\n', **state(state="waiting")},
    "checkpoint-name": {"checkpoints/step-abc/facts.json": "{}"}, "checkpoint-file": {"checkpoints": "a file"},
    "sample-name": {"samples/step-abc.png": "no picture"}, "toml-broken": {"options.toml": "= ="}, "log-bytes": {"log.txt": "\udcff"},
    "studio-json-list": {**DONE, "model/studio.json": "[]"}, "studio-json-null": {**DONE, "model/studio.json": "null"},
    "unet-list": {**DONE, "model/studio.json": "{}", "model/unet/config.json": "[]"},
    "unet-size": {**DONE, "model/studio.json": '{"class_names": 7}', "model/unet/config.json": '{"sample_size": "x"}'},
}


def broken_folder(root, name, files):
    for path, text in {**state(), "config.json": '{"steps": 5}', **files}.items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, errors="surrogateescape")


def test_broken_run_folders_break_nothing_but_themselves(own):
    for case, files in BROKEN.items():
        broken_folder(own.runs, f"broken-{case}", files)
    wrong, start = [], own.places()[0]
    for handler in own.handlers():
        if handler.name.startswith(("on_open_page", "choices", "on_tick", "on_words", "on_model")):
            answer = own.queued(handler, handler.values())
            wrong += [] if answer.ok else [f"{handler.name}: {answer.status} {answer.text[:150]}"]
    for case in BROKEN:
        answer = own.queued(own.named("run_status"), [f"broken-{case}"])
        wrong += [] if answer.ok or answer.sentence else [f"{case}: {answer.status} {answer.text[:150]}"]
    sample = own.named("sample")
    answer = own.queued(sample, sample.values())
    assert answer.ok and not wrong, "\n".join([answer.text[:150], *wrong])
    assert "Traceback" not in own.log(start)


# --- 9: a runs folder that cannot be written ------------------------------------------------------------------

def test_a_runs_folder_that_cannot_be_written_breaks_no_tab(tmp_path):
    from tests.hostile.served import served

    wall = tmp_path / "a-file"
    wall.write_text("not a folder")
    with served(tmp_path / "app", environment={"DIFFUSION_STUDIO_RUNS": str(wall / "runs")}) as app:
        pages = [handler for handler in app.handlers() if handler.name.startswith(("on_open_page", "on_tick", "choices"))]
        wrong = [f"{handler.name}: {answer.text[:200]}" for handler in pages if not (answer := app.direct(handler, handler.values())).ok]
        started = app.queued(app.named("on_start"), ["ddpm", "x", 'data = "digits"'])
        assert not wrong, "\n".join(wrong)
        assert started.sentence and "writ" in started.text, started.text[:300]
        assert "Traceback" not in app.log()


