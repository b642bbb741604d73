from functools import cache

import pytest

from sbim_deploy.training.tissues import load_tissues


@pytest.fixture(scope="session")
def tissues():
    return load_tissues()


@pytest.fixture(scope="session")
def few_slices():
    """Draw the trainer's slices once for all of its runs, and few of the held-out ones."""
    from sbim_deploy.training import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "N_HELD_OUT", 4)
        for name in ("training_pool", "held_out_pool"):
            patch.setattr(trainer, name, cache(getattr(trainer, name)))
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
