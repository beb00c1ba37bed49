"""Rankings as a data set of the Hub: written with the user's token, read from there, and on a Space kept there from time to time.

A data set holds what an export of the format holds, unpacked: the table of its file, and the pictures beside it where the table has none.
"""

import logging
import os
import re
import threading
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from studio.checks import quoted
from studio.errors import InvalidOption, StudioError
from studio.rankings.formats import export_rankings, format_of, import_rankings
from studio.scratch import passing_folder

if TYPE_CHECKING:
    from studio.rankings.database import Rankings
    from studio.rankings.exchange import Imported

__all__ = ["KEPT_IN", "keep_on_hub", "pull_rankings", "push_rankings"]

logger = logging.getLogger(__name__)
# The data set in which a Space keeps its rankings; its disk is gone with each restart. HF_TOKEN has to be able to write it.
KEPT_IN = "DIFFUSION_STUDIO_RANKINGS_DATASET"
EVERY_S = 300.0
# A data set beyond this is fetched by hand, and imported from its folder.
MOST_BYTES = 4 * 2**30
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push_rankings(rankings: "Rankings", repository: str, token: str, format: str = "parquet", collection: str = "") -> int:
    """Write the rankings to a data set of the Hub, a private one where there was none; gives how many tasks it holds.

    Args:
        repository: owner/name. token: of a user who may write it; "" for the one that is stored on this machine.
    Raises:
        InvalidOption: a name that is none, nothing to write, or what the Hub refuses. UnknownName: no such format.
    """
    from huggingface_hub import HfApi

    require_name(repository)
    with passing_folder() as folder:
        count = export_rankings(rankings, format, folder / "all.zip", collection)
        if not count:
            raise InvalidOption("There are no rankings to write; rank some pictures first.")
        with zipfile.ZipFile(folder / "all.zip") as zipped:
            zipped.extractall(folder / "all")  # just written here, so its names are our own

        def write(api: HfApi) -> None:
            api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
            api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder / "all", commit_message=f"{count} ranked tasks")

        asked(repository, "written", lambda: write(HfApi(token=token or None)))
    return count


def pull_rankings(rankings: "Rankings", repository: str, token: str, format: str = "parquet", collection: str = "imported") -> "Imported":
    """Read a data set of the Hub that holds a format, and add all of it or nothing. The arguments are as above.

    Raises InvalidOption for what cannot be read or is too large, and as imports do for what is in it.
    """
    from huggingface_hub import HfApi, snapshot_download

    require_name(repository)
    format_of(format)
    with passing_folder() as folder:
        def read() -> Any:
            about = HfApi(token=token or None).dataset_info(repository, files_metadata=True)
            size = sum(file.size or 0 for file in about.siblings or ())
            if size > MOST_BYTES:
                raise InvalidOption(
                    f"{repository} has {size / 2**30:.0f} GiB, and {MOST_BYTES / 2**30:.0f} are read at most; fetch what you need, and import the folder."
                )
            return snapshot_download(repository, repo_type="dataset", token=token or None, local_dir=folder / "all", ignore_patterns=["*.py", ".git*"])

        asked(repository, "read", read)
        return import_rankings(rankings, format, folder / "all", collection)


def require_name(repository: str) -> None:
    """Refuse what is no owner/name."""
    if not isinstance(repository, str) or not NAME.fullmatch(repository):
        raise InvalidOption(f"A data set of the Hub is named owner/name, but it is {quoted(repository)}.")


def asked(repository: str, done: str, ask: Callable[[], Any]) -> None:
    """What the Hub does. Raises InvalidOption with what to do where it does not."""
    try:
        ask()
    except StudioError:
        raise
    except Exception as error:  # its client raises many kinds, those of the connection among them
        logger.info("%s could not be %s: %s", repository, done, error)
        raise InvalidOption(f"{repository} could not be {done}; see that there is a network, that the name is right, and that the token allows it.") from error


# --- on a Space ----------------------------------------------------------------------------------------------

def keep_on_hub(rankings: "Rankings", stop: threading.Event | None = None, every_s: float = EVERY_S) -> threading.Thread | None:
    """Write the rankings to the data set of KEPT_IN whenever something was ranked since the last time, in a thread that ends with the process.

    Gives None where that is not set. What the Hub refuses is logged, and tried again the next time.
    """
    repository, stop = os.environ.get(KEPT_IN, ""), stop or threading.Event()
    if not repository:
        return None

    def keep() -> None:
        written = None
        while not stop.wait(every_s):
            try:
                if (now := newest(rankings)) != written and now:
                    push_rankings(rankings, repository, os.environ.get("HF_TOKEN", ""))
                    written = now
            except StudioError as error:
                logger.warning("The rankings were not kept in %s: %s", repository, error)

    thread = threading.Thread(target=keep, name="rankings-on-hub", daemon=True)
    thread.start()
    return thread


def newest(rankings: "Rankings") -> int:
    """The number of the last entry of the history, 0 where there is none."""
    from sqlalchemy import func, select

    from studio.rankings.schema import History

    with rankings.reading() as session:
        return session.scalar(select(func.max(History.id))) or 0
