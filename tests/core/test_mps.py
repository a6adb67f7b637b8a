"""An Apple GPU: used only where it is asked for, in float32, and refused in one line where there is none."""

import pytest

from lmcore.compile_work import CompileWork
from lmcore.config import RunSpec, TrainConfig
from lmcore.device import Machine, resolve, this_machine, why_compile
from lmcore.errors import InputError
from lmcore.trainer import Trainer

MAC = Machine(cuda=False, mps=True)
ASKED = TrainConfig(device="mps")


def test_it_trains_in_float32_neither_compiled_nor_as_graphs():
    resolved = resolve(ASKED, MAC, CompileWork(1e20))
    assert (resolved.device, resolved.dtype, resolved.compile, resolved.cuda_graphs) == ("mps", "float32", False, False)
    assert resolve(resolved, MAC) == resolved
    assert why_compile(ASKED, resolved, CompileWork(1e20)) == "not compiled, as auto does on an Apple GPU"


def test_auto_leaves_it_alone():
    assert resolve(TrainConfig(), MAC).device == "cpu"


def test_without_one_it_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^train\.device: mps needs the GPU of a Mac .*; use device: auto or "):
        resolve(ASKED, Machine(cuda=True))


@pytest.mark.parametrize("impossible", [{"dtype": "bfloat16"}, {"compile": True}, {"cuda_graphs": True}])
def test_what_it_cannot_do_is_refused_and_not_dropped(impossible):
    [name] = impossible
    with pytest.raises(ValueError, match=f"{name} must not be .* on an Apple GPU"):
        TrainConfig(device="mps", **impossible)


def test_graphs_that_a_cpu_cannot_have_are_refused_too():
    with pytest.raises(InputError, match=r"^train\.cuda_graphs: true needs a CUDA device"):
        resolve(TrainConfig(cuda_graphs=True), MAC)


@pytest.mark.skipif(not this_machine().mps, reason="needs an Apple GPU")
def test_its_losses_are_those_of_a_cpu(small_tokens):
    def losses(device):
        train = TrainConfig(device=device, steps=4, eval_every=2, batch_size=4, dtype="float32", final_eval_windows=4)
        model = RunSpec().model.model_copy(update={"vocab_size": 97, "d_model": 32, "d_ff": 64, "context_length": 32})
        rows = Trainer([RunSpec(train=train, model=model)] * 2, small_tokens)
        return [row["val_loss"] for row in rows]

    assert losses("mps") == pytest.approx(losses("cpu"), rel=1e-4)
