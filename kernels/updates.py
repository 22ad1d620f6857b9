"""Updates of one weight θ by its gradient dθ, with learning rate η and weight decay λ. Moments come
back beside the weight.

Corrections of Adam's bias, 1/(1 − βᵗ), enter as c1 and c2: they are the same for every weight.
"""

import numpy as np


def sgd(θ, dθ, η, λ):
    """θ − η dθ (式5), decay added to the gradient."""
    return θ - η * (dθ + λ * θ)


def momentum(θ, v, dθ, η, λ, μ):
    """v ← μ v + dθ, θ ← θ − η v, as in torch.optim.SGD."""
    v = μ * v + dθ + λ * θ
    return θ - η * v, v


def nesterov(θ, v, dθ, η, λ, μ):
    dθ = dθ + λ * θ
    v = μ * v + dθ
    return θ - η * (dθ + μ * v), v


def rmsprop(θ, v, dθ, η, λ, ρ, ε):
    """Hinton's lecture 6e; ε outside the root, as in torch.optim.RMSprop."""
    dθ = dθ + λ * θ
    v = v + (1.0 - ρ) * (dθ * dθ - v)
    return θ - η * dθ / (np.sqrt(v) + ε), v


def adam(θ, m, v, dθ, η, λ, β1, β2, ε, c1, c2):
    """Kingma and Ba 2015, algorithm 1."""
    dθ = dθ + λ * θ
    m = m + (1.0 - β1) * (dθ - m)
    v = v + (1.0 - β2) * (dθ * dθ - v)
    return θ - η * (c1 * m) / (np.sqrt(c2 * v) + ε), m, v


def adamw(θ, m, v, dθ, η, λ, β1, β2, ε, c1, c2):
    """Loshchilov and Hutter 2019: the decay acts on the weight, not on the gradient."""
    m = m + (1.0 - β1) * (dθ - m)
    v = v + (1.0 - β2) * (dθ * dθ - v)
    return θ - η * (λ * θ + (c1 * m) / (np.sqrt(c2 * v) + ε)), m, v
