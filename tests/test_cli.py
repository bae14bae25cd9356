"""The command line: exit statuses, one-line errors, tables."""

import json

import numpy as np
import pytest

from keras_nfnet import weights
from keras_nfnet.cli import main
from keras_nfnet.variants import VARIANTS


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.mark.parametrize(
    "command", ["demo", "info", "predict", "convert", "bench"]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert "usage: keras-nfnet" in capsys.readouterr().out


def test_unknown_command_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["nonsense"])
    assert exit_.value.code == 2


def test_info_prints_all_variants(capsys, variant_rows, monkeypatch):
    monkeypatch.setattr(
        "keras_nfnet.diagnostics.variant_table", lambda: variant_rows
    )
    status, out, _ = run(capsys, "info")
    assert status == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines()[1:]}
    assert len(lines) == len(VARIANTS)
    assert lines["F0"][1:6] == ["71,489,284", "192", "6.98", "256", "12.38"]
    status, out, _ = run(capsys, "info", "--json")
    assert len(json.loads(out)) == len(VARIANTS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "nowhere.jpg"),
        ("predict", "."),
        ("convert", "nowhere.npz", "out.safetensors"),
        ("convert", ".", "out.safetensors"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(arguments, capsys, tmp_path):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("keras-nfnet: error: ")
    assert arguments[1] in line


def test_convert_there_and_back(tiny, tmp_path, capsys):
    model = tiny()
    first, second = tmp_path / "a.npz", tmp_path / "b.weights.h5"
    weights.save(model, tmp_path / "own.safetensors")
    assert run(capsys, "convert", tmp_path / "own.safetensors", first)[0] == 0
    assert run(capsys, "convert", first, second)[0] == 0
    other = tiny()
    for variable in other.trainable_weights:
        variable.assign(np.zeros(variable.shape))
    weights.load(other, second)
    for mine, others in zip(
        other.trainable_weights, model.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(mine, others)
