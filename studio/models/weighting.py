"""Prompts as AUTOMATIC1111 writes them: weights in brackets, and prompts longer than the text encoder takes at once.

    (word)      1.1 times        [word]  1 / 1.1 times        (word:1.3)  1.3 times        \\( \\[ \\) \\]  the brackets themselves
    BREAK       goes on in a new chunk

Brackets may stand within each other; their weights are multiplied. A prompt is cut into chunks of as many tokens as the
encoder takes, each with its marks of start and end; a chunk that would end within a few tokens of a comma ends there.
The chunks' states stand one after the other, each token's times its weight, and each chunk brought back to its mean:

    z' = w z,    z'' = z' mean(z) / mean(z')
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Chunk", "Piece", "chunked", "parse_weights", "plain_text", "read_chunks"]

UP, DOWN = 1.1, 1 / 1.1
# A chunk ends at a comma that is at most so many tokens back.
BACK_TO_COMMA = 20
MAX_WEIGHT = 10.0
MARK = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token of a prompt. word: 0, 1, ... the word that it belongs to; weight: what its states are multiplied by."""

    id: int
    text: str
    word: int
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What goes through the text encoder at once. ids, weights: one a place, marks and padding among them; pieces: the tokens between the marks."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    pieces: tuple[Piece, ...]


# A text of a prompt with its weight; None in place of the text: a new chunk begins.
Part = tuple[str | None, float]


def parse_weights(text: str) -> list[Part]:
    """The texts of a prompt with their weights, in order. Neighbours of one weight are one text; brackets that are never closed count to the end."""
    found: list[list[Any]] = []
    round_, square = [], []

    def multiply(start: int, factor: float) -> None:
        for part in found[start:]:
            part[1] *= factor

    for match in MARK.finditer(text):
        mark, weight = match[0], match[1]
        if len(mark) > 1 and mark[0] == "\\":
            found.append([mark[1:], 1.0])
        elif mark == "(":
            round_.append(len(found))
        elif mark == "[":
            square.append(len(found))
        elif weight is not None and round_:
            multiply(round_.pop(), max(-MAX_WEIGHT, min(MAX_WEIGHT, float(weight))))
        elif mark == ")" and round_:
            multiply(round_.pop(), UP)
        elif mark == "]" and square:
            multiply(square.pop(), DOWN)
        else:
            for i, part in enumerate(BREAK.split(mark)):
                found += ([[None, 1.0]] if i else []) + [[part, 1.0]]
    for start in (*round_, *square):
        multiply(start, UP if start in round_ else DOWN)
    return _joined(found)


def _joined(parts: Sequence[Sequence[Any]]) -> list[Part]:
    joined: list[Part] = []
    for text, weight in parts:
        last = joined[-1] if joined else (None, 1.0)
        if text and last[0] is not None and last[1] == weight:
            joined[-1] = last[0] + text, weight
        elif text != "":
            joined.append((text, weight))
    return joined


def plain_text(text: str) -> str:
    """The words of a prompt without its brackets and weights, for whatever reads no weights."""
    return "".join(" " if part is None else part for part, _ in parse_weights(text))


# --- chunks --------------------------------------------------------------------------------------------------

def chunked(tokenizer: Any, text: str, places: int, least: int = 1) -> list[Chunk]:
    """The prompt as chunks of `places` tokens, the marks of start and end among them; `least`: at least so many, empty ones at the end."""
    room = places - 2
    rows: list[list[Piece]] = [[]]
    for pieces in _tokenized(tokenizer, text):
        if pieces is None:
            rows.append([])
        for piece in pieces or ():
            rows[-1].append(piece)
            if len(rows[-1]) > room:
                rows[-1:] = _cut(rows[-1], room)
    rows += [[] for _ in range(least - len(rows))]
    return [_chunk(tokenizer, row, places) for row in rows]


def _cut(row: list[Piece], room: int) -> list[list[Piece]]:
    """A row that is one too long as two: after its last comma, where there is one near its end, else where it is full."""
    commas = [i for i, piece in enumerate(row[:room]) if piece.text == "," and i + 1 >= room - BACK_TO_COMMA and i + 1 > room // 2]
    end = commas[-1] + 1 if commas else room
    return [row[:end], row[end:]]


def _tokenized(tokenizer: Any, text: str) -> Iterator[list[Piece] | None]:
    """The pieces of each text; None where a new chunk begins."""
    word = 0
    for part, weight in parse_weights(text):
        if part is None:
            yield None
            continue
        pieces: list[Piece] = []
        ids = tokenizer(part, add_special_tokens=False, truncation=False, verbose=False).input_ids
        for id_, token in zip(ids, tokenizer.convert_ids_to_tokens(ids)):
            added = id_ in tokenizer.added_tokens_decoder
            for vector, piece in _vectors(tokenizer, id_, token) if added else ((id_, token),):
                pieces.append(Piece(id=vector, text=piece.removesuffix("</w>"), word=word, weight=weight))
            # A word that was added to the tokenizer stands whole, with no mark of its end.
            word += added or token.endswith("</w>")
        yield pieces


def _vectors(tokenizer: Any, id_: int, token: str) -> Iterator[tuple[int, str]]:
    """An embedding of several vectors is several tokens: word, word_1, word_2, ..."""
    known = tokenizer.added_tokens_encoder
    yield id_, token
    for number in count(1):
        if (more := f"{token}_{number}") not in known:
            return
        yield known[more], more


def _chunk(tokenizer: Any, row: Sequence[Piece], places: int) -> Chunk:
    padding = places - 2 - len(row)
    ids = (tokenizer.bos_token_id, *(piece.id for piece in row), tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding)
    return Chunk(ids=ids, weights=(1.0, *(piece.weight for piece in row), *[1.0] * (padding + 1)), pieces=tuple(row))


def read_chunks(
    run: "Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]", chunks: Sequence[Chunk], device: "torch.device",
) -> "tuple[Tensor, Tensor | None]":
    """(states (1, N L, D), pooled (1, P) of the first chunk or None) of N chunks.

    run: gives states (N, L, D) and pooled (N, P) or None of ids (N, L) and of a mask (N, L) that is 1 up to the mark of the end.
    """
    import torch

    ids = torch.tensor([chunk.ids for chunk in chunks], device=device)
    used = torch.tensor([len(chunk.pieces) + 2 for chunk in chunks], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < used[:, None]).to(ids.dtype)
    states, pooled = run(ids, mask)
    weights = torch.tensor([chunk.weights for chunk in chunks], device=states.device)
    if bool((weights != 1).any()):
        weighted = states.float() * weights[..., None]
        mean, now = (z.float().mean(dim=(1, 2), keepdim=True) for z in (states, weighted))
        states = (weighted * torch.where(now.abs() > 1e-8, mean / now, torch.ones_like(now))).to(states.dtype)
    return states.flatten(0, 1)[None], None if pooled is None else pooled[:1]
