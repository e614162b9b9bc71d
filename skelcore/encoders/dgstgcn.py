"""DG-STGCN: Duan, Wang, Chen, Lin, "DG-STGCN: Dynamic Spatial-Temporal Modeling for Skeleton-based Action
Recognition", 2022.

Ten blocks without any predefined graph. The graph convolution (DG-GCN) learns 8 adjacency matrices A_k from noise and
adds two that depend on the clip, from the mean over time of the input, projected to p and q:
``A_kc[u, w] + alpha tanh(p_kc[u] - q_kc[w]) + beta softmax_u(sum_c p_kc[u] q_kc[w])``. The temporal convolution
(DG-TCN) is that of ST-GCN++ over the joints and a further node, their mean, which joint v then takes up with a
learned coefficient gamma_v. Activations are (1, C, T, P V) for P persons in all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import NEAR_ZERO
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import Block, DataNorm, Pointwise, Projection, schedule, to_maps, to_wide
from skelcore.encoders.norm import Norm
from skelcore.encoders.stgcnpp import TemporalConv, pyskl_parts
from skelcore.layouts import Layout

SUBSETS, OFFSET, DEVIATION = 8, 0.04, 0.02
COEFFICIENTS = 25  # of gamma at least, whatever the layout: fewer joints leave the rest unused


class DynamicGraphConv(nn.Module):
    """relu(BN(W relu(BN(W' x)) A) + down(x)) with A for each channel and person, on (1, C, T, P V)."""

    def __init__(self, inputs: int, outputs: int, joints: int) -> None:
        super().__init__()
        hidden = outputs // SUBSETS * SUBSETS
        self.adjacency = nn.Parameter(torch.empty(SUBSETS, joints, joints).normal_(OFFSET, DEVIATION))
        # The reference has a weight for each subset, but uses the first one for all.
        self.alpha = nn.Parameter(torch.full((SUBSETS,), NEAR_ZERO))
        self.beta = nn.Parameter(torch.full((SUBSETS,), NEAR_ZERO))
        self.pre, self.pre_bn = Pointwise(inputs, hidden), Norm(hidden)
        self.relate = Pointwise(inputs, 2 * hidden)
        self.post, self.bn = Pointwise(hidden, outputs), Norm(outputs)
        self.down = Projection(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        adjacency = self.graphs(x)
        frames, joints = x.shape[2], adjacency.shape[-1]
        y = F.relu_(self.pre(x, self.pre_bn)).view(len(adjacency), frames, -1, joints)
        y = (y.transpose(1, 2) @ adjacency).transpose(1, 2).reshape(1, len(adjacency), frames, -1)
        return F.relu_(self.post(y, self.bn).add_(self.down(x)))

    def graphs(self, x: Tensor) -> Tensor:
        """Adjacency (C', P, V, V) of every hidden channel and person."""
        joints = self.adjacency.shape[-1]
        source, target = self.relate(x.mean(2, keepdim=True)).view(2, SUBSETS, -1, x.shape[3] // joints, joints)
        difference = torch.tanh(source[..., None] - target[..., None, :])
        likeness = torch.einsum("kcpu,kcpw->kpuw", source, target).softmax(-2)
        shared = self.adjacency[:, None] + self.beta[0] * likeness
        return torch.addcmul(shared[:, None], self.alpha[0], difference).flatten(0, 1)


class WithMean(Pointwise):
    """A pointwise convolution of P x V joints and of each person's mean, which follows its joints."""

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__(channels, channels)
        self.joints = joints

    def forward(self, x: Tensor, norm: Norm | None = None, rows: slice = slice(None)) -> Tensor:
        training = norm is not None and norm.training
        y = super().forward(x, None if training else norm, rows).unflatten(-1, (-1, self.joints))
        y = torch.cat([y, y.mean(-1, keepdim=True)], -1).flatten(3)  # the mean after it is the mean before it
        return norm(y) if norm is not None and training else y


class TakeUp(Norm):
    """Batch norm of each joint plus its coefficient times the mean that follows the joints."""

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__(channels)
        self.joints = joints
        self.gamma = nn.Parameter(torch.zeros(max(joints, COEFFICIENTS)))

    def forward(self, *parts: Tensor, offset: Tensor | None = None) -> Tensor:
        joints, mean = torch.cat(parts, 1).unflatten(-1, (-1, self.joints + 1)).split([self.joints, 1], -1)
        gamma = self.gamma[: self.joints].to(mean.dtype)
        return super().forward(torch.addcmul(joints, mean, gamma).flatten(3), offset=offset)


class JointTemporalConv(TemporalConv):
    """The temporal convolution of ST-GCN++ over the joints and their mean, which ends in the joints alone."""

    def __init__(self, channels: int, stride: int, joints: int) -> None:
        super().__init__(channels, stride)
        self.reduce, self.fuse_bn = WithMean(channels, joints), TakeUp(channels, joints)


class DGSTGCN(JointEncoder):
    """Channels of the ten blocks: 4 x ``width``, 3 x 2 ``width``, 3 x 4 ``width``; blocks 5 and 8 halve the frames."""

    name = "dgstgcn"

    def __init__(self, layout: Layout, in_channels: int, width: int) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels)
        joints = len(layout)
        self.blocks = nn.Sequential(*(
            Block(DynamicGraphConv(inputs, outputs, joints), JointTemporalConv(outputs, stride, joints), inputs,
                  outputs, stride, residual=i > 0)
            for i, (inputs, outputs, stride) in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        return to_maps(self.blocks(to_wide(self.data_bn(x, slot))), len(self.layout))

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: _pyskl_keys(key) for key in self.state_dict()}

    def pyskl_rows(self, key: str) -> list[int] | None:
        owner, *tail = key.rsplit(".", 2)
        if tail[:1] not in (["reduce"], ["reduce_bn"]):
            return None
        time = self.get_submodule(owner)
        assert isinstance(time, TemporalConv)
        return time.widths if tail[0] == "reduce" else time.widths[:-1]


def _pyskl_keys(key: str) -> list[str]:
    parts = key.split(".")
    if parts[-1] == "gamma":
        return [f"gcn.{parts[1]}.tcn.add_coeff"]
    if parts[0] == "data_bn" or parts[2] != "graph":
        return pyskl_parts(key)
    names = {"adjacency": ["A"], "pre": ["pre.0"], "pre_bn": ["pre.1"], "relate": ["conv1", "conv2"]}
    return [".".join(["gcn", parts[1], "gcn", name, *parts[4:]]) for name in names.get(parts[3], parts[3:4])]
