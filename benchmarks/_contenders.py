"""Who is measured, on a GPU or the CPU: our layers, torch's (eager, under a CUDA graph, TF32 or
not), JAX's scan; same numbers.

A contender is made for a problem and offers forward(), backward() (after a forward) and step()
(both), outcome() (their results by our names, as the device's arrays), and begin(), which sets what
is global before it is timed.
"""

import gc
from collections.abc import Callable
from functools import cache, cached_property, partial
from importlib import import_module
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import rnn_gpu
from benchmarks import _timing
from benchmarks._machine import CPU, HOST, NOT_HERE, REHEARSAL
from benchmarks._timing import (
    by_events,
    by_the_host,
    nothing,
)
from rnn_gpu.kernels import Cell
from rnn_gpu.kernels.activations import dsigmoid, dsoftsign, dtanh, gate, softsign
from rnn_gpu.layers.cutting import ParallelLike
from rnn_gpu.layers.steps import Steps
from rnn_gpu.network.memory import needed

PASSES = ("forward", "backward", "step")
ON_THE_CPU = ("inference", "step")
TOLERANCE = {"ieee": 3e-4, "tf32": 3e-2}  # relative to the largest number of an array
SHARE = 0.8  # of the memory that a pass forward and back takes; segments of an RNN need 0.74
PIECE = 32_768  # steps: torch's layers take no more than 65,535
NOISE = 1 << 22  # numbers drawn; longer arrays repeat them
device = import_module(f"rnn_gpu.kernels.devices.{'cpu' if CPU else 'cuda'}")


class Case(NamedTuple):
    cell: str  # a key of KINDS
    n: int
    B: int
    T: int
    m: int  # features of x
    layers: int = 1
    dtype: str = "float32"
    threads: int = 0  # of the CPU; 0 leaves them alone


class Kind(NamedTuple):
    ours: Callable  # (m, n, **options) -> a layer
    torch: str | None = None  # the name of torch's layer


@cache
def own_lstm(name: str, f: Callable, df: Callable) -> Cell:
    """An LSTM as a user writes it, with f for tanh."""

    def step(p, q, s):
        i, r, g, o = gate(p[0] + q[0]), gate(p[1] + q[1]), f(p[2] + q[2]), gate(p[3] + q[3])
        c = r * s[1] + i * g
        return (o * f(c), c), (i, r, g, o)

    def back(ds, kept, s, s_next):
        dh, dc = ds
        i, r, g, o = kept
        y = f(s_next[1])
        dc = dc + dh * o * df(y)
        δ = (dc * g * dsigmoid(i), dc * s[1] * dsigmoid(r), dc * i * df(g), dh * y * dsigmoid(o))
        return δ, δ, (0.0 * dh, dc * r)

    return rnn_gpu.cell(name, gates=4, states=2, kept=4, step=step, back=back)


def recurrent(*cell) -> Callable:
    return lambda m, n, **options: rnn_gpu.Recurrent(own_lstm(*cell), m, n, **options)


KINDS = {
    "elman": Kind(rnn_gpu.RNN, "RNN"),
    "gru": Kind(rnn_gpu.GRU, "GRU"),
    "lstm": Kind(rnn_gpu.LSTM, "LSTM"),
    "softsign_elman": Kind(partial(rnn_gpu.RNN, activation=(softsign, dsoftsign))),
    "softsign_lstm": Kind(recurrent("softsign_lstm", softsign, dsoftsign)),
    "own_lstm": Kind(recurrent("own_lstm", np.tanh, dtanh)),
}


class Problem:
    """One case's layers and numbers: x (T, B, m), dy (T, B, n); random, and the same for every
    contender.
    """

    def __init__(self, case: Case):
        free()
        if case.threads:
            hold(case.threads)
        self.case = case
        options = {"device": device.name, "dtype": case.dtype, "init": "torch"}
        sizes = pairwise([case.m] + [case.n] * case.layers)
        self.layers = [
            KINDS[case.cell].ours(m, n, seed=k, **options) for k, (m, n) in enumerate(sizes)
        ]
        self.cell = self.layers[0].cell
        drawn = noise(case.dtype)
        self.x = device.array(np.resize(drawn, (case.T, case.B, case.m)), case.dtype)
        self.dy = device.array(np.resize(drawn[::-1], (case.T, case.B, case.n)), case.dtype)
        self.steps = Steps(device.array(np.ones((case.T, case.B)), np.uint8), None)

    @cached_property
    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters under torch's names."""
        return {
            name.replace("_l0", f"_l{k}"): value
            for k, layer in enumerate(self.layers)
            for name, value in layer.to_torch().items()
        }

    def schedules(self) -> dict:
        """What the library's table chooses for this case on a GPU."""
        return {} if CPU else {way: schedule(self.cell, way, self.case) for way in PASSES[:2]}

    def expected(self) -> dict:
        """What is known of this case before it is measured."""
        if CPU:
            return {"explain": self.layers[0].explain(self.case.T, self.case.B)}
        from benchmarks import _predictions

        return _predictions.expected(self.case)


@cache
def noise(dtype: str):
    """Numbers of all problems."""
    return np.random.default_rng(0).standard_normal(NOISE if not REHEARSAL else 1 << 10, dtype)


def hold(threads: int):
    """Let our kernels, which use no BLAS, have so many threads from now on."""
    import numba

    numba.set_num_threads(threads)


def schedule(cell, direction: str, case) -> dict:
    from rnn_gpu.kernels.devices.cuda import choose

    it = choose(cell, direction, case.n, case.B, np.dtype(case.dtype).itemsize)
    plan = it.plan._asdict() if it.plan else None
    return {
        "schedule": it.schedule,
        "plan": plan,
        "blocks": it.blocks,
        "threads": it.threads,
        "shared": it.shared,
        "why": it.why,
    }


class Contender:
    clock = staticmethod(by_events)

    def begin(self):
        pass

    def inference(self):
        self.forward()

    def step(self):
        self.forward()
        self.backward()

    def prepare(self, what: str):
        """What runs, untimed, before each timed call."""
        return self.forward if what == "backward" else nothing


class Ours(Contender):
    """Our layers by their inner path, the device's arrays in and out; `public` by the calls that a
    user makes, with the same arrays; `parallel` of those calls.
    """

    def __init__(self, problem: Problem, public: bool = CPU, parallel: ParallelLike = False):
        self.problem, self.public, self.parallel = problem, public, parallel
        B, n = problem.case.B, problem.case.n
        self.zero = [
            layer.backend.zeros((layer.cell.states, B, n), layer.dtype) for layer in problem.layers
        ]

    def forward(self):
        a = self.problem.x
        self.tapes = []
        for layer, zero in zip(self.problem.layers, self.zero, strict=True):
            if self.public:
                a, _ = layer(a, parallel=self.parallel)
            else:
                a, _, tape = layer.forward(a, [zero], self.problem.steps)
                self.tapes.append(tape)
        self.y = a

    def backward(self):
        d, self.grads = self.problem.dy, []
        for k, layer in reversed(list(enumerate(self.problem.layers))):
            if self.public:
                d, _ = layer.backward(d)
                grads = layer.grads
            else:
                back = layer.back(self.tapes[k], d, [self.zero[k] * 0])  # which overwrites dE/ds
                d, grads = back.dx, back.grads
            self.grads.insert(0, grads)
        self.dx = d

    def outcome(self):
        self.step()
        grads = {
            f"d{name}{k}": grad for k, own in enumerate(self.grads) for name, grad in own.items()
        }
        return {"y": self.y, "dx": self.dx} | grads


class OursInSegments(Contender):
    """Our layers as a network, within SHARE of the memory that it would take, where the sequence is
    long enough: it is cut into segments, each of which is computed again on the way back.
    """

    def __init__(self, problem: Problem, parallel: ParallelLike = False):
        self.problem, self.parallel = problem, parallel
        self.network = rnn_gpu.Network(problem.layers)
        T, B = problem.case.T, problem.case.B
        least, most = (
            needed(self.network, T, B, k, ragged=False, inputs=True)
            for k in (min(T, self.network.backend.chunk(B)), T)
        )
        self.memory_budget = max(int(SHARE * most), least)

    def forward(self):
        self.y, _ = self.network(
            self.problem.x, memory_budget=self.memory_budget, parallel=self.parallel
        )

    def backward(self):
        self.dx, _ = self.network.backward(self.problem.dy)

    def outcome(self):
        self.step()
        grads = {
            f"d{name}{k}": grad
            for k, layer in enumerate(self.problem.layers)
            for name, grad in layer.grads.items()
        }
        return {"y": self.y, "dx": self.dx} | grads


class OursReplayed(Ours):
    """Our layers by their inner path, each pass a CUDA graph that is replayed."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        super().step()  # kernels are there, and what is made once
        self.held = []
        for what in PASSES:  # the step last: its results are the outcome
            found = device.captured(getattr(super(), what))
            if found is None:
                raise NotImplementedError(NOT_HERE)
            self.held.append((found[1], vars(self).copy()))
        self.forward, self.backward, self.step = (replay for replay, _ in self.held)


class Judge(Contender):
    """Our layers on another device: what is right where there is no torch. Not timed."""

    name = "reference" if CPU else "cpu"

    def __init__(self, problem: Problem):
        self.problem = problem

    def outcome(self):
        d, layers = device, [layer.copy(device=self.name) for layer in self.problem.layers]
        a = d.numpy(self.problem.x)
        for layer in layers:
            a, _ = layer(a)
        grads, y, back = {}, a, d.numpy(self.problem.dy)
        for k, layer in reversed(list(enumerate(layers))):
            back, _ = layer.backward(back)
            grads |= {f"d{name}{k}": grad for name, grad in layer.grads.items()}
        return {
            name: d.array(a, self.problem.case.dtype)
            for name, a in ({"y": y, "dx": back} | grads).items()
        }


OUR_NAMES = {"weight_ih": "dU", "weight_hh": "dW", "bias_ih": "db", "bias_hh": "dc"}


class Torch(Contender):
    """A torch layer on the problem's numbers and weights: cuDNN where there is a GPU.

    precision  "ieee" or "tf32", of cuDNN's recurrent layers and of matrix products
    graph      replay CUDA graphs of the passes instead of calling them
    """

    def __init__(self, problem: Problem, precision: str = "ieee", graph: bool = False):
        import torch

        if REHEARSAL and (graph or precision != "ieee"):
            raise NotImplementedError(NOT_HERE)
        self.torch, self.precision, self.threads = torch, precision, problem.case.threads
        self.x = torch.from_dlpack(problem.x).requires_grad_()
        self.dy = torch.from_dlpack(problem.dy)
        weights = {
            name: torch.tensor(value, device=self.x.device)
            for name, value in problem.state_dict.items()
        }
        self.names, parameters = self.build(problem, weights)
        self.inputs = [self.x, *parameters]
        if graph:
            self.capture()

    def build(self, problem, weights):
        """Make self.run, x -> y; return our names of the gradients, and the parameters, in one
        order.
        """
        case = problem.case
        make = getattr(self.torch.nn, KINDS[case.cell].torch)
        dtype = getattr(self.torch, case.dtype)
        self.module = make(
            case.m, case.n, num_layers=case.layers, device=self.x.device, dtype=dtype
        )
        self.module.load_state_dict(weights)
        self.run = lambda x: self.module(x)[0]
        names, parameters = zip(*self.module.named_parameters(), strict=True)
        return ["dx"] + [
            OUR_NAMES[name.rpartition("_l")[0]] + name.rpartition("_l")[2] for name in names
        ], parameters

    def begin(self):
        backends = self.torch.backends
        for operations in (backends.cudnn.rnn, backends.cuda.matmul):
            operations.fp32_precision = self.precision
        if self.threads:
            self.torch.set_num_threads(self.threads)

    def inference(self):
        with self.torch.inference_mode():
            self.y = self.run(self.x)

    def forward(self):
        self.y = self.run(self.x)

    def backward(self):
        self.grads = self.torch.autograd.grad(self.y, self.inputs, self.dy)

    def outcome(self):
        self.step()
        grads = zip(self.names, self.grads, strict=True)
        from_dlpack = arrays().from_dlpack
        return {"y": from_dlpack(self.y.detach())} | {
            name: from_dlpack(grad.detach().contiguous()) for name, grad in grads
        }

    def capture(self):
        """Replace forward, backward and step by replays of what they do now."""
        cuda = self.torch.cuda
        self.begin()
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                self.step()
        cuda.current_stream().wait_stream(side)
        forward, backward, step = (cuda.CUDAGraph() for _ in PASSES)
        with cuda.graph(forward):
            self.forward()
        with cuda.graph(backward, pool=forward.pool()):
            self.backward()
        with cuda.graph(step):
            self.step()
        self.forward, self.backward, self.step = forward.replay, backward.replay, step.replay


class TorchCalled(Torch):
    """A torch layer by the calls that a user makes: gradients are set to None, then `backward`
    leaves them in `grad`.
    """

    def backward(self):
        for one in self.inputs:
            one.grad = None
        self.y.backward(self.dy)
        self.grads = [one.grad for one in self.inputs]


class TorchInPieces(Torch):
    """What a user of torch can do beyond 65,535 steps: pieces of PIECE steps that hand the state
    on, and its gradient back.
    """

    def forward(self):
        self.pieces, state = [], None
        for x in self.x.detach().split(PIECE if not REHEARSAL else 2):
            x.requires_grad_()
            entered = () if state is None else tuple(s.detach().requires_grad_() for s in state)
            y, state = self.module(
                x, None if state is None else entered if len(entered) > 1 else entered[0]
            )
            state = state if isinstance(state, tuple) else (state,)
            self.pieces.append((x, entered, y, state))
        self.y = self.torch.cat([y for _, _, y, _ in self.pieces])

    def backward(self):
        parameters, dx, sums, dstate, end = self.inputs[1:], [], None, (), len(self.dy)
        for x, entered, y, state in reversed(self.pieces):
            dy, end = self.dy[end - len(y) : end], end - len(y)
            outputs, slopes = ((y, *state), (dy, *dstate)) if dstate else ((y,), (dy,))
            grads = self.torch.autograd.grad(outputs, (x, *parameters, *entered), slopes)
            own, dstate = grads[1 : 1 + len(parameters)], grads[1 + len(parameters) :]
            sums = own if sums is None else [a.add_(b) for a, b in zip(sums, own, strict=True)]
            dx.append(grads[0])
        self.grads = [self.torch.cat(dx[::-1]), *sums]


class TorchLoop(Torch):
    """The best a user of torch can write for a cell that no library has: one product for all
    inputs, then a loop over time.

    how  "eager"; "script", the whole loop by torch.jit.script; "compiled", a step of it by
         torch.compile
    """

    def __init__(self, problem: Problem, how: str = "eager", **options):
        if REHEARSAL and how == "compiled":
            raise NotImplementedError(NOT_HERE)
        self.how = how
        super().__init__(problem, **options)

    def build(self, problem, weights):
        from benchmarks import _loops

        loop = _loops.made(problem.case.cell, self.how)
        names = [name for name in weights if not name.startswith("bias_hh")]
        parameters = [weights[name].requires_grad_() for name in names]
        U, W, b = (
            parameters[names.index(f"{name}_l0")] for name in ("weight_ih", "weight_hh", "bias_ih")
        )
        self.run = lambda x: loop(x, U, W, b)
        return ["dx"] + [OUR_NAMES[name.removesuffix("_l0")] + "0" for name in names], parameters


class Jax(Contender):
    """jax.lax.scan under jit, written as the paper has it; the input side one product for all
    steps.
    """

    clock = staticmethod(by_the_host)

    def __init__(self, problem: Problem, precision: str = "ieee"):
        import jax

        self.jax = jax
        self.named = "highest" if precision == "ieee" else "tensorfloat32"
        run = partial(scan(jax), problem.case.cell)
        layer = problem.layers[0]
        self.θ = {
            name: jax.numpy.asarray(device.numpy(value)) for name, value in layer.parameters.items()
        }
        self.x, self.dy = (jax.numpy.asarray(device.numpy(a)) for a in (problem.x, problem.dy))
        self.forward_way = jax.jit(lambda θ, x: jax.vjp(run, θ, x))
        self.way_back = jax.jit(lambda pull, dy: pull(dy))

        def both_ways(θ, x, dy):
            y, pull = jax.vjp(run, θ, x)
            return y, pull(dy)

        self.both_ways = jax.jit(both_ways)

    def forward(self):
        with self.jax.default_matmul_precision(self.named):
            self.y, self.pull = self.jax.block_until_ready(self.forward_way(self.θ, self.x))

    def backward(self):
        with self.jax.default_matmul_precision(self.named):
            self.grads = self.jax.block_until_ready(self.way_back(self.pull, self.dy))

    def step(self):
        with self.jax.default_matmul_precision(self.named):
            self.y, self.grads = self.jax.block_until_ready(self.both_ways(self.θ, self.x, self.dy))

    def outcome(self):
        self.step()
        grads, dx = self.grads
        found = {"y": self.y, "dx": dx} | {f"d{name}0": grad for name, grad in grads.items()}
        return {name: arrays().asarray(np.asarray(a)) for name, a in found.items()}


def scan(jax):
    """(cell, θ, x (T, B, m)) -> y (T, B, n)."""
    np_, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh

    def elman(p, q, s):
        return (tanh(p + q),)

    def lstm(p, q, s):
        i, f, g, o = np_.split(p + q, 4, axis=-1)
        c = sigmoid(f) * s[1] + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def gru(p, q, s):
        (p_r, p_z, p_n), (q_r, q_z, q_n) = np_.split(p, 3, axis=-1), np_.split(q, 3, axis=-1)
        n = tanh(p_n + sigmoid(p_r + q_r) * q_n)
        return (n + sigmoid(p_z + q_z) * (s[0] - n),)

    cells = {"elman": (elman, 1), "lstm": (lstm, 2), "gru": (gru, 1)}

    def run(cell, θ, x):
        step, states = cells[cell]
        p = x @ θ["U"].T + θ["b"]
        s0 = (np_.zeros((x.shape[1], θ["W"].shape[1]), x.dtype),) * states

        def one(s, p_t):
            s = step(p_t, s[0] @ θ["W"].T + θ.get("c", 0), s)
            return s, s[0]

        return jax.lax.scan(one, s0, p)[1]

    return run


class Entry(NamedTuple):
    make: Callable  # (problem) -> a contender
    precision: str = "ieee"
    passes: tuple[str, ...] = (*PASSES, "inference")


ENTRIES = {
    "ours": Entry(Ours),
    "ours, CUDA graph": Entry(OursReplayed),
    "ours, public call": Entry(partial(Ours, public=True), passes=("step",)),
    "ours, parallel": Entry(partial(Ours, public=True, parallel="auto")),
    "ours, in segments": Entry(OursInSegments),
    "ours, parallel, in segments": Entry(partial(OursInSegments, parallel="auto")),
    "torch": Entry(TorchCalled if CPU else Torch),
    "torch, CUDA graph": Entry(partial(Torch, graph=True)),
    "torch, TF32": Entry(partial(Torch, precision="tf32"), "tf32"),
    "torch, CUDA graph, TF32": Entry(
        partial(Torch, precision="tf32", graph=True), "tf32", ("step",)
    ),
    "torch, in pieces": Entry(TorchInPieces),
    "torch, loop": Entry(TorchLoop),
    "torch, loop, script": Entry(partial(TorchLoop, how="script")),
    "torch, loop, compiled": Entry(partial(TorchLoop, how="compiled")),
    "torch, loop, CUDA graph": Entry(partial(TorchLoop, graph=True)),
    "torch, loop, compiled, CUDA graph": Entry(partial(TorchLoop, how="compiled", graph=True)),
    "JAX scan": Entry(Jax),
    "JAX scan, TF32": Entry(partial(Jax, precision="tf32"), "tf32"),
}


def arrays():
    """The module of the device's arrays: CuPy, or NumPy on the CPU and in the simulator."""
    if CPU:
        return np
    return _timing.arrays()


def free():
    """Give back the GPU's memory that the case before has left."""
    gc.collect()
    device.release()
    if HOST:
        return
    try:
        import torch

        torch.cuda.empty_cache()
    except ImportError:
        pass
