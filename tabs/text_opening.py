"""Records the run that "Text to image" opens with: python -m tabs.text_opening"""

import argparse
import json

from studio import SampleOptions, Studio
from tabs.text_to_image import FIRST_PROMPT, OPENING, record


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a picture and keep the run as the tab shows it.")
    parser.add_argument("--model", default="toybox-sd", help="a text-to-image model (default: toybox-sd)")
    parser.add_argument("--prompt", default=FIRST_PROMPT, help=f"what it is to show (default: {FIRST_PROMPT!r})")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    asked = parser.parse_args()
    options = SampleOptions(model=asked.model, prompt=asked.prompt, seed=asked.seed, num_steps=25, guidance_scale=4.0, record_attention=True)
    OPENING.write_text(json.dumps(record(Studio(), options)), "utf-8")
    print(f"{OPENING}: {OPENING.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
