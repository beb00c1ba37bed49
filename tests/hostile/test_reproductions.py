"""The attacks that once worked, each as it was done, with and without --public where there is a difference to be seen."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from itertools import product
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from tests.hostile.conftest import EITHER, EITHER_OWN, MODES
from tests.hostile.files import CANARY_COLOUR, OPTIONS, STEP, bomb, png, reference, run_file
from tests.hostile.served import ATTACK, PATIENCE_S, served

# What the page calls by itself, and what starts a training.
PAGE_OPENED = ("on_open_page", "on_tick", "choices")
STARTS = ("on_start", "train")

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
    # In CI each of them in one of the two modes.
    takers = takers if ATTACK else takers[int(app.public) :: 2]
    assert takers
    told = []
    for handler in takers:
        for number, (asked, absent) in enumerate(zip(references(secret), references(missing))):
            for call in (app.direct, app.queued) if ATTACK or number == 0 else (app.direct,):
                there, not_there = (call(handler, handler.values(file=reference)) for reference in (asked, absent))
                if there.text.replace(str(secret), "") != not_there.text.replace(str(missing), ""):
                    told.append(f"{handler.name} tells {asked} from one that is missing: {there.text[:200]} {not_there.text[:200]}")
                if there.ok and shows_canary(there.text):
                    told.append(f"{handler.name} shows {asked}")
    assert not told
    assert not [line for line in app.report() if "hostile-canary" in line]


# --- 2: a request for all memory ------------------------------------------------------------------------------

def test_a_picture_too_large_for_the_memory_is_refused_in_numbers(app):
    sample = app.named("sample")
    answer = app.queued(sample, sample.values(width=4096, height=4096, num_steps=1))
    assert answer.sentence and any(figure in answer.text for figure in ("GiB", "pixel")), answer.text[:300]
    assert app.alive() and not app.killed_for_memory


# --- 3: picture bombs in parallel -----------------------------------------------------------------------------

@EITHER_OWN
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


SESSIONS = 40 if ATTACK else 12


@EITHER_OWN
def test_a_run_file_opened_by_many_sessions_is_kept_once(app):
    said = reference(app.upload("run.safetensors", large_run()))
    handler = app.openers()[0]
    first = app.queued(handler, handler.values(file=said))
    assert first.ok, first.text[:300]
    before = app.memory_mib
    for _ in range(SESSIONS):
        app.queued(handler, handler.values(file=said))
    assert app.memory_mib - before < 150
    assert not app.killed_for_memory


def studio_folders(app) -> int:
    return len([path for path in app.temp.glob("studio-*") if path.is_dir()])


@EITHER
def test_sessions_that_keep_nothing_leave_no_folders(app):
    before = studio_folders(app)
    for handler in app.handlers():
        if "state" in {one.kind for one in handler.inputs} and not handler.queue:
            for _ in range(20 if ATTACK else 3):
                app.direct(handler, handler.values(), session=uuid4().hex)
    assert studio_folders(app) - before < 5


# --- 5: abandoned places in the queue -------------------------------------------------------------------------

def test_sixty_five_places_that_nobody_waits_for_hold_up_nobody(app):
    sample = app.named("sample")
    long = sample.values(num_steps=300, num_images=4)
    for _ in range(65):
        app.post("/gradio_api/queue/join", json={"data": long, "fn_index": sample.index, "session_hash": uuid4().hex})
    for name, data in (("schedule", ["flow", 10, False, ""]), ("run_status", ["no-such-run"])):
        if name in {handler.name for handler in app.handlers()}:
            answer = app.queued(app.named(name), data)
            assert answer.ok or (answer.sentence and "full" not in answer.text), answer.text[:300]
    answer = app.queued(sample, sample.values())
    assert answer.ok, answer.text[:300]


def test_of_a_visitors_many_calls_few_have_a_place_and_the_others_are_told_so(app):
    sample, session = app.named("sample"), uuid4().hex
    with ThreadPoolExecutor(2) as together:
        for _ in range(12):
            app.post("/gradio_api/queue/join", json={"data": sample.values(num_steps=40), "fn_index": sample.index, "session_hash": session})
        answers = list(together.map(lambda _: app.queued(sample, sample.values(), session), range(2)))
    assert all(answer.ok or answer.sentence for answer in answers), [answer.text[:300] for answer in answers]
    assert "waiting or under way" in "".join(answer.text for answer in answers)
    assert app.queued(sample, sample.values()).ok


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


# --- 7: files outside the data folder, and options without bounds ---------------------------------------------

@pytest.mark.parametrize("where", ["{tmp}/class-pictures", "/etc", "../../outside", "~/outside", "\0", "/dev/null", "file:///etc"])
def test_class_pictures_stay_inside_the_data_folder(own, tmp_path, where):
    train = own.named("train")
    pictures = [reference(own.upload(f"{i}.png", png(64, 64))) for i in range(3)]
    name = f"outside-{uuid4().hex[:6]}"
    answer = own.direct(train, train.values(name=name, pictures=pictures, class_images=where.format(tmp=tmp_path)))
    assert answer.sentence, answer.text[:300]
    assert not (tmp_path / "class-pictures").exists()


WILD = {
    "rank": 10**12, "steps": 10**30, "resolution": 8 * 10**9, "batch_size": 10**9, "lr": float("inf"), "alpha": float("nan"), "targets": "no-such-layer",
    "base": "no-such-model-at-all", "num_class_images": 10**9, "seed": 10**40, "validation_samples": 10**9, "warmup": -1,
}


@pytest.mark.parametrize("option", WILD)
def test_options_without_bounds_are_refused_before_the_start(own, option):
    runs = own.named("on_start")
    name = f"wild-{option.replace('_', '-')}"
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in {"method": "lora", option: WILD[option]}.items())
    answer = own.queued(runs, ["dreambooth", name, text])
    assert answer.sentence and not (own.runs / name).exists(), answer.text[:300]


def _toml(value):
    return json.dumps(value) if isinstance(value, str) else str(value)


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


def test_broken_run_folders_break_nothing_but_themselves(app):
    for case, files in BROKEN.items():
        broken_folder(app.runs, f"broken-{case}", files)
    wrong, start = [], app.places()[0]
    for handler in app.handlers():
        if handler.name.startswith((*PAGE_OPENED, "on_words", "on_model")):
            answer = app.queued(handler, handler.values())
            wrong += [] if answer.ok else [f"{handler.name}: {answer.status} {answer.text[:150]}"]
    status = [handler for handler in app.handlers() if handler.name == "run_status"]
    for handler, case in product(status, BROKEN):
        answer = app.queued(handler, [f"broken-{case}"])
        wrong += [] if answer.ok or answer.sentence else [f"{case}: {answer.status} {answer.text[:150]}"]
    sample = app.named("sample")
    answer = app.queued(sample, sample.values())
    assert answer.ok and not wrong, "\n".join([answer.text[:150], *wrong])
    assert "Traceback" not in app.log(start)


# --- 9, 10: a runs folder that cannot be written, and signing in ----------------------------------------------

PASSWORD = "correct horse"


@pytest.fixture(scope="module", params=MODES if ATTACK else ["own"])
def locked(request, tmp_path_factory):
    """An app whose folder of runs cannot be written; its owner's can be entered by ada alone."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "a-file").write_text("not a folder")
    (folder / "users.txt").write_text(f"ada:{PASSWORD}\n")
    signing_in = () if request.param == "public" else ("--auth-file", str(folder / "users.txt"))
    with served(folder / "app", *MODES[request.param], *signing_in, environment={"DIFFUSION_STUDIO_RUNS": str(folder / "a-file" / "runs")}) as app:
        yield app


def sign_in(app, password):
    return app.post("/login", data={"username": "ada", "password": password})


def test_a_runs_folder_that_cannot_be_written_breaks_no_tab(locked):
    assert locked.public or sign_in(locked, PASSWORD).status == 200
    pages = [handler for handler in locked.handlers() if handler.name.startswith(PAGE_OPENED)]
    wrong = [f"{handler.name}: {answer.text[:200]}" for handler in pages if not (answer := locked.direct(handler, handler.values())).ok]
    assert pages and not wrong, "\n".join(wrong)
    for handler in locked.handlers():
        if handler.name in STARTS:
            started = locked.queued(handler, ["ddpm", "x", 'data = "digits"'] if handler.name == "on_start" else handler.values(name="x"))
            assert started.sentence and ("writ" in started.text or locked.public or handler.name == "train"), started.text[:300]
    assert "Traceback" not in locked.log()


@pytest.mark.parametrize("locked", ["own"], indirect=True)
def test_guesses_of_a_password_are_slowed_down(locked):
    for i in range(300):
        answer = sign_in(locked, f"guess {i}")
        if answer.status == 429:
            break
    assert sign_in(locked, PASSWORD).status != 200, "The right password was taken at once after 300 wrong ones."
    assert "password" in locked.log().lower()  # plain passwords are warned of


# --- 11: going on from a damaged checkpoint -------------------------------------------------------------------

SHORT = {
    "data": "digits", "resolution": 8, "widths": "32", "layers": 1, "attention_from": 8, "batch_size": 4, "steps": 100_000, "sample_every": 0,
    "checkpoint_every": 2,
}


def until(fact):
    """Wait for a condition that the app is asked about; gives what it gave."""
    end = time.monotonic() + PATIENCE_S
    while not (found := fact()):
        assert time.monotonic() < end, "What was waited for did not come."
        time.sleep(0.3)
    return found


def cut_off(run):
    """A run that was killed with two checkpoints, made in this process: trainings that are killed are tests/runs/test_runs.py's."""
    from studio.runs.folder import write_config, write_state
    from trainers.ddpm import DDPMOptions, train

    options = DDPMOptions(**SHORT, output=str(run))
    with closing(train(options, progress=False)) as steps:
        for _ in range(5):
            next(steps)
    write_config(run, options)
    write_state(run, trainer="ddpm", state="running", pid=2**22 + 1, process_start=1.0, created=time.time(), message="")


def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_taken(own):
    run = own.runs / "cut"
    cut_off(run)
    status = own.named("run_status")
    assert "interrupted" in own.queued(status, ["cut"]).text
    good, newest = sorted(path.parent for path in run.glob("checkpoints/step-*/manifest.json"))
    network = newest / "network.safetensors"
    network.write_bytes(network.read_bytes()[:-100])
    assert own.queued(own.named("run_resume"), ["cut"]).ok
    said = until(lambda: text if "damaged" in (text := own.queued(status, ["cut"]).text) else None)
    assert all(f"step {int(path.name[5:]) + 1}" in said for path in (good, newest)) and "was taken instead" in said, said[:500]


# --- 6, 7, 11 in public: there is no training -----------------------------------------------------------------

@pytest.mark.parametrize("app", ["public"], indirect=True)
def test_strangers_start_stop_and_read_no_training(app):
    tried = [handler for handler in app.handlers() if handler.name in {*STARTS, "run_status", "run_stop", "run_resume"}]
    for handler in tried:
        answer = app.queued(handler, handler.values(name="race"))
        assert answer.sentence, answer.text[:300]
    assert not list(app.runs.iterdir())


# --- 12: mistakes of a program that calls ---------------------------------------------------------------------

MISTAKES = {
    "a text for a number": "abc", "a list for a name": ["x"], "an object": {"a": 1}, "a name of 300 characters": "x" * 300,
    "5,000 digits": "ddim" + "9" * 5000, "a number for a name": 7, "none": None, "true": True, "infinite": float("inf"), "not a number": float("nan"),
    "huge": 10**300,
}


# Of the mistakes every so manieth is made in CI, another one for each argument.
SHARE = 8


def spoilings(app):
    return [(handler, words, values) for handler in app.handlers() if handler.public for words, values in spoilt(handler)]


def spoilt(handler):
    """(what is wrong, values) for each argument in turn, and for their number."""
    values = handler.values()
    yield "too few", values[:-1]
    yield "none at all", []
    yield "too many", [*values, 1, 2]
    for i, one in enumerate(handler.inputs):
        if one.kind != "state":
            for words, value in MISTAKES.items():
                yield f"{one.name}: {words}", [*values[:i], value, *values[i + 1 :]]


@pytest.mark.parametrize("route", ["direct", "queued"])
def test_every_mistake_of_a_caller_is_answered_in_a_sentence(app, route):
    wrong, total = [], 0
    for number, (handler, words, values) in enumerate(spoilings(app)):
        if ATTACK or number % SHARE == 0:
            start = app.places()[0]
            answer = getattr(app, route)(handler, values)
            total += 1
            if not (answer.ok or answer.sentence):
                wrong.append(f"{handler.name}, {words}: {answer.status} {answer.text[:150]}")
            if "Traceback" in app.log(start):
                wrong.append(f"{handler.name}, {words}: a traceback")
    assert not wrong, f"{len(wrong)} of {total}\n" + "\n".join(wrong)


def test_json_of_a_hundred_thousand_levels_is_refused(app):
    deep = b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b', "fn_index": 1}'
    start = app.places()[0]
    for path in ("/gradio_api/run/schedule", "/gradio_api/call/schedule", "/gradio_api/queue/join"):
        answer = app.post(path, content=deep, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status < 500, f"{path}: {answer.status} {answer.text[:200]}"
    assert "Traceback" not in app.log(start) and app.alive()
