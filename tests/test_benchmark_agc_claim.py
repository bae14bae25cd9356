"""The benchmark `agc_claim` in its quick form, and the twin it compares."""

import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NETWORKS = ("agc", "no_agc", "bn")
# A rate at which nothing unclipped stays finite.
RATES = (0.1, 1e4)

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import agc_claim

        yield agc_claim


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, data_dir):
    out = str(tmp_path_factory.mktemp("out"))
    return (
        ["--quick", "--epochs", "1", "--batches", "256", "--workers", "1"]
        + ["--base-rates", *map(str, RATES)]
        + ["--out", out, "--data-dir", data_dir]
    )


@pytest.fixture(scope="module")
def folder(benchmark, arguments):
    assert benchmark.main(arguments) == 0
    return Path(arguments[arguments.index("--out") + 1])


@pytest.fixture(scope="module")
def trainers(benchmark, data_dir):
    setting = benchmark.settings(quick=True)
    return {
        network: benchmark.Trainer(network, setting, data_dir)
        for network in NETWORKS
    }


def read(folder):
    text = (folder / "agc_claim_quick.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_run_is_kept_once(folder):
    rows = read(folder)
    keys = {(row["network"], row["base_rate"]) for row in rows}
    assert keys == {(name, rate) for name in NETWORKS for rate in RATES}
    assert len(rows) == 6
    for row in rows:
        assert row["learning_rate"] == row["base_rate"]  # Batch 256.
        assert row["steps"] == round(1437 / 256)
        assert row["cpu_seconds"] > 0
        assert (row["accuracy"] is None) == (row["diverged_at"] is not None)
        if row["accuracy"] is not None:
            assert 0 <= row["accuracy"] <= 1


def test_a_run_that_diverged_is_said_to_be_nan(folder):
    (row,) = (
        row
        for row in read(folder)
        if row["network"] == "no_agc" and row["base_rate"] == RATES[1]
    )
    assert row["accuracy"] is None and row["loss"] is None
    assert 0 < row["diverged_at"] <= row["steps"]
    assert "NaN in 1 of 1" in (folder / "agc_claim_quick.md").read_text()


def test_table_and_plot_are_there(folder):
    from PIL import Image

    text = (folder / "agc_claim_quick.md").read_text()
    for rate in RATES:
        assert f"Base rate {rate:g} at batch 256" in text
    for row in read(folder):
        if row["accuracy"] is not None:
            assert f" {100 * row['accuracy']:.1f} |" in text
    assert Image.open(folder / "agc_claim_quick.png").size[0] > 800
    assert not list(folder.glob(".*part*"))


def test_finished_runs_are_not_run_again(
    benchmark, arguments, folder, tmp_path, capsys
):
    rows = read(folder)
    rows[0]["accuracy"] = 0.123
    kept = "".join(json.dumps(row) + "\n" for row in rows)
    copy = tmp_path / "agc_claim_quick.jsonl"
    again = [*arguments, "--out", str(tmp_path)]
    copy.write_text(kept)
    assert benchmark.main(again) == 0
    assert copy.read_text() == kept
    assert "12.3" in (tmp_path / "agc_claim_quick.md").read_text()
    assert "6 of 6" in capsys.readouterr().out

    fewer = kept.split("\n", 1)[1]
    copy.write_text(fewer)
    assert benchmark.main([*again, "--limit-seconds", "0"]) == 0
    assert copy.read_text() == fewer
    out = capsys.readouterr().out
    assert "5 of 6" in out and "1 runs are still to be done" in out


def test_another_setting_does_not_count_as_finished(
    benchmark, arguments, folder, capsys
):
    other = [*arguments, "--epochs", "2", "--limit-seconds", "0"]
    with pytest.raises(SystemExit) as error:
        benchmark.main(other)
    assert error.value.code == 2
    captured = capsys.readouterr()
    assert "0 of 6" in captured.out
    assert "holds no run of this setting" in captured.err
    assert len(read(folder)) == 6


@pytest.mark.parametrize(
    "bad", [["--batches", "0"], ["--base-rates", "-1"], ["--seeds", "-1"]]
)
def test_arguments_out_of_range_are_refused(benchmark, bad, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main(["--quick", *bad])
    assert error.value.code == 2
    assert f"Received: [{bad[1]}" in capsys.readouterr().err


def test_both_nf_networks_start_from_the_same_values(trainers):
    with_agc, without = trainers["agc"], trainers["no_agc"]
    for mine, others in zip(
        with_agc.initial_values(0), without.initial_values(0), strict=True
    ):
        np.testing.assert_array_equal(mine, others)
    assert any(
        np.any(mine != others)
        for mine, others in zip(
            with_agc.initial_values(0), with_agc.initial_values(1), strict=True
        )
    )
    assert with_agc.optimizer.clipping == 0.01
    assert without.optimizer.clipping is None


def test_twin_has_batch_normalization_and_no_weight_standardization(trainers):
    import keras

    from keras_nfnet.diagnostics.batch_normalized_twin import PlainConv2D
    from keras_nfnet.layers import ScaledWSConv2D, SkipInit

    def count(network, kind):
        layers = trainers[network].model._flatten_layers()
        return sum(type(layer) is kind for layer in layers)

    convolutions = count("agc", ScaledWSConv2D)
    assert count("bn", PlainConv2D) == convolutions > 0
    assert count("bn", keras.layers.BatchNormalization) == convolutions
    assert count("bn", ScaledWSConv2D) == count("bn", SkipInit) == 0
    assert count("agc", keras.layers.BatchNormalization) == 0

    def parameters(network):
        weights = trainers[network].model.trainable_variables
        return sum(int(np.prod(weight.shape)) for weight in weights)

    blocks = count("agc", SkipInit)
    assert parameters("agc") - parameters("bn") == blocks > 0


def test_twin_is_evaluated_with_the_statistics_of_the_training_set(trainers):
    from keras_nfnet.diagnostics import use_statistics_of

    model, images = trainers["bn"].model, trainers["bn"].data[0]
    before = np.asarray(model(images, training=False))
    expected = np.asarray(model(images, training=True))
    use_statistics_of(model, images[:32])
    assert np.max(np.abs(model(images, training=False) - expected)) > 1e-3
    use_statistics_of(model, images)
    after = np.asarray(model(images, training=False))
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5)
    assert np.max(np.abs(after - before)) > 1e-3
