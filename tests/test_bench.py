"""`keras-nfnet bench`, and the turns that it and the benchmarks take."""

import json

import numpy as np
import pytest

from keras_nfnet.bench import turns
from keras_nfnet.cli import main


@pytest.mark.tensorflow
def test_bench_times_the_runtimes_and_says_what_they_give(
    tiny, tmp_path, capsys
):
    model, written = tmp_path / "tiny.keras", tmp_path / "times.json"
    tiny().save(model)
    arguments = ["bench", str(model), "--only", "ONNX Runtime"]
    arguments += ["--batch", "1", "3", "--minutes", "0.001"]
    assert main([*arguments, "--json", str(written)]) == 0
    streams = capsys.readouterr()
    (row,) = (x for x in streams.out.splitlines() if x.startswith("ONNX"))
    assert row.endswith("1.000000   100%")
    assert "round 1, 1 of 1: ONNX Runtime" in streams.err
    (found,) = json.loads(written.read_text())["rounds"]
    assert all(found["times"]["ONNX Runtime"][batch] > 0 for batch in "13")
    start = found["starts"]["ONNX Runtime"]
    assert 0 < start["imported"] < start["loaded"] < start["answered"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("F0", "--only", "Caffe"),
        ("F0", "--batch", "0"),
        ("F0", "--minutes", "-1"),
        ("tiny.keras", "--weights", "values.npz"),
        ("F0", "--json", "none_such/times.json"),
        ("F0", "--json", "times.txt"),
        ("F99",),
    ],
)
def test_bench_refuses_what_it_cannot_do(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("keras-nfnet: error: ")
    assert arguments[-1] in line


def test_a_runtime_that_fails_is_told_and_the_others_go_on(tmp_path):
    import onnx
    from onnx import helper

    image = [
        helper.make_tensor_value_info(name, 1, ["batch", 2, 2, 3])
        for name in "xy"
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", image[:1], image[1:]
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=9),
        tmp_path / "relu.onnx",
    )
    spec = {"runtime": "onnxruntime", "seen": "pixels", "shape": [2, 2, 3]}
    spec |= {"threads": 1, "path": str(tmp_path / "relu.onnx")}
    specs = {"good": spec, "bad": spec | {"path": str(tmp_path / "none")}}
    with turns.Workers(specs, print) as workers:
        found = [workers.take_turns([1], 0, index) for index in range(2)]
        pixels = np.full((3, 2, 2, 3), -1, "float32")
        np.testing.assert_array_equal(workers["good"].outputs(pixels), 0)
    assert [list(x["times"]) for x in found] == [["good"], ["good"]]
    assert [list(x["starts"]) for x in found] == [["good"], []]
    assert "none" in found[0]["failed"]["bad"]
    assert len(turns.ratios(found, "good", "good", 1)) == 2
    assert turns.ratios(found, "good", "bad", 1) == []


def test_agreement_of_logits_leaves_out_what_a_softmax_does():
    wanted = np.random.default_rng(0).normal(size=(4, 10))
    assert turns.agreement(wanted + 100, wanted) == pytest.approx((1, 1))
    cosine, top1 = turns.agreement(-wanted, wanted)
    assert (cosine, top1) == (pytest.approx(-1), 0)
