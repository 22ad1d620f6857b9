"""Balance a pole whose speeds cannot be seen, by recurrent PPO: python examples/control.py

CartPole (Barto, Sutton and Anderson 1983) as in gymnasium, but that the policy sees the two
positions alone: it must remember them to know how fast they change. Episodes end within the
stretches that are learned from: `resets` and `reset_state` begin the state anew there, in one call
for all steps.
Beside it the same with a policy that remembers nothing, and one that acts at random.
"""

import time

import numpy as np
import torch

import rnn_gpu.torch

ENVIRONMENTS, STEPS, EPOCHS = 16, 64, 8  # side by side; of a stretch; times it is learned from
GAMMA, LAMBDA, CLIP, REWARD = 0.99, 0.95, 0.2, 0.1


class CartPoles:
    """B carts side by side; an episode is over when one falls, leaves, or after 500 steps."""

    def __init__(self, B: int, seed: int):
        self.rng, self.s = np.random.default_rng(seed), np.zeros((4, B))
        self.age, self.lengths = np.zeros(B, int), []
        self.begin(np.ones(B, bool))

    def begin(self, over):
        self.s[:, over] = self.rng.uniform(-0.05, 0.05, (4, int(over.sum())))
        self.age[over] = 0

    def seen(self):
        """Where cart and pole are: (B, 2)."""
        return torch.tensor(self.s[[0, 2]].T * [0.5, 5.0], dtype=torch.float32)

    def act(self, right):
        """(fell, over): booleans (B,); what is over has begun anew."""
        x, dx, a, da = self.s
        force = np.where(right, 10.0, -10.0)
        pushed = (force + 0.05 * da**2 * np.sin(a)) / 1.1
        dda = (9.8 * np.sin(a) - np.cos(a) * pushed) / (0.5 * (4 / 3 - 0.1 * np.cos(a) ** 2 / 1.1))
        ddx = pushed - 0.05 * dda * np.cos(a) / 1.1
        self.s = self.s + 0.02 * np.array([dx, ddx, da, dda])
        self.age += 1
        fell = (abs(self.s[0]) > 2.4) | (abs(self.s[2]) > 12 * np.pi / 180)
        over = fell | (self.age >= 500)
        self.lengths += self.age[over].tolist()
        self.begin(over)
        return fell, over


class Policy(torch.nn.Module):
    """Two logits and a value, from what is seen and, if it remembers, what was."""

    def __init__(self, remembers: bool, n: int = 48):
        super().__init__()
        self.into = torch.nn.Sequential(torch.nn.Linear(2, n), torch.nn.Tanh())
        self.memory = rnn_gpu.torch.GRU(n, n) if remembers else None
        self.out = torch.nn.Linear(n, 3)

    def forward(self, x, state=None, resets=None):
        """x (T, B, 2), resets (T, B) -> logits (T, B, 2), values (T, B), the state after."""
        y = self.into(x)
        if self.memory is not None:
            # an episode begins with nothing, not with what was before these steps
            nothing = None if resets is None else torch.zeros_like(y)[None]
            y, state = self.memory(y, state, resets=resets, reset_state=nothing)
        y = self.out(y)
        return y[..., :2], y[..., 2], state


def stretch(policy, carts, state, resets):
    """What STEPS steps of all environments gave; and the state and resets that follow."""
    seen = []
    first = state
    for _ in range(STEPS):
        x = carts.seen()
        with torch.no_grad():
            logits, value, state = policy(x[None], state, resets[None])
        chosen = torch.distributions.Categorical(logits=logits[0])
        action = chosen.sample()
        fell, over = carts.act(action.numpy() == 1)
        told = chosen.log_prob(action), value[0], torch.tensor(fell), torch.tensor(over)
        seen.append((x, action, resets, *told))
        resets = told[3]
    with torch.no_grad():
        _, after, _ = policy(carts.seen()[None], state, resets[None])
    return [torch.stack(one) for one in zip(*seen, strict=True)], first, state, resets, after[0]


def advantages(values, fell, over, after):
    """Generalised (Schulman et al. 2016): a step is worth REWARD, nothing follows a fall."""
    found, more, following = torch.zeros_like(values), torch.zeros_like(after), after
    for t in reversed(range(len(values))):
        # one that was stopped after 500 steps would have gone on: as worth as now
        following = torch.where(over[t], torch.where(fell[t], 0.0, values[t]), following)
        delta = REWARD + GAMMA * following - values[t]
        more = delta + GAMMA * LAMBDA * torch.where(over[t], 0.0, more)
        found[t], following = more, values[t]
    return found


def learn(remembers: bool, rounds: int, seed: int = 0) -> float:
    """The mean length of the last 50 episodes."""
    torch.manual_seed(seed)
    policy, carts = Policy(remembers), CartPoles(ENVIRONMENTS, seed)
    adam = torch.optim.Adam(policy.parameters(), 3e-3)
    state, resets = None, torch.ones(ENVIRONMENTS, dtype=torch.bool)
    for k in range(rounds):
        (x, action, begun, told, values, fell, over), first, state, resets, after = stretch(
            policy, carts, state, resets
        )
        gain = advantages(values, fell, over, after)
        goal, gain = gain + values, (gain - gain.mean()) / (gain.std() + 1e-6)
        adam.param_groups[0]["lr"] = 3e-3 * (1 - 0.9 * k / rounds)
        for _ in range(EPOCHS):
            logits, value, _ = policy(x, first, begun)
            now = torch.distributions.Categorical(logits=logits)
            ratio = (now.log_prob(action) - told).exp()
            better = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            loss = -better.mean() + 0.5 * (value - goal).square().mean()
            loss = loss - 0.01 * now.entropy().mean()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            adam.step()
    return float(np.mean(carts.lengths[-50:]))


def at_random(episodes: int = 200) -> float:
    """The mean length of episodes whose actions are drawn."""
    carts, rng = CartPoles(ENVIRONMENTS, 0), np.random.default_rng(0)
    while len(carts.lengths) < episodes:
        carts.act(rng.random(ENVIRONMENTS) < 0.5)
    return float(np.mean(carts.lengths))


def main(rounds: int = 120) -> dict[str, float]:
    """Mean lengths of episodes, at most 500."""
    torch.set_num_threads(1)  # more wait for each other, where a machine has other work
    start = time.perf_counter()
    found = {"random": at_random()}
    for name, remembers in {"without memory": False, "recurrent": True}.items():
        found[name] = learn(remembers, rounds)
    for name, length in found.items():
        print(f"{name:16}{length:6.1f} steps an episode")
    print(f"{time.perf_counter() - start:.1f} s")
    return found


if __name__ == "__main__":
    main()
