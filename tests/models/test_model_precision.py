"""--precision: what is asked for is taken, and auto weighs the model's cost and the processor's speed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sbim_deploy.errors import EngineIncompatibleError, InputError
from sbim_deploy.models import backends, precision
from sbim_deploy.models.backends import LOWER, MEASURED, open_engine, precision_of
from sbim_deploy.models.folder import load_model

DEMO = load_model("demo")
CHEAP = {"score at sigma 1": 0.01, "image NRMSE": 0.002, "image SSIM": 0.9999}


def model(**changes):
    return replace(DEMO, manifest=replace(DEMO.manifest, **changes))


class Processor:
    """Engines that take some seconds for a call, on a clock of their own; those in ``lacks`` are refused."""

    def __init__(self):
        self.seconds = {"openvino": 1.0, "openvino-bf16": 0.4, "onnxruntime": 1.0}
        self.lacks, self.opened, self.now = set(), [], 0.0

    def open(self, _model, graph, backend, threads, streams):
        if backend in self.lacks:
            raise EngineIncompatibleError(f"backend {backend}: an old processor")
        self.opened.append((graph, backend, threads))

        def run(_inputs):
            self.now += self.seconds[backend]

        return SimpleNamespace(description={"backend": backend}, run=run)


@pytest.fixture
def processor(monkeypatch):
    made = Processor()
    monkeypatch.setattr(backends, "_open", made.open)
    monkeypatch.setattr(
        backends, "missing_reason", lambda _model, _graph, name: None if name in made.seconds else "-"
    )
    monkeypatch.setattr(backends, "BEST_FIRST", ("trt", "openvino", "onnxruntime"))
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(precision, "_TIMES", {})
    return made


def taken(given, backend="auto", asked="auto"):
    return open_engine(given, "score", backend, 1, asked).description


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_auto_takes_bfloat16_that_is_faster_and_costs_little_and_says_both(processor, backend):
    chosen = taken(model(bfloat16_cost=CHEAP), backend)
    assert chosen["backend"] == "openvino-bf16"
    assert "precision auto: bf16 takes 0.40 of fp32's time on this processor" in chosen["chosen"]
    assert "an image differs by 2.0e-03 at an SSIM of 0.99990" in chosen["chosen"]


@pytest.mark.parametrize(
    ("cost", "reason"),
    [
        ({}, "manifest does not say what bf16 costs: export it again"),
        ({"score at sigma 1": 0.01}, "manifest does not say what bf16 costs"),
        ({**CHEAP, "image NRMSE": 0.011}, "NRMSE of 1.1e-02, more than 0.01"),
        ({**CHEAP, "image SSIM": 0.998}, "SSIM of 0.9980, less than 0.999"),
        ({**CHEAP, "score at sigma 1": 0.06}, "score at sigma 1 an error of 6.0e-02, more than 0.05"),
        ({**CHEAP, "image NRMSE": float("nan")}, "NRMSE of nan"),
    ],
)
def test_auto_stays_in_fp32_where_the_cost_is_unknown_or_large_and_measures_nothing(processor, cost, reason):
    chosen = taken(model(bfloat16_cost=cost))
    assert chosen["backend"] == "openvino"
    assert "precision auto: fp32, " in chosen["chosen"]
    assert reason in chosen["chosen"]
    assert [backend for _, backend, _ in processor.opened] == ["openvino"]


@pytest.mark.parametrize("seconds", [0.95, 4.0])
def test_auto_stays_in_fp32_where_bfloat16_is_not_clearly_faster(processor, seconds):
    processor.seconds["openvino-bf16"] = seconds
    chosen = taken(model(bfloat16_cost=CHEAP))
    assert chosen["backend"] == "openvino"
    assert (
        f"fp32, bf16 takes {seconds:.2f} of fp32's time on this processor, more than 0.9" in chosen["chosen"]
    )


def test_auto_stays_in_fp32_where_the_processor_has_no_bfloat16(processor):
    processor.lacks.add("openvino-bf16")
    chosen = taken(model(bfloat16_cost=CHEAP))
    assert chosen["backend"] == "openvino"
    assert "fp32, backend openvino-bf16: an old processor" in chosen["chosen"]


def test_auto_leaves_other_backends_and_models_of_half_precision_as_they_are(processor):
    chosen = taken(model(bfloat16_cost=CHEAP), "onnxruntime")
    assert (chosen["backend"], chosen["chosen"]) == (
        "onnxruntime",
        "asked for; precision auto: float32, the only one of this model in this backend",
    )
    chosen = taken(model(dtype="float16", bfloat16_cost=CHEAP))
    assert chosen["backend"] == "openvino"
    assert chosen["chosen"].endswith("precision auto: float16, the only one of this model in this backend")


def test_the_graphs_of_a_run_are_of_one_precision_though_times_vary(processor):
    given = model(bfloat16_cost=CHEAP)
    assert taken(given)["backend"] == "openvino-bf16"
    processor.seconds["openvino-bf16"] = 2.0
    n_opened = len(processor.opened)
    assert open_engine(given, "step-proximal-2d", "auto", 1, "auto").description["backend"] == "openvino-bf16"
    assert processor.opened[n_opened:] == [
        ("step-proximal-2d", name, 1) for name in ("openvino", "openvino-bf16")
    ]
    # Another number of threads is another measurement.
    assert open_engine(given, "score", "auto", 2, "auto").description["backend"] == "openvino"


def test_bfloat16_is_weighed_with_the_threads_that_a_stream_has(processor):
    chosen = open_engine(model(bfloat16_cost=CHEAP), "score", "auto", 6, "auto", 3).description
    assert chosen["backend"] == "openvino-bf16"
    assert processor.opened == [
        ("score", "openvino", 6),
        ("score", "openvino-bf16", 2),
        ("score", "openvino", 2),
        ("score", "openvino-bf16", 6),
    ]


@pytest.mark.parametrize("backend", ["auto", "openvino", "openvino-bf16"])
def test_bfloat16_that_is_asked_for_is_taken_whatever_it_costs(processor, backend):
    chosen = taken(model(bfloat16_cost={}), backend, "bf16")
    assert chosen["backend"] == "openvino-bf16"
    assert "asked for" in chosen["chosen"]
    processor.lacks.add("openvino-bf16")
    with pytest.raises(EngineIncompatibleError, match="an old processor"):
        taken(DEMO, backend, "bf16")


@pytest.mark.parametrize("asked", [None, "fp32"])
def test_without_bfloat16_being_asked_for_it_is_never_taken(processor, asked):
    chosen = taken(model(bfloat16_cost=CHEAP), "auto", asked)
    assert chosen["backend"] == "openvino"
    assert "precision" not in chosen["chosen"]
    assert processor.opened == [("score", "openvino", 1)]


@pytest.mark.parametrize(
    ("given", "backend", "asked", "message"),
    [
        (DEMO, "auto", "half", "unknown precision 'half': expected one of fp32, bf16, auto"),
        (
            DEMO,
            "onnxruntime",
            "bf16",
            "backend onnxruntime computes this model in float32; openvino has bf16",
        ),
        (DEMO, "rtx", "bf16", "a model exported with --dtype bf16 has it on a GPU"),
        (DEMO, "openvino-bf16", "fp32", "backend openvino-bf16 has one of its own"),
        (DEMO, "openvino-bf16", "auto", "backend openvino-bf16 has one of its own"),
        (DEMO, "onnxruntime-cuda-tf32", "fp32", "backend onnxruntime-cuda-tf32 has one of its own"),
        (model(dtype="bfloat16"), "auto", "fp32", "was exported in bfloat16 and computes in it"),
        (model(dtype="float16"), "openvino", "bf16", "was exported in float16 and computes in it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_the_way_out(given, backend, asked, message):
    with pytest.raises(InputError, match=message):
        open_engine(given, "score", backend, precision=asked)


def test_a_model_exported_in_bfloat16_is_left_as_it_is(processor):
    chosen = taken(model(dtype="bfloat16"), "openvino", "bf16")
    assert chosen == {"backend": "openvino", "chosen": "asked for"}


def test_bfloat16_of_openvino_is_for_float32_alone():
    with pytest.raises(InputError, match=r"computes in float16, expected float32: take openvino$"):
        open_engine(model(dtype="float16"), "score", "openvino-bf16")
    assert backends.missing_reason(model(dtype="float16"), "score", "openvino-bf16")


def test_the_name_of_the_backend_says_the_precision_everywhere():
    assert precision_of({"backend": "openvino-bf16"}, DEMO.manifest) == "bfloat16"
    assert precision_of({"backend": "openvino"}, DEMO.manifest) == "float32"
    assert backends.backend_of({"backend": "openvino-bf16"}) == "openvino-bf16"
    assert set(MEASURED) == {*backends.BEST_FIRST, "openvino-bf16"}
    assert not set(LOWER) & set(backends.BEST_FIRST)


def test_the_demo_s_cost_is_known_and_small():
    assert precision._excess(DEMO.manifest) is None
    assert {name for name in DEMO.manifest.bfloat16_cost if name.startswith("score")} == set(
        DEMO.manifest.precision_cost
    )
