"""The backbone where layers of it are trained: the same checkpoint, with gradients.

Shapes: B sections, T tokens of the longest of a batch, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from skillmatch_ray.backbone.encoder import TokenIds, token_budget_batches
from skillmatch_ray.errors import ConfigError


class TrainableBackbone(nn.Module):
    """A BERT-like encoder whose last layers learn, in float32: small steps vanish in half precision.

    Args:
        checkpoint: directory with config.json and model.safetensors.
        layers: how many of the last transformer layers learn; "all": every weight, embeddings too.
        token_budget: padded tokens of one forward pass.

    Raises:
        ConfigError: if the backbone has fewer layers.
    """

    def __init__(self, checkpoint: Path, layers: int | Literal["all"], token_budget: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.token_budget = token_budget
        self.model: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, add_pooling_layer=False)
        self.model.requires_grad_(layers == "all")
        blocks = self.model.encoder.layer
        if layers == "all":
            return
        if layers > len(blocks):
            raise ConfigError(
                f"training.trainable_backbone_layers ({layers}) is more than the {len(blocks)} layers of "
                f"{checkpoint}: lower it, or say all"
            )
        for block in blocks[len(blocks) - layers :]:
            block.requires_grad_(requires_grad=True)

    def train(self, mode: bool = True) -> TrainableBackbone:  # noqa: ARG002, FBT001, FBT002
        """Dropout stays off, so that unfreezing a layer changes nothing before its first step."""
        return super().train(mode=False)

    def forward(self, sections: Sequence[TokenIds]) -> list[Tensor]:
        """(tokens, D) states of each tokenised section, in their order."""
        lengths = np.array([len(ids) for ids in sections], dtype=np.int64)
        states: dict[int, Tensor] = {}
        for batch in token_budget_batches(lengths, self.token_budget):
            hidden = self._hidden([sections[i] for i in batch])
            states |= {int(i): hidden[row, : lengths[i]] for row, i in enumerate(batch)}
        return [states[i] for i in range(len(sections))]

    def _hidden(self, sections: Sequence[TokenIds]) -> Tensor:
        """(B, T, D), padded."""
        device = next(self.parameters()).device
        rows = [torch.from_numpy(ids.astype(np.int64)) for ids in sections]
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.model.config.pad_token_id or 0)
        hidden: Tensor = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return hidden

    def trained(self) -> dict[str, Tensor]:
        """The weights that learn, by the names that transformers gives them."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}
