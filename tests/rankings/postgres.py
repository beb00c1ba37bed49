"""A PostgreSQL of the tests' own: made in a folder, listening on 127.0.0.1 alone, gone with the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """Where initdb and pg_ctl are, None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(path) for path in [shutil.which("initdb")] if path]
    return found[-1].parent if found else None


@contextmanager
def cluster(bin: Path) -> Iterator[str]:
    """The address of a server that runs inside the block, in a folder of its own."""
    # As root it refuses to run: then it is run as the user that Debian's package has made.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        if as_user:
            shutil.chown(name, "postgres")

        def run(program: str, *args: str) -> None:
            subprocess.run([*as_user, str(bin / program), *args], cwd=name, check=True, stdout=subprocess.DEVNULL, timeout=60)

        run("initdb", "-D", f"{name}/data", "-U", "studio", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # What the machine itself would lose in a power cut is no matter here: a program that is killed loses nothing by these.
        quick = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={name} -c max_connections=60 {quick}"
        run("pg_ctl", "-D", f"{name}/data", "-o", settings, "-l", f"{name}/log", "-w", "start")
        try:
            yield f"postgresql://studio@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", f"{name}/data", "-m", "immediate", "-w", "stop")
