"""float32 linear layers by oneDNN's kernels, with weights laid out for them once: what torch takes otherwise is slow on AMD's CPUs."""

from __future__ import annotations

from typing import Any


def pack(network: Any) -> int:
    """Replace the linear layers of a float32 encoder on a CPU, in place. Returns how many.

    Those without a bias stay: they are decoders', and DeBERTa's, which reads their weights itself. Answers stay the same
    but for rounding.
    """
    import torch

    class Packed(torch.nn.Module):
        """A linear layer that answers and does not learn."""

        def __init__(self, plain: Any):
            super().__init__()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), None)
            self.bias = plain.bias.detach()

        def forward(self, given: Any) -> Any:
            return torch.ops.mkldnn._linear_pointwise(given, self.packed, self.bias, "none", [], "")

    if not torch.backends.mkldnn.is_available():
        return 0
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear and child.bias is not None and child.weight.dtype == torch.float32
    ]
    for parent, name, child in found:
        setattr(parent, name, Packed(child))
    return len(found)
