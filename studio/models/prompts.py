"""Words into what the network is told: tokens, their ids, and the text encoder's states.

    prompt -> tokenizer -> ids (L, padded or cut to the encoder's limit) -> text encoder -> states (L, D)

The last hidden state of CLIP's text tower is the condition (Rombach et al. 2022, arXiv:2112.10752, section 3.3).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.conditions import AS_TRAINED, TEXT_ENCODERS, TextsTold
from studio.errors import InvalidOption
from studio.models.weighting import Chunk, chunked, read_chunks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from studio.options import SampleOptions

__all__ = ["CLIP_G", "CLIP_L", "Encoded", "PromptEncoder", "Reading", "Token", "Tokens", "as_array", "penultimate", "tokenize"]

EMBEDDINGS_KEPT = 64
# As studio.conditions calls the encoders.
CLIP_L, CLIP_G = (label for label, _ in TEXT_ENCODERS[:2])


@dataclass(frozen=True, kw_only=True)
class Token:
    """One place of the text encoder's input.

    text: the piece as the tokenizer knows it, without its end-of-word mark. word: 0, 1, ... the word of the prompt that
    it belongs to, None for the marks of start, end and padding. weight: what its states are multiplied by.
    """

    id: int
    text: str
    word: int | None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A prompt as the tokenizer sees it.

    tokens: of all chunks, one after the other. words: the prompt's words, joined from their pieces. cut_off: the text that no
    encoder reads, "" where all of it is read. limit: places of a chunk, start and end marks among them. begins: whether each
    chunk begins with a mark.
    """

    tokens: tuple[Token, ...]
    words: tuple[str, ...]
    cut_off: str
    limit: int
    begins: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What one text encoder makes of a prompt.

    encoder: its name. tokens: of its own tokenizer. states: (L, D) float32, what the network is told, a row a token; pooled:
    (P,) float32 of the whole prompt, where the network is told that too. note: in a sentence, why the network is told zeros in place of them.
    """

    encoder: str
    tokens: Tokens | None = None
    states: "np.ndarray | None" = None
    pooled: "np.ndarray | None" = None
    note: str = ""


class Encoded(NamedTuple):
    """A text as a network is told it. states: (1, L, D); pooled: (1, P), None where the family has no such vector."""

    states: "Tensor"
    pooled: "Tensor | None" = None


class PromptEncoder:
    """A tokenizer and a text encoder; the embeddings asked for last are kept, so a new seed encodes nothing again."""

    def __init__(self, tokenizer: Any, text_encoder: Any):
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self._kept: OrderedDict[Any, Encoded] = OrderedDict()
        self._lock = threading.Lock()
        # A call sets padding and truncation on the tokenizer itself, so two calls at once would take each other's.
        self._tokenizing = threading.Lock()

    @property
    def limit(self) -> int:
        """Places in the encoder's input."""
        # Some tokenizers say no limit (1e30); the encoder's positions are the truth.
        return min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))

    def encode(self, text: str, device: "torch.device | None" = None, **how: Any) -> "Tensor":
        """(1, L, D) states of a text, in the encoder's dtype, on `device` (default: where the encoder lies)."""
        return self.encoded(text, device, **how).states

    def encoded(self, text: str, device: "torch.device | None" = None, **how: Any) -> Encoded:
        """All that a network is told of a text. how: what else `encode_afresh` of a family can be told."""
        device, key = device or self.text_encoder.device, (text, *sorted(how.items()))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self.encode_afresh(text, device, **how)
            self._kept.move_to_end(key)
            while len(self._kept) > EMBEDDINGS_KEPT:
                self._kept.popitem(last=False)
            states, pooled = self._kept[key]
            return Encoded(states.to(device), None if pooled is None else pooled.to(device))

    def encode_afresh(self, text: str, device: "torch.device", *, chunks: int = 1) -> Encoded:
        """As `encoded`, by the text encoder itself whatever is kept. chunks: at least so many of `limit` places."""
        import torch

        masked = getattr(self.text_encoder.config, "use_attention_mask", False)

        def run(ids: "Tensor", mask: "Tensor") -> "tuple[Tensor, None]":
            # no_grad, not inference mode: CLIP guidance takes gradients of what is computed from these.
            with torch.no_grad():
                return self.text_encoder(ids, attention_mask=mask if masked else None)[0], None

        return Encoded(*self.read(text, device, run, chunks=chunks))

    def read(
        self, text: str, device: "torch.device", run: "Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]", tokenizer: Any = None, *, chunks: int = 1,
    ) -> "tuple[Tensor, Tensor | None]":
        """What an encoder makes of a prompt with its weights, chunk by chunk: see studio.models.weighting.read_chunks."""
        return read_chunks(run, self.chunks(text, tokenizer, chunks), device)

    def chunks(self, text: str, tokenizer: Any = None, least: int = 1) -> list[Chunk]:
        """The prompt in chunks of `limit` places, with the weights of its tokens."""
        with self._tokenizing:
            return chunked(tokenizer or self.tokenizer, text, self.limit, least)

    def count(self, *texts: str) -> int:
        """How many chunks the longest of these prompts takes: all that a network is told at once must have the same."""
        return max(len(self.chunks(text)) for text in texts)

    def places(self, options: "SampleOptions") -> int:
        """How many of CLIP's tokens a network is told in a run of these options."""
        return self.limit * self.count(options.prompt, options.negative_prompt, options.texts.prompt_2, options.texts.negative_prompt_2)

    def ids(self, text: str, tokenizer: Any = None, places: int | None = None) -> "Tensor":
        """(1, L) ids of a text, padded or cut to `places`: the encoder's limit unless told."""
        with self._tokenizing:
            return tokenize(tokenizer or self.tokenizer, text, places or self.limit).input_ids

    def readings(self, text: str, texts: TextsTold = AS_TRAINED, device: "torch.device | None" = None) -> tuple[Reading, ...]:
        """What each text encoder makes of a prompt, to look at. texts: how they read; device: as in `encode`."""
        return (Reading(encoder="Text encoder", tokens=self.tokens(text), states=as_array(self.encode(text, device))),)

    def tokens(self, text: str, tokenizer: Any = None, least: int = 1) -> Tokens:
        """The text as an encoder is given it, chunk by chunk; tokenizer, least: as in `chunks`."""
        tokens, words = [], dict[int, str]()
        for chunk in self.chunks(text, tokenizer, least):
            with self._tokenizing:
                names = (tokenizer or self.tokenizer).convert_ids_to_tokens(list(chunk.ids))
            for id_, name, piece in zip(chunk.ids, names, (None, *chunk.pieces, *[None] * len(names))):
                tokens.append(Token(id=id_, text=name, word=None) if piece is None else Token(id=id_, text=piece.text, word=piece.word, weight=piece.weight))
            for piece in chunk.pieces:
                words[piece.word] = words.get(piece.word, "") + piece.text
        return Tokens(tokens=tuple(tokens), words=tuple(words.values()), cut_off="", limit=self.limit)


def as_array(states: "Tensor") -> "np.ndarray":
    """The first of a batch as float32."""
    return states[0].float().cpu().numpy()


def tokenize(tokenizer: Any, texts: "str | list[str]", places: int | None = None) -> Any:
    """input_ids and attention_mask, (B, L) int64 each, padded and cut to `places`: the tokenizer's own limit unless told."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=places or tokenizer.model_max_length, return_tensors="pt")


def penultimate(encoder: Any, ids: "Tensor", device: "torch.device", skip: int = 0) -> "tuple[Tensor, Tensor]":
    """(states of the layer before the last (1, L, D), pooled or projected (1, P)) of a CLIP text encoder.

    skip: so many layers earlier. Raises InvalidOption where there are none.
    """
    import torch

    layers = encoder.config.num_hidden_layers
    if skip + 2 > layers + 1:
        raise InvalidOption(f"The text encoder has {layers} layers, so clip_skip can be at most {layers - 1}, but it is {skip}.")

    with torch.no_grad():
        output = encoder(ids.to(device), output_hidden_states=True)
    return output.hidden_states[-(skip + 2)], output[0] if output[0].ndim == 2 else output.pooler_output
