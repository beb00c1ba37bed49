"""The app, started as `python app.py` starts it, with a watcher on every file, process and connection that it asks for.

    HOSTILE_DATA=/data HOSTILE_REPORT=/report.jsonl python -m tests.hostile.watched --port 40000 --public

Python tells an audit hook of every open, of the changes of folders and files, of processes and of connections
(https://docs.python.org/3/library/audit_events.html). What is not on the list of what the libraries need is written
to the report, one line of JSON a time. Libraries that open files in C or Rust are not heard.
"""

import json
import os
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CANARY = "hostile-canary"

# Reading: the interpreter and its packages, this project, fonts, and what a C library looks up of the system.
READABLE = (
    *{os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))},
    *(str(ROOT / name) for name in ("app.py", "__pycache__", "assets", "studio", "tabs", "trainers", "tests/hostile/watched.py")),
    "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/X11", "/usr/X11R6", "/usr/local/share/fonts",
    *(f"/usr/share/{name}" for name in ("fonts", "zoneinfo", "mime", "misc", "ca-certificates")),
    *(f"/etc/{name}" for name in (
        "fonts", "ssl", "ca-certificates", "mime.types", "httpd/mime.types", "apache/mime.types", "apache2/mime.types", "magic", "hosts", "resolv.conf",
        "nsswitch.conf", "host.conf", "gai.conf", "localtime", "timezone", "os-release", "debian_version", "lsb-release", "ld.so.cache", "ld.so.conf",
        "ld.so.conf.d",
    )),
    "/sys", "/proc", "/dev/null", "/dev/urandom", "/dev/random", "/dev/shm",
)
# What /proc tells of a process that no page needs: its environment, its memory, its open files, its root.
PRIVATE_IN_PROC = {"environ", "mem", "fd", "root", "cwd"}
WRITABLE = ("/dev/null", "/dev/shm")
# Programs that libraries start: film encoding, finding shared libraries, asking for the processor.
PROGRAMS = ("ffmpeg", "ldconfig", "gcc", "cc", "ld", "objdump", "lscpu", "uname", "fc-list")

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READS = {"os.listdir", "os.scandir", "os.chdir", "os.getxattr", "os.listxattr"}
WRITES = {
    "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.rename": 2, "os.link": 2,
    "os.symlink": 2, "os.setxattr": 1, "os.removexattr": 1,
}
STARTS = {"subprocess.Popen": 0, "os.exec": 0, "os.posix_spawn": 0, "os.system": 0, "os.startfile": 0}
NEVER = {"pickle.find_class", "webbrowser.open", "os.forkpty", "pty.spawn"}


class Watch:
    """What is allowed, and where what is not is written down."""

    def __init__(self, data: str, report: int, port: int, training: bool) -> None:
        self.data, self.report, self.port, self.training = os.path.realpath(data), report, port, training
        self._busy = threading.local()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook. What it does itself is not looked at again."""
        if getattr(self._busy, "on", False):
            return
        self._busy.on = True
        try:
            for wrong in self.wrong(event, args):
                os.write(self.report, (json.dumps({"event": event, "what": wrong}) + "\n").encode())
        finally:
            self._busy.on = False

    def wrong(self, event: str, args: tuple[Any, ...]) -> list[str]:
        """What of the event is not allowed, in words."""
        if event == "open":
            return self._paths(args[:1], writes=bool(args[2] & WRITING) if isinstance(args[2], int) else False)
        if event in READS:
            return self._paths(args[:1], writes=False)
        if event in WRITES:
            return self._paths(_in_folders(args, WRITES[event]), writes=True)
        if event in STARTS:
            return self._program(args)
        if event in ("socket.connect", "socket.sendto"):
            return self._address(args[1])
        if event == "socket.getaddrinfo":
            return [] if args[0] in (None, "", "127.0.0.1", "localhost", "0.0.0.0", b"127.0.0.1") else [f"looked up {args[0]!r}"]
        return [repr(args)[:200]] if event in NEVER else []

    def _paths(self, paths: tuple[Any, ...], writes: bool) -> list[str]:
        named = [os.fsdecode(path) for path in paths if isinstance(path, (str, bytes, os.PathLike))]
        return [f"{'wrote' if writes else 'read'} {path}" for path in named if not self._allowed(path, writes)]

    def _allowed(self, path: str, writes: bool) -> bool:
        real = os.path.realpath(path)
        if CANARY in os.path.basename(real):
            return False
        if not writes and (not os.path.exists(real) or real == str(ROOT)):
            return True  # nothing was read; the interpreter looks for modules beside the program
        if _inside(real, self.data) or any(_inside(real, folder) for folder in WRITABLE):
            return True
        if writes or (real.startswith("/proc/") and PRIVATE_IN_PROC & set(real.split("/"))):
            return False
        return any(_inside(real, folder) for folder in READABLE)

    def _program(self, args: tuple[Any, ...]) -> list[str]:
        words = [os.fsdecode(word) for word in args[1]] if len(args) > 1 and isinstance(args[1], (list, tuple)) else [str(args[0])]
        trains = self.training and os.path.realpath(words[0]) == os.path.realpath(sys.executable) and words[1:2] == ["-m"] and "trainers." in words[2]
        return [] if trains or any(os.path.basename(words[0]).startswith(name) for name in PROGRAMS) else [f"started {' '.join(words)[:200]}"]

    def _address(self, address: Any) -> list[str]:
        own = isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost") and address[1] == self.port
        return [] if own or address == 0 else [f"connected to {address!r}"]


def _in_folders(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The `count` paths that an event begins with, each seen from the open folder that the event may end with."""
    folders = args[-count:]
    return tuple(
        os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path)) if isinstance(folder, int) and folder >= 0 else path
        for path, folder in zip(args, folders)
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def main() -> None:
    """Start the app under watch."""
    report = os.open(os.environ["HOSTILE_REPORT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    sys.addaudithook(Watch(os.environ["HOSTILE_DATA"], report, port, training="--public" not in sys.argv))
    sys.path.insert(0, str(ROOT))
    import app

    app.main()


if __name__ == "__main__":
    main()
