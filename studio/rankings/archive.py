"""Zip files and folders of rankings, read with suspicion: no path leads out of them, nothing is unpacked that is larger than it may be."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from studio.errors import BadImage, BadRunFile, InvalidOption
from studio.media.uploads import MAX_BYTES

__all__ = ["Archive", "opened_archive"]

MAX_MEMBERS = 200_000
MAX_TABLE = 256 * 2**20
# All that an archive may hold once it is unpacked.
MAX_TOTAL = 4 * 2**30
# What Python's zip files raise when they are damaged, locked by a password (RuntimeError), or packed in a way that it does not know (NotImplementedError).
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)


class Archive:
    """Files by their names, of a zip file or of a folder.

    Args:
        source: a zip file, a folder, or a single file that stands for a folder with nothing else in it.
    """

    def __init__(self, source: Path, zipped: zipfile.ZipFile | None) -> None:
        self.source, self.zipped = source, zipped

    def names(self) -> list[str]:
        """The names of the files, with / between folders."""
        if self.zipped is not None:
            return [info.filename for info in self.zipped.infolist() if not info.is_dir()]
        if self.source.is_file():
            return [self.source.name]
        return [path.relative_to(self.source).as_posix() for path in sorted(self.source.rglob("*")) if path.is_file()]

    def find(self, *suffixes: str) -> str:
        """The one file that ends like this. Raises BadRunFile where there is none, or more than one."""
        found = [name for name in self.names() if name.endswith(suffixes) and "/__MACOSX/" not in f"/{name}"]
        if len(found) != 1:
            what = " or ".join(suffixes)
            named = f": {', '.join(found[:3])}" if found else ""
            raise BadRunFile(f"There must be one file of the kind {what} with the rankings, but there are {len(found)}{named}.")
        return found[0]

    def table(self, name: str) -> bytes:
        """A file with rankings. Raises BadRunFile."""
        return self._read(name, MAX_TABLE, "rankings")

    def picture(self, name: object) -> bytes:
        """A picture by its path in the archive. Raises BadImage where there is none, or its path leads elsewhere."""
        if not isinstance(name, str) or not name or "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BadImage(f"{str(name)[:80]!r} is no path to a picture inside the import: absolute paths, and paths that climb, are not read.")
        try:
            return self._read(name, MAX_BYTES, "a picture")
        except BadRunFile as error:
            raise BadImage(str(error)) from error

    def _read(self, name: str, most: int, what: str) -> bytes:
        try:
            content = self._bytes(name, most)
        except (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError):  # before the others, which they are kinds of
            raise BadRunFile(f"{name[:80]!r} is missing from the import; put it beside the file with the rankings, or into the zip file.") from None
        except OSError as error:
            raise BadRunFile(f"{name[:80]!r} cannot be read: {error.strerror or 'it is damaged'}.") from error
        except UNREADABLE as error:
            raise BadRunFile(f"{name[:80]!r} cannot be read: it is damaged or locked by a password.") from error
        if len(content) > most:
            raise BadRunFile(f"{name[:80]!r} has more than {most // 2**20} MiB, which {what} may not have.")
        return content

    def _bytes(self, name: str, most: int) -> bytes:
        if self.zipped is not None:
            with self.zipped.open(name) as file:
                return file.read(most + 1)
        folder = self.source if self.source.is_dir() else self.source.parent
        path = self.source if self.source.is_file() and name == self.source.name else folder / name
        # A link in a folder may lead anywhere.
        if not path.resolve().is_relative_to(folder.resolve()):
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            return file.read(most + 1)


@contextmanager
def opened_archive(source: str | Path) -> Iterator[Archive]:
    """A zip file, a folder or a single file. Raises BadRunFile, InvalidOption."""
    path = Path(source)
    if not path.exists():
        raise InvalidOption(f"There is no file or folder {path.name!r}.")
    if not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise BadRunFile(f"{path.name} is no zip file, or it is cut short; make it again.")
        yield Archive(path, None)
        return
    try:
        zipped = zipfile.ZipFile(path)
    except (OSError, *UNREADABLE) as error:
        raise BadRunFile(f"{path.name} is a damaged zip file; make it again.") from error
    with zipped:
        check_sizes(zipped)
        yield Archive(path, zipped)


def check_sizes(zipped: zipfile.ZipFile) -> None:
    """Refuse what would be more than anybody exports, before any of it is unpacked. Raises BadRunFile."""
    infos = zipped.infolist()
    total = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or total > MAX_TOTAL:
        raise BadRunFile(
            f"The zip file holds {len(infos):,} files of {total / 2**30:.1f} GiB in all, and at most {MAX_MEMBERS:,} of {MAX_TOTAL // 2**30} GiB are read; "
            "import it in parts."
        )
