"""OPEN, each as it was done, with and without --public."""

import json
from uuid import uuid4

import pytest

from tests.hostile.files import png, reference

# --- 2: a request for all memory ------------------------------------------------------------------------------

def test_a_picture_too_large_for_the_memory_is_refused_in_numbers(app):
    sample = app.named("sample")
    answer = app.queued(sample, sample.values(width=4096, height=4096, num_steps=1))
    assert answer.sentence and any(figure in answer.text for figure in ("GiB", "pixel")), answer.text[:300]
    assert app.alive() and not app.killed_for_memory


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


# --- 10: signing in -------------------------------------------------------------------------------------------

def test_guesses_of_a_password_are_slowed_down(tmp_path):
    from tests.hostile.served import served

    users = tmp_path / "users.txt"
    users.write_text("ada:correct horse\n")
    with served(tmp_path / "app", "--auth-file", str(users)) as app:
        for i in range(300):
            answer = app.post("/login", data={"username": "ada", "password": f"guess {i}"})
            if answer.status == 429:
                break
        right = app.post("/login", data={"username": "ada", "password": "correct horse"})
        assert right.status != 200, "The right password was taken at once after 300 wrong ones."
        assert "password" in app.log().lower()  # plain passwords are warned of


# --- 12: mistakes of a program that calls ---------------------------------------------------------------------

MISTAKES = {
    "a text for a number": "abc", "a list for a name": ["x"], "an object": {"a": 1}, "a name of 300 characters": "x" * 300,
    "5,000 digits": "ddim" + "9" * 5000, "a number for a name": 7, "none": None, "true": True, "infinite": float("inf"), "not a number": float("nan"),
    "huge": 10**300,
}


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
    for handler in [handler for handler in app.handlers() if handler.public]:
        for words, values in spoilt(handler):
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
