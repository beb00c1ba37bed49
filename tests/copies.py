"""Processes that begin as copies of one which has imported what they need, so that not each of them loads torch anew.

The first of them costs what it costs to import; further ones, of any test in the same process, nearly nothing. What a program
does from its first import on is for a test that starts a true one.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

__all__ = ["Copy", "copies", "in_a_copy"]

WITHIN_S = 120
LOADED = [
    "accelerate", "alembic.command", "diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.unets.unet_2d", "studio.rankings.submitting",
    "diffusers.models.unets.unet_2d_condition", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite", "torch._dynamo", "trainers.dreambooth", "transformers.models.clip.modeling_clip",
]


def copies() -> Any:
    """The context of multiprocessing whose processes are such copies. Their environment is that in which the first was started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def in_a_copy(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of a module gives in a copy of its own. Raises EOFError where it ends without an answer."""
    context = copies()
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, args, said), daemon=True)
    process.start()
    said.close()
    try:
        return heard.recv()
    finally:
        process.join(WITHIN_S)


def _answer(function: Callable[..., Any], args: Sequence[Any], said: Any) -> None:
    said.send(function(*args))


class Copy:
    """Stands in for subprocess.Popen of `python -m module ...` that writes to a log."""

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], cwd: os.PathLike[str], env: Mapping[str, str], **_: Any):
        assert list(command[:2]) == [sys.executable, "-m"]
        self._process = copies().Process(target=_run_module, args=(list(command[2:]), stdout.name, cwd, dict(env)), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a copy", timeout)
        return self._process.exitcode


def _run_module(words: list[str], log: str, cwd: os.PathLike[str], env: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
