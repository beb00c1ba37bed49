"""Draws the toy world's picture of the documentation: `python -m studio.toybox docs/toybox.png`."""

import sys

from studio.toybox import Scene, contact_sheet

CUP = Scene(object="cup", colour="orange", background="purple", size="large", angle=-5.0)

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Say where the sheet goes: python -m studio.toybox FILE.png")
    contact_sheet(truth=CUP).save(sys.argv[1], optimize=True)
