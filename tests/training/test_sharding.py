"""Shares of a training state train exactly as the whole of it does, in half of the memory."""

import json
from pathlib import Path

import pytest

from nas_growclip.models.clip import Clip, placed
from nas_growclip.training.process_group import ALONE, ProcessGroup
from nas_growclip.training.sharding import gather, is_sharded, shard_state, state_device
from nas_growclip.training.state import TrainConfig, start_training
from tests.support import sharded_steps
from tests.support.processes import in_two_processes


@pytest.mark.slow
@pytest.mark.long("two processes wait for each other, for long where they share a processor")
def test_two_shares_train_what_two_copies_train(tmp_path: Path) -> None:
    codes = in_two_processes(lambda: sharded_steps.main(tmp_path), tmp_path)
    assert codes == [0, 0], (tmp_path / "0.log").read_text()
    for rank in range(2):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sorted(results) == [f"{p}, parts of {n}" for p in ("bf16", "fp32") for n in (0, 6)]
        for name, result in results.items():
            assert result["difference"] < 1e-6, name
            for what, share in result["held"].items():
                assert share == pytest.approx(0.5, abs=0.01), (name, what)


def test_one_process_has_all_of_a_state(tiny_parent: Clip) -> None:
    config = TrainConfig(shard=True)
    state = start_training(tiny_parent, config)
    assert shard_state(state, config) is state
    gather(state)
    assert state_device(config, ALONE) is None


def test_whole_states_of_a_team_lie_on_the_cpu_if_their_shares_do_not() -> None:
    group = ProcessGroup(rank=1, size=2, device="cuda:1")
    assert is_sharded(TrainConfig(shard=True), group)
    assert state_device(TrainConfig(shard=True), group) == "cpu"
    assert state_device(TrainConfig(), group) == "cuda:1"


def test_shards_are_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"shard: must be false where train\.compile is true"):
        TrainConfig(shard=True, compile=True)


def test_a_model_comes_back_from_where_it_is_measured(tiny_parent: Clip) -> None:
    parameters = list(tiny_parent.parameters())
    with placed(tiny_parent, None):
        assert tiny_parent.logit_scale.device.type == "cpu"
    with pytest.raises(ValueError, match="measuring failed"), placed(tiny_parent, "cpu"):
        raise ValueError("measuring failed")
    assert all(a is b for a, b in zip(parameters, tiny_parent.parameters(), strict=True))
