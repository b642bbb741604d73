"""The TensorRT runner's control flow, on a CUDA whose streams run in any order that is allowed."""

import gc
import sys
import threading

import numpy as np
import pytest
from fake_cuda import Status
from fake_tensorrt import INPUTS, SERIALISED, IExecutionContext, expected_next

from sbim_deploy.engines import cuda
from sbim_deploy.engines.tensorrt import RuntimeCache, TensorRTEngine
from sbim_deploy.engines.tensorrt_builder import Range
from sbim_deploy.errors import (
    BackendMissingError,
    DeviceLostError,
    EngineIncompatibleError,
    InputError,
    SbimDeployError,
)

RANGES = {"n": Range(1, 2, 4), "k": Range(1, 3, 64)}
ORDERS = {
    "late": {},
    "uploads at once": {"eager": [1]},
    "steps at once": {"eager": [0]},
    "both at once": {"eager": [0, 1]},
    **{f"random {seed}": {"random": np.random.default_rng(seed)} for seed in range(8)},
}


def some_inputs(rng, n=2, k=3):
    shapes = {"x": (n, k), "weight": (n,), "noise": (n, k), "bias": (n, k)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def run_steps(recurrence, inputs, changing, rng, read=lambda step: True):
    """Advance with these names changed, and compare every state that is read with numpy's."""
    current = dict(inputs)
    for step, names in enumerate(changing):
        changed = {name: rng.standard_normal(inputs[name].shape).astype(np.float32) for name in names}
        current |= {name: array.copy() for name, array in changed.items()}
        recurrence.advance(changed)
        for array in changed.values():
            array.fill(np.nan)  # what was given may be overwritten
        current["x"] = expected_next(current)
        if read(step):
            np.testing.assert_allclose(recurrence.read(), current["x"], rtol=1e-6)
    np.testing.assert_allclose(recurrence.read(), current["x"], rtol=1e-6)


SAME = [["weight", "noise"]] * 9
VARYING = [
    ["noise"],
    ["noise"],
    [],
    ["weight"],
    ["noise", "weight"],
    [],
    [],
    ["bias"],
    ["noise"],
    [],
    ["weight"],
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("changing", [SAME, VARYING], ids=["same", "varying"])
@pytest.mark.parametrize("reads", ["each", "last"])
@pytest.mark.parametrize("backend", ["rtx", "trt"])
def test_a_recurrence_computes_what_numpy_does_in_whatever_order_streams_run(
    fake, order, changing, reads, backend
):
    rng = np.random.default_rng(0)
    engine, runtime, _ = fake(backend, **ORDERS[order])
    inputs = some_inputs(rng)
    before = {name: array.copy() for name, array in inputs.items()}
    with engine.recur("x", "x_next", inputs) as recurrence:
        run_steps(recurrence, inputs, changing, rng, lambda _: reads == "each")
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])
    engine.close()
    assert runtime.faults == []
    assert runtime.alive() == []


def test_random_changes_in_random_orders(fake):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        engine, runtime, _ = fake(random=np.random.default_rng(seed + 1000))
        inputs = some_inputs(rng)
        names = ["weight", "noise", "bias"]
        changing = [[name for name in names if rng.random() < 0.4] for _ in range(12)]
        with engine.recur("x", "x_next", inputs) as recurrence:
            run_steps(recurrence, inputs, changing, rng, lambda _, rng=rng: rng.random() < 0.3)
        engine.close()
        assert runtime.faults == []


def test_after_its_first_step_each_turn_is_captured_once_and_replayed(fake):
    rng = np.random.default_rng(0)
    engine, runtime, package = fake()
    assert engine.description["cuda_graph"] == "none yet"
    inputs = some_inputs(rng)
    run_steps(engine.recur("x", "x_next", inputs), inputs, SAME, rng)
    assert package.enqueued == 4
    assert runtime.launches == len(SAME) - 2
    assert engine.description["cuda_graph"] == "replayed"


def test_each_captured_graph_has_a_context_of_its_own_in_the_memory_of_both(fake):
    rng = np.random.default_rng(0)
    engine, runtime, package = fake()
    inputs = some_inputs(rng)
    run_steps(engine.recur("x", "x_next", inputs), inputs, SAME, rng)
    assert len(package.contexts) == 2
    assert len({context.device_memory for context in package.contexts}) == 1
    assert runtime.faults == []  # such as a graph whose context was changed after the capture


@pytest.mark.parametrize("fault", ["the run", "end of capture", "not capturable"])
def test_where_capture_fails_every_step_is_enqueued_and_the_description_says_why(fake, fault):
    rng = np.random.default_rng(0)
    engine, runtime, package = fake()
    package.fail_in_capture = fault == "the run"
    runtime.fail_end_capture = fault == "end of capture"
    package.capturable = fault != "not capturable"
    inputs = some_inputs(rng)
    run_steps(engine.recur("x", "x_next", inputs), inputs, VARYING, rng)
    assert runtime.launches == 0
    reason = {
        "the run": "TensorRT refuses the run",
        "end of capture": "cudaStreamEndCapture returned cudaErrorStreamCaptureInvalidated",
        "not capturable": "cannot be captured",
    }[fault]
    assert reason in engine.description["cuda_graph"]
    assert runtime.sticky == Status.cudaSuccess


def test_two_recurrences_and_runs_between_them_do_not_disturb_each_other(fake):
    rng = np.random.default_rng(0)
    engine, runtime, _ = fake(random=np.random.default_rng(1))
    inputs, others = some_inputs(rng), some_inputs(rng, 4, 5)
    one, other = engine.recur("x", "x_next", inputs), engine.recur("x", "x_next", others)
    for _ in range(3):
        one.advance({})
        other.advance({"noise": others["noise"]})
        got = engine.run(inputs)
    np.testing.assert_allclose(got["x_next"], expected_next(inputs), rtol=1e-6)
    np.testing.assert_allclose(got["sum"], expected_next(inputs).sum(), rtol=1e-5)
    for recurrence, begun in ((one, inputs), (other, others)):
        state = begun["x"]
        for _ in range(3):
            state = expected_next({**begun, "x": state})
        np.testing.assert_allclose(recurrence.read(), state, rtol=1e-6)
    assert runtime.faults == []


@pytest.mark.parametrize("order", ORDERS)
def test_the_recurrence_of_the_last_shapes_is_kept_and_begins_again(fake, order):
    rng = np.random.default_rng(0)
    engine, runtime, package = fake(**ORDERS[order])
    for changing in (VARYING, SAME[:4], [["bias"], [], ["noise"]], []):
        inputs = some_inputs(rng)
        run_steps(engine.recur("x", "x_next", inputs), inputs, changing, rng, lambda _: False)
        n_allocations, n_enqueued = runtime.n_allocations, package.enqueued
    assert runtime.faults == []
    inputs = some_inputs(rng)
    run_steps(engine.recur("x", "x_next", inputs), inputs, SAME, rng)
    assert runtime.n_allocations == n_allocations  # neither memory nor a capture is new
    assert package.enqueued == n_enqueued
    engine.close()
    assert runtime.alive() == []


def test_the_kept_recurrence_goes_before_one_of_other_shapes_is_made_and_with_its_engine(fake, monkeypatch):
    rng = np.random.default_rng(0)
    engine, runtime, _ = fake()
    alive, before = [], []
    make_stream = runtime.cudaStreamCreateWithFlags

    def making_a_stream(flags):
        before.append(len(runtime.alive()))
        return make_stream(flags)

    monkeypatch.setattr(runtime, "cudaStreamCreateWithFlags", making_a_stream)
    for n in (2, 4):
        engine.recur("x", "x_next", some_inputs(rng, n=n)).advance({})
        alive.append(len(runtime.alive()))
    assert alive[0] == alive[1]
    assert before == [0, 1, 0, 1]  # two streams each: nothing of the other is on the GPU beside it
    del engine  # nothing else refers to what it keeps
    assert runtime.alive() == []


def test_a_recurrence_that_is_in_use_is_not_lent_again(fake):
    engine = fake()[0]
    inputs, others = (some_inputs(np.random.default_rng(seed)) for seed in range(2))
    one, other = engine.recur("x", "x_next", inputs), engine.recur("x", "x_next", others)
    for recurrence, begun in ((one, inputs), (other, others)):
        recurrence.advance({})
        np.testing.assert_allclose(recurrence.read(), expected_next(begun), rtol=1e-6)


def test_a_recurrence_that_failed_is_not_lent_again(fake, monkeypatch):
    engine, runtime, _ = fake()
    inputs = some_inputs(np.random.default_rng(0))
    recurrence = engine.recur("x", "x_next", inputs)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "cudaEventRecord", lambda *_: (Status.cudaErrorInvalidValue,))
        with pytest.raises(SbimDeployError, match="cudaEventRecord"):
            recurrence.advance({"noise": inputs["noise"]})
    assert runtime.alive() == []
    with pytest.raises(ValueError, match="is closed"):
        recurrence.read()
    again = engine.recur("x", "x_next", inputs)
    again.advance({})
    np.testing.assert_allclose(again.read(), expected_next(inputs), rtol=1e-6)


def test_runs_of_several_shapes_and_of_arrays_that_are_not_contiguous(fake):
    rng = np.random.default_rng(0)
    engine, runtime, _ = fake()
    for n, k in ((2, 3), (2, 3), (4, 1), (1, 64)):
        inputs = some_inputs(rng, n, k)
        inputs["noise"] = np.asfortranarray(inputs["noise"])
        np.testing.assert_allclose(engine.run(inputs)["x_next"], expected_next(inputs), rtol=1e-6)
        np.testing.assert_allclose(engine.recur("x", "x_next", inputs).read(), inputs["x"])
    engine.close()
    gc.collect()
    assert runtime.alive() == []
    with pytest.raises(ValueError, match="engine is closed"):
        engine.run(inputs)


def test_what_nobody_uses_any_more_is_freed(fake):
    engine, runtime, _ = fake()
    inputs = some_inputs(np.random.default_rng(0))
    recurrence = engine.recur("x", "x_next", inputs)
    for _ in range(4):
        recurrence.advance({"noise": inputs["noise"]})
    engine.run(inputs)
    assert len(runtime.alive()) > 10
    del recurrence, engine
    gc.collect()
    assert runtime.alive() == []
    assert runtime.faults == []


def test_out_of_memory_is_one_error_at_any_allocation_and_leaves_nothing(fake):
    failed = 0
    for number in range(1, 40):
        engine, runtime, _ = fake()
        inputs = some_inputs(np.random.default_rng(0))
        runtime.fail_allocation = number
        try:
            with engine.recur("x", "x_next", inputs) as recurrence:
                recurrence.advance({"noise": inputs["noise"], "weight": inputs["weight"]})
        except InputError as error:
            assert "the GPU is out of memory" in str(error)  # noqa: PT017
            failed += 1
        else:
            engine.close()
        assert runtime.alive() == []
    assert failed == 1 + 2 + 4 + 2 * 3  # scratch, outputs, inputs; second copies with their staging


def test_a_context_that_does_not_tell_its_memory_gets_what_the_engine_needs_at_most(fake):
    engine, runtime, package = fake()
    package.memory_of_shapes = 0
    inputs = some_inputs(np.random.default_rng(0))
    np.testing.assert_allclose(engine.run(inputs)["x_next"], expected_next(inputs), rtol=1e-6)
    assert 4096 in [block.nbytes for _, block in runtime.memory.values()]


def test_a_closed_recurrence_says_so(fake):
    engine, _, _ = fake()
    recurrence = engine.recur("x", "x_next", some_inputs(np.random.default_rng(0)))
    recurrence.close()
    recurrence.close()
    with pytest.raises(ValueError, match="is closed"):
        recurrence.advance({})


def test_inputs_that_do_not_fit_are_refused(fake):
    engine, _, _ = fake()
    inputs = some_inputs(np.random.default_rng(0))
    with pytest.raises(EngineIncompatibleError, match=r"has n = 5, the engine was built for 1 to 4.*build"):
        engine.run(some_inputs(np.random.default_rng(0), n=5))
    with pytest.raises(ValueError, match="'weight' has n = 1, but input 'x' has 2"):
        engine.run({**inputs, "weight": inputs["weight"][:1]})
    with pytest.raises(ValueError, match="dtype float64"):
        engine.recur("x", "x_next", {**inputs, "x": inputs["x"].astype(np.float64)})
    with pytest.raises(ValueError, match="output 'y' is unknown"):
        engine.recur("x", "y", inputs)
    with pytest.raises(ValueError, match=r"output 'sum' is float32 \(1,\), expected float32 \(2, 3\)"):
        engine.recur("x", "sum", inputs)
    recurrence = engine.recur("x", "x_next", inputs)
    with pytest.raises(ValueError, match="'x' is the state"):
        recurrence.advance({"x": inputs["x"]})
    with pytest.raises(ValueError, match=r"'noise' is float32 \(1, 3\)"):
        recurrence.advance({"noise": inputs["noise"][:1]})


def test_compiled_kernels_are_kept_once_and_read_again(fake):
    kept = []

    def keep(kernels):
        kept.append(kernels)
        return "kept"

    inputs = some_inputs(np.random.default_rng(0))
    engine, _, package = fake(cache=RuntimeCache(b"", keep))
    assert package.cached is None
    engine.run(inputs)
    engine.recur("x", "x_next", inputs).advance({})
    assert kept == [b"kernels"]
    assert engine.description["runtime_cache"] == "kept"
    del engine
    engine, _, package = fake(cache=RuntimeCache(b"kernels", keep))
    engine.run(inputs)
    assert package.cached == b"kernels"
    assert kept == [b"kernels"]


def test_the_description_names_backend_version_and_device(fake):
    for backend, name in (("rtx", "tensorrt-rtx"), ("trt", "tensorrt")):
        description = fake(backend)[0].description
        assert description["backend"] == name
        assert description["device"] == "Fake 4090, compute capability 8.9"


def test_an_engine_that_tensorrt_does_not_take_is_incompatible(fake):
    fake()
    with pytest.raises(EngineIncompatibleError, match=r"1\.7\.1\.116 cannot load .*this is no engine"):
        TensorRTEngine("rtx", b"other", INPUTS, RANGES)


@pytest.mark.parametrize("call", ["run", "recur", "advance", "read", "close"])
def test_every_thread_calls_the_engines_own_gpu(fake, call):
    _, runtime, _ = fake()
    engine = TensorRTEngine("rtx", SERIALISED, INPUTS, RANGES, device_index=1)
    assert engine.description["device_index"] == "1"
    rng = np.random.default_rng(0)
    inputs = some_inputs(rng)
    recurrence = engine.recur("x", "x_next", inputs)
    unused = TensorRTEngine("rtx", SERIALISED, INPUTS, RANGES, device_index=1)
    calls = {
        "run": lambda: engine.run(inputs),
        "recur": lambda: engine.recur("x", "x_next", some_inputs(rng)),
        "advance": lambda: run_steps(recurrence, inputs, SAME, rng),
        "read": recurrence.read,
        "close": unused.close,
    }
    failures = []

    def work():
        try:
            assert runtime.device == 0  # as in every thread that is new
            calls[call]()
            assert runtime.device == 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    cuda.use_device(0)
    recurrence.close()
    engine.close()
    assert failures == []
    assert runtime.faults == []
    assert runtime.alive() == []


def test_a_gpu_that_failed_is_lost_for_the_process(fake, monkeypatch):
    engine, runtime, _ = fake()
    inputs = some_inputs(np.random.default_rng(0))
    recurrence = engine.recur("x", "x_next", inputs)
    recurrence.advance({})
    monkeypatch.setattr(runtime, "cudaMemcpyAsync", lambda *_: (Status.cudaErrorLaunchFailure,))
    with pytest.raises(DeviceLostError, match=r"cudaErrorLaunchFailure.*start it again"):
        recurrence.read()


def test_a_run_that_tensorrt_refuses_for_a_gpu_that_failed_says_that(fake, monkeypatch):
    engine, runtime, _ = fake()
    monkeypatch.setattr(IExecutionContext, "execute_async_v3", lambda self, stream_handle: False)
    inputs = some_inputs(np.random.default_rng(0))
    with pytest.raises(SbimDeployError, match="TensorRT refuses the run"):
        engine.recur("x", "x_next", inputs).advance({})
    runtime.sticky = Status.cudaErrorLaunchFailure
    with pytest.raises(DeviceLostError, match="TensorRT: cudaErrorLaunchFailure"):
        engine.recur("x", "x_next", inputs).advance({})


def test_packages_that_are_not_installed_are_named_with_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match=r'tensorrt is not installed: pip install .*\[trt\]"'):
        TensorRTEngine("trt", SERIALISED, INPUTS, RANGES)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendMissingError, match="cuda-bindings is not installed"):
        cuda.runtime()
