"""rnn_gpu.torch on two processes, which torchrun starts once for all that is asked here: what they
learn is what one process learns from the whole batch. Skipped without torch.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no distributed, or no gloo", allow_module_level=True)
pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP")
if not hasattr(torch.distributed.fsdp, "fully_shard"):
    pytest.skip("FSDP2 is there since torch 2.6", allow_module_level=True)

import ranks
import rnn_gpu
from conftest import RTOL
from ranks import UPDATES, adam_for, batches, dcp, loss, made, restored, states, trained

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 240  # seconds that they may take together on a busy machine; they take about twelve
SINGLE = "ignore:torch.distributed is disabled:UserWarning"

pytestmark = pytest.mark.filterwarnings(SINGLE)


def here():
    """The environment of a process that finds the library where these tests do, without the
    simulator.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"
    }
    places = [str(Path(rnn_gpu.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    return inherited | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
    }


def on_two(*arguments):
    """torchrun of a program by two processes; all of them are killed where they do not end."""
    launch = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    command = [sys.executable, *launch, str(Path(ranks.__file__)), *map(str, arguments)]
    run = subprocess.Popen(
        command, env=here(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, err = run.communicate(timeout=PATIENCE)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    assert run.returncode == 0, err


@pytest.fixture(scope="module")
def alone():
    """(model, Adam) trained by this process, and `found`."""
    model = made()
    adam = adam_for(model)
    return model, adam, trained(model, adam, batches())


@pytest.fixture(scope="module")
def folder(alone, tmp_path_factory):
    """Where two processes have left what they found, beside a checkpoint of this one."""
    folder = tmp_path_factory.mktemp("ranks")
    model_state, adam_state = states.get_state_dict(*alone[:2])
    dcp.save({"model": model_state, "adam": adam_state}, checkpoint_id=folder / "of_one")
    on_two(folder, *([EXAMPLES] if EXAMPLES.exists() else []))
    return folder


@pytest.fixture
def both(folder):
    """(name of a job) -> what the two processes found."""

    def read(job):
        return [torch.load(folder / f"{job}.{rank}.pt") for rank in range(2)]

    return read


def same(found, expected):
    """Two dicts of tensors by name."""
    assert list(found) == list(expected)
    for name, a in expected.items():
        np.testing.assert_allclose(
            found[name], a, rtol=0, atol=RTOL["float64"] * float(a.abs().max()), err_msg=name
        )


@pytest.mark.parametrize("job", ["averaged", "empty", "sharded"])
def test_two_processes_learn_what_one_does_from_the_whole_batch(alone, both, job):
    """Halves, all samples and none, and weights that are shared out."""
    for found in both(job):
        same(found["gradients"], alone[2]["gradients"])
        same(found["values"], alone[2]["values"])


def test_gradients_are_added_up_before_they_are_sent(both):
    model = made()
    for x, y in batches(2):
        loss(model, x, y).backward()
    expected = {name: θ.grad for name, θ in model.named_parameters()}
    first, second = both("accumulated")
    assert not any(torch.equal(first["unsent"][name], second["unsent"][name]) for name in expected)
    for found in (first, second):
        same(found["gradients"], expected)


def test_a_process_with_fewer_batches_waits_for_the_other(both):
    """The last batch is half a batch."""
    *pairs, (x, y) = batches()
    half = ranks.B // 2
    model = made()
    adam = adam_for(model)
    trained(model, adam, pairs)
    expected = trained(model, adam, [(x[:, :half], y[:, :half])])
    for found in both("joined"):
        same(found["values"], expected["values"])


def test_weights_are_shared_out(alone, both):
    """Each process has half of the rows of each parameter."""
    parts = [found["parts"] for found in both("sharded")]
    for name, a in alone[2]["values"].items():
        rows = [part[name][0] for part in parts]
        assert sum(rows) == len(a) and max(rows) <= (len(a) + 1) // 2


def test_one_process_goes_on_from_the_checkpoint_of_two(alone, folder, both):
    both("sharded")
    model = made()
    adam = adam_for(model)
    restored(model, adam, folder / "of_two")
    same(model.state_dict(), alone[0].state_dict())
    assert list(adam.state_dict()["state"]) == list(alone[1].state_dict()["state"])
    for found, expected in zip(
        adam.state_dict()["state"].values(), alone[1].state_dict()["state"].values(), strict=True
    ):
        same(found, expected)


def test_two_processes_go_on_from_the_checkpoint_of_one(alone, both):
    model = made()
    adam = adam_for(model)
    trained(model, adam, batches())
    expected = trained(model, adam, batches())
    for found in both("continued"):
        for name, a in alone[0].state_dict().items():
            assert torch.equal(found["before"][name], a)
        same(found["values"], expected["values"])


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests run outside a checkout")
def test_the_example_learns_on_two_processes_what_one_learns(both, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import ddp

    torch.manual_seed(0)
    model = ddp.Sum()
    adam, numbers = torch.optim.Adam(model.parameters(), 0.02), torch.Generator().manual_seed(1)
    expected = []
    for _ in range(UPDATES):
        x = torch.randn(6, 32, 1, generator=numbers)
        mean = (model(x) - x.sum(0)).square().mean()
        adam.zero_grad()
        mean.backward()
        adam.step()
        expected.append(mean.item())
    for found in both("example"):
        np.testing.assert_allclose(found[:UPDATES], expected, rtol=RTOL["float32"])
        assert found[-1] < 0.3 * found[0]
