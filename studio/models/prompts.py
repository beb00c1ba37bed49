"""Words into what the network is told: tokens, their ids, and the text encoder's states.

    prompt -> tokenizer -> ids (L, padded or cut to the encoder's limit) -> text encoder -> states (L, D)

The last hidden state of CLIP's text tower is the condition (Rombach et al. 2022, arXiv:2112.10752, section 3.3).
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.errors import InvalidOption

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

__all__ = ["Encoded", "PromptEncoder", "Token", "Tokens", "penultimate", "tokenize"]

EMBEDDINGS_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class Token:
    """One place of the text encoder's input.

    text: the piece as the tokenizer knows it, without its end-of-word mark. word: 0, 1, ... the word of the prompt that
    it belongs to, None for the marks of start, end and padding.
    """

    id: int
    text: str
    word: int | None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A prompt as the tokenizer sees it.

    tokens: as many as the encoder takes. words: the prompt's words, joined from their pieces. cut_off: the text beyond
    the limit, "" where all of it fits. limit: places in all, start and end marks among them.
    """

    tokens: tuple[Token, ...]
    words: tuple[str, ...]
    cut_off: str
    limit: int


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

    def encode(self, text: str, device: "torch.device | None" = None) -> "Tensor":
        """(1, L, D) states of a text, in the encoder's dtype, on `device` (default: where the encoder lies)."""
        return self.encoded(text, device).states

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

    def encode_afresh(self, text: str, device: "torch.device") -> Encoded:
        """As `encoded`, by the text encoder itself whatever is kept."""
        import torch

        with self._tokenizing:
            inputs = tokenize(self.tokenizer, text, self.limit)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = inputs.attention_mask.to(device) if masked else None
        # no_grad, not inference mode: CLIP guidance takes gradients of what is computed from these.
        with torch.no_grad():
            return Encoded(self.text_encoder(inputs.input_ids.to(device), attention_mask=mask)[0])

    def ids(self, text: str, tokenizer: Any = None, places: int | None = None) -> "Tensor":
        """(1, L) ids of a text, padded or cut to `places`: the encoder's limit unless told."""
        with self._tokenizing:
            return tokenize(tokenizer or self.tokenizer, text, places or self.limit).input_ids

    def embedding(self, text: str) -> "np.ndarray":
        """(L, D) float32: the states of a text, to look at."""
        return self.encode(text)[0].float().cpu().numpy()

    def tokens(self, text: str) -> Tokens:
        """The text as the encoder is given it, and what did not fit."""
        with self._tokenizing:
            ids = self.tokenizer(text, padding="max_length", max_length=self.limit, truncation=True).input_ids
            whole = self.tokenizer(text).input_ids
        cut_off = self.tokenizer.decode(whole[self.limit - 1 : -1]).strip() if len(whole) > self.limit else ""
        tokens = self._grouped(ids, num_pieces=min(len(whole), self.limit) - 2)
        words: dict[int, str] = {}
        for token in tokens:
            if token.word is not None:
                words[token.word] = words.get(token.word, "") + token.text
        return Tokens(tokens=tokens, words=tuple(words.values()), cut_off=cut_off, limit=self.limit)

    def _grouped(self, ids: list[int], num_pieces: int) -> tuple[Token, ...]:
        """Tokens with the number of their word; the start mark is first, `num_pieces` pieces follow."""
        tokens, word = [], 0
        for place, (id_, piece) in enumerate(zip(ids, self.tokenizer.convert_ids_to_tokens(ids))):
            if not 1 <= place <= num_pieces:
                tokens.append(Token(id=id_, text=piece, word=None))
                continue
            tokens.append(Token(id=id_, text=piece.removesuffix("</w>"), word=word))
            word += piece.endswith("</w>")
        return tuple(tokens)


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
