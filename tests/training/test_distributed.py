"""Two workers with half a batch each are one worker with the whole batch."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from skillmatch_ray.training.distributed import share_of


@pytest.mark.parametrize(("count", "workers"), [(0, 2), (1, 2), (7, 3), (8, 4), (3, 5)])
def test_shares_cover_every_row_once(count, workers):
    shares = [share_of(count, rank, workers) for rank in range(workers)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def _gradients(loop):
    loop.train_step()
    return {name: p.grad.clone() for name, p in loop.core.named_parameters() if p.grad is not None}


def _worker(rank, make, port, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    loop = make()
    loop.model = torch.nn.parallel.DistributedDataParallel(loop.model)
    gradients = _gradients(loop)
    if rank == 0:
        torch.save((gradients, loop.core.state_dict()), out)
    dist.destroy_process_group()


class _Make:
    """A picklable recipe, since spawned processes import afresh."""

    def __init__(self, config, dataset, store):
        self.config, self.dataset, self.store = config, dataset, store

    def __call__(self):
        from skillmatch_ray.dataset import Dataset
        from skillmatch_ray.training.setup import build_loop, build_model, read_history, state_source

        source, dim = state_source(self.config, self.store)
        history = read_history(Dataset(self.dataset), self.config)
        return build_loop(self.config, history, build_model(self.config, dim), source, torch.device("cpu"))


@pytest.mark.parametrize(
    "loss", [{"infonce": {}}, {"dual_a_triplet": {"margin": 0.5}}], ids=lambda loss: next(iter(loss))
)
def test_two_workers_give_the_gradients_of_one(tiny_config, tiny_dataset, tiny_store, tmp_path, loss):
    training = tiny_config.training.model_copy(update={"loss": loss, "projects_per_step": 7, "gradient_clip": 1e9})
    model = tiny_config.model.model_copy(update={"dropout": 0.0})
    config = tiny_config.model_copy(update={"training": training, "model": model})
    make = _Make(config, Path(tiny_dataset), Path(tiny_store))
    pickle.dumps(make)
    torch.set_num_threads(1)
    single = make()
    expected = _gradients(single)
    out = tmp_path / "gradients.pt"
    port = 20_000 + hash(str(tmp_path)) % 20_000
    mp.spawn(_worker, (make, port, str(out)), nprocs=2)
    gradients, weights = torch.load(out, weights_only=True)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert max(g.abs().max() for g in expected.values()) > 1e-3
    assert weights.keys() == single.core.state_dict().keys()
