"""One tower: section-type embeddings, a transformer head over all tokens of a document, linear pooling.

Paper: arXiv 2409.12097, model section. Zero-initialised residual branches and the linear map after the
pooling are ours: the untrained tower equals the pooled backbone, so that training starts from E5 and not from
noise (`training.start` says where exactly).

Shapes: B documents, T tokens, D dimensions, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.model.batch import DocumentBatch

HEAD_WIDTH: Final = 32
"""Dimensions of an attention head: 12 heads at the 384 of the small backbone, 24 and 32 at the base and large one."""


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each behind a residual connection that starts at zero."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"model.heads ({heads}) must divide the backbone's dimension ({dim})")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn_in = nn.Linear(dim, ffn)
        self.ffn_out = nn.Linear(ffn, dim)
        self.dropout = nn.Dropout(dropout)
        for last in (self.attention_out, self.ffn_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) token states, (B, T) bool mask -> (B, T, D)."""
        x = x + self.dropout(self._attend(self.attention_norm(x), mask))
        hidden = F.gelu(self.ffn_in(self.ffn_norm(x)))
        return x + self.dropout(self.ffn_out(hidden))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # each (B, H, T, D / H)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        merged = attended.transpose(1, 2).reshape(batch, tokens, dim)
        return self.attention_out(merged)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Pooled:
    """What a tower makes of a batch.

    Attributes:
        vectors: (B, D) float32, L2-normalised; zero for a document without tokens.
        contributions: (B, T, D) float32 parts whose sum over T is `vectors`, or None.
    """

    vectors: Tensor
    contributions: Tensor | None = None


class Tower(nn.Module):
    """Token states of documents to one vector each.

    Args:
        settings: the model's configuration.
        dim: D of the backbone.
    """

    def __init__(self, settings: ModelSettings, dim: int) -> None:
        super().__init__()
        self.settings = settings
        types = len(settings.section_types)
        self.type_embedding = nn.Embedding(types, dim)
        nn.init.zeros_(self.type_embedding.weight)
        self.section_weight = nn.Parameter(torch.zeros(types), requires_grad=settings.learned_section_weights)
        heads, ffn = settings.heads or max(1, dim // HEAD_WIDTH), settings.ffn or 4 * dim
        self.blocks = nn.ModuleList(Block(dim, heads, ffn, settings.dropout) for _ in range(settings.layers))
        self.projection = nn.Linear(dim, dim, bias=False) if settings.projection else None
        if self.projection is not None:
            nn.init.eye_(self.projection.weight)
        self.attention_score = nn.Linear(dim, 1) if settings.pooling == "attention" else None
        if self.attention_score is not None:
            nn.init.zeros_(self.attention_score.weight)
            nn.init.zeros_(self.attention_score.bias)

    def forward(self, batch: DocumentBatch) -> Tensor:
        """(B, D) float32 document vectors, L2-normalised."""
        return self.pool(batch).vectors

    def pool(self, batch: DocumentBatch, *, contributions: bool = False) -> Pooled:
        """Document vectors and, where asked for, the share of each token in them."""
        # Token states come in half precision from the cache; the head computes in its own.
        x = batch.states.to(self.type_embedding.weight.dtype)
        x = x + self.type_embedding(batch.types)
        # A document without tokens attends to its padding: softmax over nothing would be NaN.
        attended = batch.mask | ~batch.mask.any(-1, keepdim=True)
        for block in self.blocks:
            x = block(x, attended)
        weights = self._token_weights(x, batch)  # (B, T)
        with torch.autocast(x.device.type, enabled=False):  # pooling and norm in float32
            weighted = weights.float()[..., None] * x.float()  # (B, T, D)
            summed = self._project(weighted.sum(1))  # (B, D)
            norm = summed.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            return Pooled(summed / norm, self._project(weighted) / norm[:, None] if contributions else None)

    def _project(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D); linear, so it may follow the sum over tokens and explanations stay exact."""
        return x if self.projection is None else F.linear(x, self.projection.weight.float())

    def _token_weights(self, x: Tensor, batch: DocumentBatch) -> Tensor:
        """(B, T) weights that sum to 1: exp(section weight) / section length ** alpha, normalised."""
        logits = self.section_weight[batch.types] - self.settings.alpha * batch.lengths.log()
        if self.attention_score is not None:
            logits = logits + self.attention_score(x)[..., 0].float()
        logits = logits.masked_fill(~batch.mask, -torch.inf)
        return logits.softmax(-1).nan_to_num(0.0)
