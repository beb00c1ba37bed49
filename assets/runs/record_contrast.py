"""Records the training that "One step or many?" opens with: python -m assets.runs.record_contrast"""

import argparse
import json

from studio.runs.trainers.contrast import ContrastOptions
from tabs.contrast import OPENING, record
from trainers.contrast import train_contrast

NUM_STEPS = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description="Train both networks and keep the training as the tab shows it.")
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS, help=f"updates of each network (default: {NUM_STEPS})")
    options = ContrastOptions(num_steps=parser.parse_args().num_steps)
    OPENING.write_text(json.dumps(record(train_contrast(options), options.sample_steps)), "utf-8")
    print(f"{OPENING}: {OPENING.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
