"""A run whose files make no sense: listed as damaged with what is wrong, and everything else goes on.

Each file of a run is replaced, and each of its entries, by what is well-formed and wrong. Every case is put beside a run that is
in order, and asked of all that looks at runs: both tabs, the menus of models, the endpoints, the buttons.
"""

import json
import math
import os
import shutil
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from studio import SampleOptions, Studio
from studio.errors import DamagedFile, ModelUnavailable, StudioError
from studio.runs.folder import read_run
from studio.runs.probes import before_and_after, checkpoint_matrix, forgotten
from studio.runs.processes import process_start
from tabs import dreambooth, runs
from tabs.endpoints import status_of
from tabs.parts.following import follow_value, newest

JUNK = {
    "null": "null", "a list": "[]", "a text": '"many"', "a number": "7", "true": "true", "below nought": "-3", "parts": "1.5", "NaN": "NaN",
    "far too much": "1e999", "a long number": "9" * 400, "an object": '{"a": {"b": [1]}}', "a list of lists": "[[[1]], null]",
    "half a character": '"\\ud800"', "a long text": json.dumps("x" * 20_000),
}
TOP_LEVEL = {
    **{name: text.encode() for name, text in JUNK.items() if name != "an object"}, "nothing": b"", "cut short": b'{"step": 4', "no text": b"\xff\xfe\x00{}",
    "nested deep": b"[" * 100_000, "digits without end": b'{"created": ' + b"1" * 5000 + b"}", "large": b'{"a": "' + b"x" * 2**20 + b'"}',
}
STATE = {"trainer": "dreambooth", "state": "finished", "message": "All 20 steps are done.", "created": 1e9, "started": 1e9, "ended": 2e9, "pid": 1}
CONFIG = {
    "base": "toybox-sd", "steps": 20, "batch_size": 4, "accumulation": 1, "resolution": 64, "method": "full", "instance_prompt": "a sks cat",
    "class_prompt": "a cat", "prior_weight": 1.0, "validation_prompts": "a sks cat|a cat", "validation_steps": 8, "validation_guidance": 4.0,
}
STEP = {"step": 3, "loss": 0.5, "quartiles": [0.5, None, 0.25, 1.0], "grad_norm": 2.0, "lr": 1e-3, "samples": 8, "samples_per_s": 8.0, "memory_gib": 1.0}
PHASE = {"phase": "class pictures", "done": 1, "total": 4}
RECORDS = {
    "state.json": STATE, "config.json": CONFIG, "model/studio.json": {"kind": "pipeline", "base": "toybox-sd", "prompt": "a sks cat"},
    "model/unet/config.json": {"sample_size": 16, "in_channels": 4}, "model/vae/config.json": {"block_out_channels": [16, 48, 96]},
    "checkpoints/step-000003/facts.json": {"step": 3, "samples": 16, "loss": 0.5}, "checkpoints/step-000003/manifest.json": {"files": {}},
}
LINES = {"events.jsonl": STEP, "phase in events.jsonl": PHASE}
# Names that look like those of a run's own.
STRANGERS = (
    "checkpoints/step-abc/", "checkpoints/step-/", "checkpoints/step-000001.tmp/", "checkpoints/step-999999999999999/", "checkpoints/step-000007",
    "samples/step-abc.png", "samples/step-000001.png/", "samples/step-.png", "model/studio.json/", "events.jsonl/", "log.txt/", "stop/", "config.json/",
)


def write_run(path: Path, **changes: bytes) -> Path:
    """A finished DreamBooth run. changes: other contents by file name."""
    lines = b"".join(json.dumps({**STEP, "step": step}).encode() + b"\n" for step in range(5))
    files = {name: json.dumps(record).encode() for name, record in RECORDS.items()}
    files |= {"events.jsonl": lines, "options.toml": b"steps = 20\n", "log.txt": b"said\n", "samples/step-000004.png": PICTURE} | changes
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text)
    return path


def picture() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()


def with_entry(record: dict, name: str, junk: str) -> bytes:
    """The record as JSON with one entry replaced by junk, which may be no JSON that Python would write."""
    return json.dumps({**record, name: "JUNK"}).replace('"JUNK"', junk).encode()


def cases():
    """(what is changed, files)."""
    for file, record in RECORDS.items():
        yield from ((f"{file}: {what}", {file: text}) for what, text in TOP_LEVEL.items())
        yield from ((f"{file}: {name} is {what}", {file: with_entry(record, name, junk)}) for name in record for what, junk in JUNK.items())
    for where, record in LINES.items():
        yield from ((f"{where}: {name} is {what}", {"events.jsonl": with_entry(record, name, junk) + b"\n"}) for name in record for what, junk in JUNK.items())
        yield from ((f"{where}: {what}", {"events.jsonl": text + b"\n"}) for what, text in TOP_LEVEL.items())


@pytest.fixture
def studio(tmp_path):
    made = Studio(runs_root=tmp_path / "runs")
    write_run(made.runs.root / "good")
    return made


def strict(text: str):
    """JSON as a browser reads it."""
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.dumps(text).encode()
    return json.loads(text, parse_constant=refuse)


def refused_or_done(act):
    """What it gives, or the sentence it refuses with; anything else is a fault."""
    try:
        return act()
    except StudioError as error:
        assert str(error).strip() and "Traceback" not in str(error) and len(str(error)) < 3000
        str(error).encode()
        return None


class Pages:
    """Both tabs, their handlers called as the page calls them."""

    def __init__(self, studio):
        with gr.Blocks() as self.demo:
            runs.create_tab(studio)
            dreambooth.create_tab(studio)

    def look(self, name):
        for fn in self.demo.fns.values():
            if getattr(fn.fn, "__name__", "") == "on_open_page":
                self.sent(fn.fn())
            elif getattr(fn.fn, "__name__", "") == "on_tick":
                self.sent(fn.fn(name, ["good"], 0) if len(fn.inputs) == 3 else fn.fn(name, 0))

    def sent(self, changes):
        """What Gradio makes of the values must be JSON that can be sent."""
        for value in changes.values():
            json.dumps(value, default=str).encode()


def look_everywhere(studio, name, pages=None):
    """Everything that looks at runs; gives the row of the run in the list."""
    row = look(studio, name)
    strict(follow_value(studio, "good", str, compare=[name]))
    strict(json.dumps(status_of(studio, name), allow_nan=False))
    assert str(studio.runs.root / "good" / "model") in studio.models
    assert dict(dreambooth.teachable(studio)) and "good" in dreambooth.subject_runs(studio) and dreambooth.free_name(studio, "subject") == "subject"
    view = studio.runs.read(name)
    refused_or_done(lambda: runs.toml_of(view))
    for probe in (lambda: before_and_after(Blind(), view, "a cat"), lambda: forgotten(Blind(), view), lambda: checkpoint_matrix(Blind(), view, "a cat")):
        refused_or_done(lambda probe=probe: next(probe()))
    if pages:
        pages.look(name)
    return row


def look(studio, name):
    """The list of runs and the stage of the run; gives its row in the list."""
    rows = {row["name"]: row for row in strict(runs.list_value(studio, name))["runs"]}
    assert rows["good"]["state"] == "finished" and strict(follow_value(studio, "good", str))["state"] == "finished"
    stage = strict(follow_value(studio, name, str, compare=["good"]))
    assert stage["name"] == name and stage["title"]
    # What damages the events alone is seen by whoever reads all of them.
    return {**rows[name], "state": stage["state"] if stage["state"] == "damaged" else rows[name]["state"], "message": stage["message"]}


class Blind:
    """A studio that draws nothing."""

    def sample(self, options, stop=None):
        return iter(())


CASES = dict(cases())


# What happens to make sense after all, or at least for another version of the trainer.
SENSIBLE = {
    "events.jsonl: step is a number", "state.json: pid is null", "state.json: pid is a number",
    *(f"state.json: {name} is a text" for name in ("trainer", "message")),
    *(f"state.json: {name} is {what}" for name in ("created", "started", "ended") for what in ("a number", "parts")),
    *(f"config.json: {name} is a text" for name, value in CONFIG.items() if isinstance(value, str)),
    *(f"config.json: {name} is a number" for name, value in CONFIG.items() if isinstance(value, (int, float))),
    *(f"config.json: {name} is below nought" for name in ("resolution", "validation_steps", "prior_weight", "validation_guidance")),
    *(f"config.json: {name} is parts" for name in ("prior_weight", "validation_guidance")),
    *(f"model/studio.json: {name} is a text" for name in ("base", "prompt")),
}


def test_whatever_stands_in_a_file_of_a_run_all_others_work_and_what_is_wrong_is_said(studio):
    pages = Pages(studio)
    assert len(CASES) > 600
    damaged = set()
    path = write_run(studio.runs.root / "odd")
    for i, (case, files) in enumerate(CASES.items()):
        (file, text), = files.items()
        before = (path / file).read_bytes()
        (path / file).write_bytes(text)
        os.utime(path / "model")  # as a new result of the name would have it
        # Everything looks at every third, another kind of junk for each entry.
        row = look(studio, "odd") if i % 3 else look_everywhere(studio, "odd", pages if i % 9 == 0 else None)
        if row["state"] == "damaged":
            damaged.add(case)
            assert Path(file).name in row["message"] and "cannot be read" in row["message"], (case, row["message"])
            assert "studio.json" not in file or str(path / "model") not in studio.models, case
        (path / file).write_bytes(before)
    wrong = {case for case in CASES if case.startswith(("state.json", "config.json", "model/studio.json"))} | {f"events.jsonl: step is {what}" for what in JUNK}
    assert wrong - damaged == SENSIBLE


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_only_looks_like_a_part_of_a_run_breaks_nothing(studio, stranger):
    path = write_run(studio.runs.root / "odd")
    place = path / stranger.rstrip("/")
    if place.is_file():
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir(exist_ok=True) if stranger.endswith("/") else place.write_text("")
    look_everywhere(studio, "odd", Pages(studio))
    if "step-" in stranger:
        view = read_run(path)
        assert view.saved in (4, 8) or "999" in stranger and view.saved == 4, view.saved
        assert [number for number, _ in view.numbered_samples] == [4]


@pytest.mark.parametrize("name", ["state.json/", "\udcff"])
def test_a_folder_that_is_hardly_a_run_breaks_nothing(studio, name):
    """A folder in place of the state; a name that cannot be shown."""
    if name.endswith("/"):
        (studio.runs.root / "odd" / name).mkdir(parents=True)
        assert look_everywhere(studio, "odd")["state"] == "damaged"
    else:
        write_run(studio.runs.root / os.fsdecode(os.fsencode(name)))
        assert [view.name for view in studio.runs.list()] == ["good"]


def test_a_page_opens_with_a_run_that_can_be_read_where_there_is_one(studio):
    write_run(studio.runs.root / "odd", **{"config.json": b"[]", "state.json": json.dumps({**STATE, "created": 5e9}).encode()})
    assert [view.name for view in studio.runs.list()] == ["odd", "good"] and newest(studio) == "good"
    studio.delete_run("good")
    assert newest(studio) == "odd"


def test_a_damaged_run_is_refused_in_its_own_words_and_can_be_deleted(studio):
    path = write_run(studio.runs.root / "odd", **{"config.json": b'{"steps": "many"}'})
    for act in (studio.runs.resume, studio.runs.stop):
        with pytest.raises(DamagedFile, match=r"config.json: steps must be a whole number .* but it is 'many'"):
            act("odd")
    studio.delete_run("odd")
    assert not path.exists() and [view.name for view in studio.runs.list()] == ["good"]


def test_a_damaged_run_whose_process_goes_on_keeps_the_device_and_its_folder(studio):
    me = os.getpid()
    state = json.dumps({"trainer": "ddpm", "state": "running", "created": 5.0, "pid": me, "process_start": process_start(me)}).encode()
    write_run(studio.runs.root / "odd", **{"state.json": state, "config.json": b"[]"})
    waiting = write_run(studio.runs.root / "next", **{"state.json": json.dumps({**STATE, "state": "waiting"}).encode()})
    studio.runs.start_due()
    assert read_run(waiting).state == "waiting" and studio.runs.read("odd").busy
    with pytest.raises(StudioError, match="stop it before"):
        studio.runs.delete("odd")


def test_a_line_that_makes_no_sense_in_the_middle_of_a_long_run_is_told_where_its_curves_are(studio):
    lines = [json.dumps({**STEP, "step": step}).encode() + b"\n" for step in range(200)]
    lines[50] = b'{"step": "fifty"}\n'
    write_run(studio.runs.root / "odd", **{"events.jsonl": b"".join(lines)})
    stage = strict(follow_value(studio, "odd", str))
    assert stage["state"] == "damaged" and "'fifty'" in stage["message"] and stage["curves"]["step"] == []


def test_losses_that_ran_away_are_no_damage(studio):
    lines = [json.dumps({**STEP, "step": step, "loss": loss}).encode() + b"\n" for step, loss in enumerate((1.0, math.nan, math.inf, -math.inf))]
    write_run(studio.runs.root / "odd", **{"events.jsonl": b"".join(lines)})
    assert look_everywhere(studio, "odd")["state"] == "finished"


# --- sampling ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["a list", "null", "cut short", "no text", "nested deep"])
@pytest.mark.parametrize("file", ["model/studio.json", "model/model_index.json", "model/unet/config.json", "model/scheduler/scheduler_config.json"])
def test_sampling_from_a_result_that_cannot_be_read_is_refused_in_a_sentence(studio, tiny_model_folder, file, what):
    path = studio.runs.root / "odd"
    shutil.copytree(tiny_model_folder(), path / "model")
    (path / "state.json").write_text(json.dumps({**STATE, "trainer": "ddpm"}))
    (path / "model" / file.removeprefix("model/")).write_bytes(TOP_LEVEL[what])
    options = SampleOptions(model=str(path / "model"), num_steps=1)
    if "model_index" in file:
        assert list(studio.sample(options)), "a pixel model can be read without"
        return
    with pytest.raises((ModelUnavailable, DamagedFile)):
        list(studio.sample(options))


@pytest.mark.parametrize("entry", [
    ("schedule", "[]"), ("schedule", '"wavy"'), ("num_timesteps", '"many"'), ("mean_type", "7"), ("class_names", '"abc"'), ("class_names", "[1]"),
])
def test_facts_of_a_result_that_make_no_sense_are_named(studio, tiny_model_folder, entry):
    path, (name, junk) = studio.runs.root / "odd", entry
    shutil.copytree(tiny_model_folder(), path / "model")
    facts = json.loads((path / "model" / "studio.json").read_text())
    (path / "model" / "studio.json").write_bytes(with_entry(facts, name, junk))
    with pytest.raises(DamagedFile, match=f"studio.json: {name}"):
        list(studio.sample(SampleOptions(model=str(path / "model"), num_steps=1)))


def test_what_was_taught_to_itself_is_refused_and_not_gone_round_for_ever(studio):
    path = studio.runs.root / "odd" / "model"
    write_run(path.parent, **{"model/studio.json": json.dumps({"kind": "lora", "base": str(path)}).encode()})
    assert str(path) not in studio.models
    with pytest.raises(ModelUnavailable, match="itself taught"):
        list(studio.sample(SampleOptions(model=str(path), num_steps=1)))
