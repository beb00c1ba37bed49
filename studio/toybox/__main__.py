"""Draws pictures of the toy world:

    python -m studio.toybox docs/toybox.png                               the sheet of the documentation
    python -m studio.toybox cat.png --caption "a cat above a red car"     a scene that a caption describes, with its ground truth
    python -m studio.toybox scene.png --scene scene.json                  a scene from its file
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from studio.errors import StudioError
from studio.toybox import AnyScene, Scene, imagine, scene_from_json, scene_sheet

CUP = Scene(object="cup", colour="orange", background="purple", size="large", angle=-5.0)


def main(argv: list[str] | None = None) -> None:
    """The command line; what the world cannot hold ends it with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m studio.toybox", description="Draw pictures of the toy world.")
    parser.add_argument("output", metavar="FILE.png")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--caption", help="what the picture shows")
    asked.add_argument("--scene", metavar="FILE.json", help="a scene file")
    parser.add_argument("--seed", type=int, default=0, help="of what the caption leaves unsaid")
    args = parser.parse_args(argv)
    try:
        scene = _asked_scene(args)
    except (StudioError, OSError) as error:
        sys.exit(str(error))
    sheet = scene_sheet(truth=CUP) if scene is None else scene_sheet([scene], truth=scene)
    sheet.save(args.output, optimize=True)


def _asked_scene(args: argparse.Namespace) -> AnyScene | None:
    if args.scene:
        return scene_from_json(Path(args.scene).read_text())
    return imagine(args.caption, np.random.default_rng(args.seed)) if args.caption is not None else None


if __name__ == "__main__":
    main()
