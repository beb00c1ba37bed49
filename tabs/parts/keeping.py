"""What is kept of a run as files: its pictures, films of it, a contact sheet, the run itself."""

import re
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.models.device import Waiting
from studio.options import SampleOptions
from studio.sampling.export import contact_sheet, save_gif, save_mp4, save_png
from tabs.parts.filmstrip import each_alone
from tabs.parts.turns import waiting_line

if TYPE_CHECKING:
    from studio.sampling.trajectory import Trajectory

__all__ = ["KEEPERS", "FILMS", "STREAMS", "DOWNLOAD", "save_pictures", "told"]

STREAMS = ("x_t", "x0_hat", "both")
# What is made of decoded pictures where the run is of latents.
FILMS = ("gif", "mp4", "sheet")

DOWNLOAD = """(file) => {
  if (!file || !file.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name || "";
  link.click();
}"""


def save_pictures(trajectory: "Trajectory", folder: Path) -> list[Path]:
    """The pictures as PNG files, each with the options that make it alone; a stopped run gives its last belief."""
    alone = each_alone(trajectory.options)
    return [save_png(image, folder / f"{file_stem(one)}.png", one, alone=True) for image, one in zip(trajectory.images, alone)]


def file_stem(options: SampleOptions) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{Path(options.model).name}-{options.scheduler}-seed{options.seed}")


def keep_gif(trajectory: "Trajectory", stream: str, folder: Path) -> Path:
    return save_gif(trajectory, stream, folder / f"{file_stem(trajectory.options)}-{stream}.gif")


def keep_mp4(trajectory: "Trajectory", stream: str, folder: Path) -> Path:
    return save_mp4(trajectory, stream, folder / f"{file_stem(trajectory.options)}-{stream}.mp4")


def keep_sheet(trajectory: "Trajectory", stream: str, folder: Path) -> Path:
    return save_png(contact_sheet(trajectory, stream), folder / f"{file_stem(trajectory.options)}-{stream}-sheet.png", trajectory.options)


def keep_png(trajectory: "Trajectory", stream: str, folder: Path) -> Path:
    """One picture as it is, several in one zip file."""
    paths = save_pictures(trajectory, folder)
    if len(paths) == 1:
        return paths[0]
    archive = folder / f"{file_stem(trajectory.options)}-pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, path.name)
    return archive


def keep_run(trajectory: "Trajectory", stream: str, folder: Path) -> Path:
    return trajectory.save(folder / f"{file_stem(trajectory.options)}.safetensors")


KEEPERS: dict[str, tuple[str, Callable[["Trajectory", str, Path], Path]]] = {
    "gif": ("GIF", keep_gif), "mp4": ("MP4", keep_mp4), "sheet": ("Contact sheet", keep_sheet), "png": ("PNG", keep_png), "run": ("Run file", keep_run),
}


def told(decoding: Generator[tuple[int, int] | Waiting, None, "Trajectory"], status: Any) -> Generator[dict[Any, Any], None, "Trajectory"]:
    """Say how far the decoding of a run is; gives the decoded run."""
    while True:
        try:
            event = next(decoding)
        except StopIteration as end:
            return end.value
        if isinstance(event, Waiting):
            yield {status: waiting_line(event)}
        elif event[0] % 5 == 0:
            yield {status: f"Decoding step {event[0] + 1} of {event[1]} for the film."}
