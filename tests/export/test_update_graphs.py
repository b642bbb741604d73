"""The update graphs that ship, against the PyTorch modules that they were traced from."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sbim_deploy.export.graphs import join_again
from sbim_deploy.export.model import MAX_OPSET, MIN_OPSET
from sbim_deploy.export.update_graphs import read_update, trace_update
from sbim_deploy.export.updates import make_updates
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.parity import step_of, step_problem, step_tensors
from sbim_deploy.samplers.choice import DDS_N_CG

KINDS = ["guided", "proximal", "guided-2d", "proximal-2d"]


def inputs_of(kind, n_cg):
    """A step of a plan at sigma 0.5, for two slices of different k-space, with any score."""
    steps = [step_tensors(step_of(kind, 0.5, n_cg), step_problem(kind, 0.5, seed)) for seed in (0, 1)]
    inputs = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    score = np.random.default_rng(0).standard_normal(inputs["x"].shape, dtype=np.float32)
    return {**inputs, "score": score}


def run(graph, inputs):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in graph.graph.input]
    (following,) = session.run(None, {name: inputs[name] for name in names})
    return following


def by_pytorch(kind, n_cg, inputs):
    update = make_updates(n_cg)[kind]
    tensors = {name: torch.from_numpy(array).double() for name, array in inputs.items()}
    operator = tuple(tensors[name] for name in update.operator.inputs)
    return update(tensors["score"], *(tensors[name] for name in update.inputs), operator).numpy()


def two_sets_of(kind, n_cg):
    """Two slices of two sets of maps each, as a server puts two requests together."""
    inputs = inputs_of(kind, n_cg)
    rng = np.random.default_rng(1)
    doubled = {name: np.repeat(array, 2, axis=0) for name, array in inputs.items()}
    for name in ("maps", "x", "score", "z", "backprojection"):
        doubled[name] = rng.standard_normal(doubled[name].shape, dtype=np.float32)
    return {**doubled, "map_set": np.array([0, 1, 0, 1], np.float32)}


def assert_same(got, expected):
    assert got.shape == expected.shape
    for one, other in zip(got, expected, strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def test_there_is_a_graph_of_every_update():
    assert set(make_updates(DDS_N_CG)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_ships_computes_what_its_module_computes(kind):
    inputs = inputs_of(kind, DDS_N_CG)
    assert_same(run(read_update(kind, 1), inputs), by_pytorch(kind, DDS_N_CG, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_two_sets_of_maps_share_a_slices_data_and_leave_other_slices_alone(kind):
    inputs, graph = two_sets_of(kind, DDS_N_CG), read_update(kind, 1)
    together = run(graph, inputs)
    assert_same(together, by_pytorch(kind, DDS_N_CG, inputs))
    alone = [
        run(graph, {name: array[part] for name, array in inputs.items()}) for part in (np.s_[:2], np.s_[2:])
    ]
    assert_same(together, np.concatenate(alone))
    apart = run(graph, {**inputs, "map_set": np.zeros(4, np.float32)})
    assert np.linalg.norm(apart - together) > 0.01 * np.linalg.norm(together)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_a_graph_that_ships_is_valid_in_every_operator_set_of_an_export(kind, opset):
    graph = read_update(kind, 8)
    graph.opset_import[0].version = opset
    onnx.checker.check_model(graph, full_check=True)


def test_sizes_are_named_as_the_networks_are():
    for multiple, sizes in ((1, ["h", "w"]), (8, ["8*h", "8*w"])):
        values = {value.name: value for value in read_update("guided", multiple).graph.input}
        shape = values["maps"].type.tensor_type.shape.dim
        assert [size.dim_param for size in shape] == ["batch", "coil", "", *sizes]


# One of the four: what is traced is compared with its module above, and here that it can be traced at all.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["guided-2d"])
def test_an_update_that_is_traced_again_computes_what_the_graph_that_ships_computes(kind):
    inputs = inputs_of(kind, DDS_N_CG)
    assert_same(run(trace_update(kind), inputs), run(read_update(kind, 1), inputs))


def test_a_folder_joined_again_has_the_graphs_that_it_had_and_its_own_network(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    stored = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**stored, "format_version": 1}))
    (folder / "step-guided.onnx").write_bytes(b"")
    join_again(folder)
    assert load_model(folder).manifest == load_model(DEMO_FOLDER).manifest
