"""The pole of control.py by torchrl's means: python examples/control_torchrl.py

What is seen, done and remembered stands in a TensorDict, losses are torchrl's, and the memory is
rnn_gpu.rl.GRUModule: while acting one step at a time, while learning one call for all steps, in
which episodes go on from the states that stand where they begin.
"""

import time

import numpy as np
import torch
from control import CLIP, ENVIRONMENTS, EPOCHS, STEPS, CartPoles, advantages, at_random
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import ActorValueOperator, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss

from rnn_gpu.rl import GRUModule


def made(n: int = 48) -> ActorValueOperator:
    """An actor and a critic who remember the same."""
    into = torch.nn.Sequential(torch.nn.Linear(2, n), torch.nn.Tanh())
    memory = GRUModule(n, n, in_keys=["felt", "state"], out_keys=["known", ("next", "state")])
    common = TensorDictSequential(
        TensorDictModule(into, in_keys=["observation"], out_keys=["felt"]), memory
    )
    logits = TensorDictModule(torch.nn.Linear(n, 2), in_keys=["known"], out_keys=["logits"])
    actor = ProbabilisticActor(
        logits,
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    return ActorValueOperator(common, actor, ValueOperator(torch.nn.Linear(n, 1), ["known"]))


def stretch(policy, carts, state, begun):
    """STEPS steps of all environments, (B, T), with the state before each; what follows them."""
    steps = []
    for _ in range(STEPS):
        # an episode that begins knows of nothing
        state = torch.where(begun[:, None, None], 0.0, state)
        now = {"observation": carts.seen(), "state": state, "is_init": begun[:, None]}
        step = TensorDict(now, ENVIRONMENTS)
        with torch.no_grad():
            policy(step)
        state = step.pop("next")["state"]
        fell, begun = map(torch.tensor, carts.act(step["action"].numpy() == 1))
        steps.append(step.update({"fell": fell, "over": begun}))
    last = {"observation": carts.seen(), "state": state, "is_init": begun[:, None]}
    with torch.no_grad():
        after = policy(TensorDict(last, ENVIRONMENTS))["state_value"][:, 0]
    return torch.stack(steps, 1), state, begun, after


def learn(rounds: int, seed: int = 0) -> float:
    """The mean length of the last 50 episodes."""
    torch.manual_seed(seed)
    policy, carts = made(), CartPoles(ENVIRONMENTS, seed)
    loss_of = ClipPPOLoss(
        policy.get_policy_operator(),
        policy.get_value_operator(),
        clip_epsilon=CLIP,
        entropy_coeff=0.01,
        critic_coeff=0.5,
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    adam = torch.optim.Adam(loss_of.parameters(), 3e-3)
    memory = policy.module[0][1].gru
    state = torch.zeros(ENVIRONMENTS, 1, memory.hidden_size)
    begun = torch.ones(ENVIRONMENTS, dtype=torch.bool)
    for k in range(rounds):
        steps, state, begun, after = stretch(policy, carts, state, begun)
        values = steps["state_value"][..., 0]
        gain = advantages(values.T, steps["fell"].T, steps["over"].T, after).T
        steps["advantage"], steps["value_target"] = gain[..., None], (gain + values)[..., None]
        adam.param_groups[0]["lr"] = 3e-3 * (1 - 0.9 * k / rounds)
        for _ in range(EPOCHS):
            losses = loss_of(steps)
            adam.zero_grad()
            sum(losses[f"loss_{one}"] for one in ("objective", "critic", "entropy")).backward()
            torch.nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
            adam.step()
    return float(np.mean(carts.lengths[-50:]))


def main(rounds: int = 40) -> dict[str, float]:
    """Mean lengths of episodes, at most 500."""
    torch.set_num_threads(1)  # more wait for each other, where a machine has other work
    start = time.perf_counter()
    found = {"random": at_random(), "recurrent": learn(rounds)}
    for name, length in found.items():
        print(f"{name:16}{length:6.1f} steps an episode")
    print(f"{time.perf_counter() - start:.1f} s")
    return found


if __name__ == "__main__":
    main()
