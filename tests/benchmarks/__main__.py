"""Measure, side by side in one run, and print ratios: `make bench`, or `python -m tests.benchmarks [name ...]`.

    sampling    our loop with everything recorded against diffusers' own pipelines: same model, steps, seed
    latent      the same for text to image, against StableDiffusionPipeline
    foretelling what a run takes, as foretold and as a process took it; and what foretelling costs
    control     controlled runs against StableDiffusionControlNetPipeline, a training step against a plain one, Canny in the page
    training    a step of the trainers of autoencoders and of text to image against plain ones
    dreambooth  our DreamBooth step, with caches and without, against a plain one
    killing     a run killed twenty times against one left alone: identical weights?
    acknowledging   the app killed two hundred times while two clients submit rankings: is what was acknowledged there, once?
    scrubbing   a step change of the stage in Chromium
    ranking     a database of 100,000 rankings, on SQLite and on PostgreSQL: next task, submission, agreement, export
    refl        an update of ReFL against the released loop: time and memory, gradient checkpointing off and on
    rewards     scoring in a batch against one at a time; a reward's head alone against all of it
    pressing    from a press to the first x0_hat and to Done in Chromium, beside the bare loop
    answering   from Enter to the next task drawn, and from a threshold of Canny to the new edges, in Chromium
    starting    `import studio`, and the page against a bare Gradio page
"""

import sys
from importlib import import_module

BENCHMARKS = (
    "sampling", "latent", "foretelling", "control", "training", "dreambooth", "killing", "acknowledging", "scrubbing", "pressing", "answering", "ranking",
    "refl", "rewards", "starting",
)


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n## {name}", flush=True)
        import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
