"""The vocabulary of CLIP's tokenizers, which follows from its merges."""

from collections.abc import Iterable

__all__ = ["END", "START", "read_merges", "vocabulary_of"]

START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary_of(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """{piece: id}: bytes inside a word, bytes that end one, what the merges make, and the two marks: the layout of CLIP's own (arXiv:2103.00020)."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def read_merges(text: str) -> list[tuple[str, str]]:
    """The pairs of a merges.txt, in their order; its first line is a comment."""
    return [(first, second) for first, _, second in (line.partition(" ") for line in text.split("\n")[1:]) if second]
