import pytest

from sbim_deploy.training.tissues import load_tissues


@pytest.fixture(scope="session")
def tissues():
    return load_tissues()


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
