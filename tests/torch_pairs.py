"""torch's modules and ours side by side: outputs, states and every gradient."""

import torch
from torch.nn.utils.rnn import PackedSequence

from conftest import close


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def leaves(tree):
    """The tensors of nested tuples, in order; of a PackedSequence its data."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    tree = [tree.data] if isinstance(tree, PackedSequence) else tree
    return [leaf for branch in tree for leaf in leaves(branch)]


def passed(module, x, hx=None, seed=None, **more):
    """Outputs, final states and every gradient of one pass, as arrays; a loss of outputs and
    states.
    """
    asked = [leaf.detach().requires_grad_() for leaf in leaves((x,) if hx is None else (x, hx))]
    x = x._replace(data=asked[0]) if isinstance(x, PackedSequence) else asked[0]
    hx = None if hx is None else tuple(asked[1:]) if isinstance(hx, tuple) else asked[1]
    if seed is not None:
        torch.manual_seed(seed)
    results = leaves(module(x, hx, **more))
    loss = sum((leaf * draw(*leaf.shape, dtype=leaf.dtype)).sum() for leaf in results)
    asked += list(module.parameters())
    return [leaf.detach().numpy() for leaf in (*results, *torch.autograd.grad(loss, asked))]


def agree(theirs, mine, *arguments, dtype="float64", **options):
    """Assert that both modules give the same results and gradients."""
    expected, got = passed(theirs, *arguments, **options), passed(mine, *arguments, **options)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)
