"""The naive contrast: two networks, the same start, the same data, and what asking once makes of it."""

import gc
import itertools
import math
import threading
import weakref

import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption
from studio.process.diffusion import GaussianDiffusion
from studio.process.schedules import alphas_cumprod, make_betas
from studio.runs.trainers.contrast import ContrastFinished, ContrastOptions, ContrastSamples, ContrastStep
from trainers import contrast
from trainers.contrast import load_digits, measure, train_contrast

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes):
    return ContrastOptions(**{"num_steps": 10, "batch_size": 8, "width": 8, "sample_steps": 3, "num_samples": 4, **changes})


@pytest.fixture(scope="module")
def events():
    return list(train_contrast(tiny()))


# --- the generator's contract --------------------------------------------------------------------------------

def test_ten_updates_give_ten_steps_in_order_and_one_end(events):
    steps = [event for event in events if isinstance(event, ContrastStep)]
    assert [step.index for step in steps] == list(range(10)) and {step.num_steps for step in steps} == {10}
    assert [type(event) for event in events].count(ContrastFinished) == 1 and isinstance(events[-1], ContrastFinished)
    assert events[-1].step == 10


def test_pictures_come_on_the_way_each_of_the_update_before_it(events):
    drawn = [i for i, event in enumerate(events) if isinstance(event, ContrastSamples)]
    assert len(drawn) >= 3
    for i in drawn:
        assert events[i].step == events[i - 1].index + 1
        assert events[i].one_step.shape == events[i].ddpm.shape == (4, 1, 16, 16)


def test_pictures_are_on_the_cpu_and_in_range(events):
    for pictures in (events[-1].one_step, events[-1].ddpm, events[-1].repeated, events[-1].real):
        assert pictures.shape == (4, 1, 16, 16) and pictures.dtype == torch.float32 and pictures.device == CPU
        assert pictures.min() >= -1 and pictures.max() <= 1 and pictures.isfinite().all() and not pictures.requires_grad


def test_speed_and_time_left_are_positive_and_end_at_zero(events):
    steps = [event for event in events if isinstance(event, ContrastStep)]
    assert all(step.samples_per_s > 0 and step.seconds_left >= 0 for step in steps)
    assert steps[-1].seconds_left == 0


def test_events_are_frozen(events):
    with pytest.raises(AttributeError):
        events[0].index = 3
    with pytest.raises(TypeError):
        events[-1].figures["real"] = None


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, again, other = (list(train_contrast(tiny(num_steps=3, seed=seed))) for seed in (1, 1, 2))
    assert losses(first) == losses(again) != losses(other)
    assert torch.equal(first[-1].ddpm, again[-1].ddpm) and torch.equal(first[-1].one_step, again[-1].one_step)


def test_an_update_does_not_depend_on_how_many_follow():
    assert losses(train_contrast(tiny(num_steps=3))) == losses(itertools.islice(only_steps(train_contrast(tiny())), 3))


def only_steps(events):
    return (event for event in events if isinstance(event, ContrastStep))


def losses(events):
    return [(step.loss_one_step, step.loss_ddpm) for step in only_steps(events)]


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(train_contrast(tiny(num_steps=2)))
    assert torch.equal(torch.rand(3), expected)


def test_closing_stops_and_frees_both_networks(monkeypatch):
    networks = []
    make = contrast.make_network
    monkeypatch.setattr(contrast, "make_network", lambda *args: networks.append(weakref.ref(network := make(*args))) or network)
    updates = counted(monkeypatch)
    run = train_contrast(tiny(num_steps=1000))
    next(run), next(run)
    assert len(networks) == 4 and all(network() is not None for network in networks)  # two in training, two averages
    made = len(updates)
    run.close()
    gc.collect()
    assert len(updates) == made and all(network() is None for network in networks)


def test_stop_ends_after_the_current_update_with_pictures_of_what_was_learned():
    stop = threading.Event()
    run = train_contrast(tiny(num_steps=1000), stop)
    next(run), next(run)
    stop.set()
    rest = list(run)
    assert [type(event) for event in rest] == [ContrastSamples] and rest[0].step == 2


def test_stop_before_the_start_trains_nothing():
    stop = threading.Event()
    stop.set()
    assert list(train_contrast(tiny(), stop)) == []


def test_training_leaves_the_number_of_threads_alone():
    torch.set_num_threads(2)
    list(train_contrast(tiny(num_steps=2)))
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2 and later == [2]


def test_closing_ends_the_worker_threads():
    run = train_contrast(tiny())
    next(run)
    assert any(thread.name.startswith("contrast") for thread in threading.enumerate())
    run.close()
    assert not any(thread.name.startswith("contrast") for thread in threading.enumerate())


def counted(monkeypatch):
    updates, update = [], contrast._update
    monkeypatch.setattr(contrast, "_update", lambda *args: updates.append(1) or update(*args))
    return updates


def test_a_budget_in_seconds_counts_training_alone_and_ends(monkeypatch):
    now = itertools.count(0, 0.25)  # every look at the clock is a quarter of a second later
    monkeypatch.setattr(contrast.time, "perf_counter", lambda: next(now))
    run = list(train_contrast(tiny(num_steps=None, seconds=2)))
    steps = list(only_steps(run))
    assert len(steps) == 8 and run[-1].seconds == 2.0  # a quarter of a second for each pair of updates
    assert [step.num_steps for step in steps] == [8] * 8 and [step.seconds_left for step in steps] == [1.75 - 0.25 * i for i in range(8)]


# --- fairness ------------------------------------------------------------------------------------------------

def test_both_networks_start_from_the_same_weights():
    one_step, ddpm = (contrast._make_learner(tiny(), mean_type, CPU) for mean_type in ("sample", "v_prediction"))
    for a, b in zip(one_step.network.parameters(), ddpm.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_both_networks_see_the_same_noisy_pictures(monkeypatch):
    seen, predict = [], GaussianDiffusion.predict
    monkeypatch.setattr(GaussianDiffusion, "predict", lambda self, model, x_t, t: seen.append((x_t.clone(), t.clone())) or predict(self, model, x_t, t))
    next(train_contrast(tiny()))
    (x_a, t_a), (x_b, t_b) = seen
    assert torch.equal(x_a, x_b) and torch.equal(t_a, t_b)


def test_every_batch_spreads_its_noise_levels_over_the_whole_process():
    options = tiny(batch_size=10)
    for _, t, _ in itertools.islice(contrast._batches(load_digits()[0], options), 5):
        assert sorted(t // 100) == list(range(10))


def test_the_losses_are_mean_squares_of_what_each_network_should_have_said(monkeypatch):
    # Networks that answer 0 earn the mean squares of x0 and of v = sqrt(ab) eps - sqrt(1 - ab) x0.
    make = contrast.make_network
    monkeypatch.setattr(contrast, "make_network", lambda *args: silenced(make(*args)))
    first = next(train_contrast(tiny()))
    x0, t, noise = next(contrast._batches(load_digits()[0], tiny()))
    alpha_bar = torch.from_numpy(alphas_cumprod(make_betas("cosine", 1000))).float()[t].reshape(-1, 1, 1, 1)
    v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    assert first.loss_one_step == pytest.approx(float((x0**2).mean()), rel=1e-5)
    assert first.loss_ddpm == pytest.approx(float((v**2).mean()), rel=1e-4)


def silenced(network):
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
    return network


def test_both_losses_fall():
    run = losses(train_contrast(tiny(num_steps=40)))
    for which in (0, 1):
        start, end = (sum(loss[which] for loss in part) / 5 for part in (run[:5], run[-5:]))
        assert end < 0.8 * start


def test_the_average_starts_as_the_network_and_follows_it():
    learner = contrast._make_learner(tiny(), "sample", CPU)
    batch = next(contrast._batches(load_digits()[0], tiny()))
    contrast._update(*batch, 0, 1e-3, learner)
    network, average = (next(part.parameters()) for part in (learner.network, learner.average))
    assert torch.equal(network, average)
    before = average.clone()
    contrast._update(*batch, 1, 1e-3, learner)
    # At index 1 the newest weights count 8/9.
    torch.testing.assert_close(average, before + 8 / 9 * (network - before))


# --- asking --------------------------------------------------------------------------------------------------

def answering(mean_type, answer):
    """A learner whose network always gives `answer`."""
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x_t, timesteps):
            return type("Output", (), {"sample": answer.expand_as(x_t) + 0 * self.weight})

    learner = contrast._make_learner(tiny(), mean_type, CPU)
    return contrast._Learner(learner.network, Constant(), None, learner.diffusion)


def test_asked_once_the_picture_is_the_networks_answer():
    mean = load_digits()[0].mean(dim=0, keepdim=True)
    assert torch.equal(contrast._ask_once(answering("sample", mean), tiny(), 3), mean.expand(3, -1, -1, -1))


def test_asked_often_a_network_that_always_says_the_same_gives_that():
    mean = load_digits()[0].mean(dim=0, keepdim=True)
    torch.testing.assert_close(contrast._ask_often(answering("sample", mean), tiny(), 3), mean.expand(3, -1, -1, -1), atol=1e-5, rtol=0)


def test_picture_i_starts_from_the_same_noise_in_every_batch():
    learner = answering("sample", torch.zeros(1, 1, 16, 16))
    assert torch.equal(contrast._start(learner, tiny(), 2), contrast._start(learner, tiny(), 5)[:2])


# --- data and figures ----------------------------------------------------------------------------------------

def test_the_digits_are_all_there_once_enlarged_and_split():
    training, real = load_digits()
    assert training.shape == (1500, 1, 16, 16) and real.shape == (297, 1, 16, 16)
    both = torch.cat([training, real])
    assert both.min() == -1 and both.max() == 1
    from sklearn.datasets import load_digits as load

    assert float((both + 1).mean() * 8) == pytest.approx(load().images.mean(), rel=0.02)


def test_alike_pictures_have_no_variety_and_copies_no_distance():
    training, _ = load_digits()
    assert measure(training[:1].expand(8, -1, -1, -1), training).variety == pytest.approx(0, abs=1e-6)
    assert measure(training[:8], training).distance == pytest.approx(0, abs=1e-3)


def test_the_average_digit_is_less_sharp_and_less_varied_than_digits():
    training, real = load_digits()
    average, digits = measure(training.mean(dim=0, keepdim=True).expand(64, -1, -1, -1), training), measure(real[:64], training)
    assert average.sharpness < 0.7 * digits.sharpness and average.variety < 1e-3 < digits.variety


def test_figures_agree_with_hand_arithmetic():
    # Two pictures, all -1 and all +1: deviation 1, no edges; the nearest of {-1, 0} is 0 and 1 away.
    flat = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, 16, 16)
    near = torch.tensor([-1.0, 0.0])[:, None, None, None].expand(2, 1, 16, 16)
    figures = measure(flat, near)
    assert (figures.variety, figures.sharpness, figures.distance) == (pytest.approx(1), 0, pytest.approx(0.5))


@pytest.mark.parametrize("nonsense", [
    {"seconds": 0}, {"seconds": 601}, {"seconds": math.nan}, {"num_steps": 0}, {"num_steps": 2.5}, {"batch_size": 0}, {"batch_size": 513},
    {"width": 12}, {"width": 0}, {"width": 72}, {"learning_rate": 0.0}, {"learning_rate": math.inf}, {"sample_steps": 1}, {"sample_steps": 1001},
    {"num_samples": 0}, {"num_samples": 65}, {"seed": -1}, {"seed": True}, {"seed": "0"},
])
def test_nonsense_is_refused_with_its_name_and_value(nonsense):
    (name, value), = nonsense.items()
    with pytest.raises(InvalidOption, match=name) as refusal:
        ContrastOptions(**nonsense)
    assert str(value) in str(refusal.value)


# --- the program ---------------------------------------------------------------------------------------------

def test_the_program_writes_its_comparison_and_prints_the_figures(tmp_path, capsys):
    from trainers.contrast import main

    output = tmp_path / "contrast.png"
    main(["--num-steps", "2", "--batch-size", "8", "--width", "8", "--sample-steps", "3", "--num-samples", "4", "--output", str(output)])
    text = capsys.readouterr().out
    assert "2 updates of each network" in text and "repeated" in text and "variety" in text
    with Image.open(output) as sheet:
        assert sheet.width == 4 * 264  # four panes of at least 240 pixels and their margins
