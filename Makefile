# make demo   the whole way on real pictures: train, evaluate, export, predict
# make test   lint (style, and the types of public names) and tests
# make test-long   notebooks, several devices and processes, the JAX backend;
#                  .ci/run runs it too
# make test-versions   oldest and newest TensorFlow and Keras; FULL=1: all tests
# make test-nightly    the pre-release of Keras
# make test-torch      the PyTorch backend, in .venv-torch; TORCH=torch takes
#                      another wheel than the one for CPUs, SHORT=1 the short
#                      set that .ci/run runs, FULL=1 the slow tests too
# make test-openvino   exports to OpenVINO and its backend, in .venv-openvino
# make test-hub        keras-hub's detectors and keras_nfnet.hub, in .venv-hub;
#                      FULL=1: F2 to F6 too
# make docs          the site, in site/; warnings are errors
# make docs-check    every page of it in headless Chromium
# make everywhere      networks on all backends and runtimes against the
#                      authors' logits: benchmarks/results/everywhere.md
# make bench-rivals    our networks beside timm's in every runtime, in
#                      .venv-rivals; RIVALS="--minutes 60 --networks F0" options
# make faults        injects faults, counts what comes of them and writes
#                      docs/reliability.md; KINDS="hostile" some kinds only
# make constraints     constraints.txt from what .venv holds; opt in by
#                      make clean; make test CONSTRAINTS=constraints.txt
# make audit         asks pip-audit about the versions in constraints.txt;
#                    needs its data, from the network
# make release-check   sdist and wheel, tried where the source cannot be seen
PYTHON ?= python3
# The Pythons on which `make release-check` tries the wheel.
PYTHONS ?= $(PYTHON)
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# The short set that runs on the JAX backend too; all others may.
JAX_TESTS := $(addprefix tests/test_,layers.py models.py optimizers.py \
	reference.py training_step.py diagnostics.py weights_haiku.py \
	data_preprocessing.py training_exact.py family.py fold.py \
	own_family.py remat.py)

# What a release of TensorFlow or Keras breaks first, and what is installed
# for each end of the range in setup.cfg.
VERSION_TESTS := $(addprefix tests/test_,layers.py models.py optimizers.py \
	reference.py training_step.py fold.py remat.py)
# What the pre-release of Keras may break besides.
NIGHTLY_TESTS := $(VERSION_TESTS) $(addprefix tests/test_,parts.py import.py \
	keras_features.py sharding.py)
oldest := "tensorflow==2.19.*" "keras==3.12.*" "tensorflow-metadata<1.18"
newest := tensorflow keras

# What runs on the PyTorch backend, and its wheel.
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_TESTS := $(addprefix tests/test_,layers.py models.py fold.py \
	reference.py family.py training_step.py sam_step.py weights_files.py \
	family_whole_way.py export_files.py backend_torch.py training_exact.py \
	remat.py compact.py)
TORCH_SHORT := $(addprefix tests/test_,layers.py reference.py sam_step.py \
	backend_torch.py training_exact.py)
# What runs on the OpenVINO backend.
OPENVINO_TESTS := $(addprefix tests/test_,layers.py models.py fold.py \
	reference.py family.py family_whole_way.py)

# One process of tests per core, and no more: each has threads of its own.
PARALLEL := -n auto --dist worksteal

.PHONY: demo test test-long test-versions test-oldest test-newest test-nightly \
	test-torch test-openvino test-hub docs docs-check everywhere \
	bench-rivals faults constraints audit release-check lint format clean

demo: .venv/.train
	$(BIN)/keras-nfnet demo

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not long"

test-long: .venv/.dev
	$(BIN)/python -m pytest $(PARALLEL) -m long
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL) -m "not tensorflow and not slow" \
		$(JAX_TESTS)

# By itself: pip asks each index for each package.
install_torch = $(1)/bin/python -m pip install --quiet "$(TORCH)" \
	|| $(1)/bin/python -m pip install --quiet "$(TORCH)" \
		--extra-index-url $(TORCH_INDEX)

test-versions: test-oldest test-newest

test-oldest test-newest: test-%: .venvs/%/.created
	.venvs/$*/bin/python -m pip install --quiet --upgrade --editable ".[dev]" $($*)
	.venvs/$*/bin/python -m pip list | grep -E '^(tensorflow|keras|jax|numpy) '
	.venvs/$*/bin/python -m pytest $(PARALLEL) $(if $(FULL),,$(VERSION_TESTS))

# The pre-release is a package of its own with the same files as `keras`.
test-nightly: .venvs/nightly/.created
	.venvs/nightly/bin/python -m pip install --quiet --upgrade --editable ".[dev]"
	.venvs/nightly/bin/python -m pip uninstall --quiet --yes keras
	.venvs/nightly/bin/python -m pip install --quiet --pre --no-deps \
		--force-reinstall keras-nightly
	.venvs/nightly/bin/python -m pip list | grep -E '^(tensorflow|keras|jax|numpy)'
	.venvs/nightly/bin/python -m pytest $(PARALLEL) $(if $(FULL),,$(NIGHTLY_TESTS))

test-torch: .venv-torch/.created
	$(call install_torch,.venv-torch)
	.venv-torch/bin/python -m pip install --quiet --editable ".[dev]"
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest $(PARALLEL) \
		$(if $(FULL),,-m "not slow") $(if $(SHORT),$(TORCH_SHORT),$(TORCH_TESTS))

test-openvino: .venv-openvino/.created
	.venv-openvino/bin/python -m pip install --quiet --editable ".[dev,openvino]"
	.venv-openvino/bin/python -m pytest $(PARALLEL) tests/test_export_openvino.py \
		tests/test_examples.py::test_spectrograms
	KERAS_BACKEND=openvino .venv-openvino/bin/python -m pytest $(PARALLEL) \
		$(if $(FULL),,-m "not slow") $(OPENVINO_TESTS)

docs: .venv-docs/.created
	.venv-docs/bin/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

docs-check: docs
	.venv-docs/bin/python tools/site_check.py site
everywhere: .venv-everywhere/.created
	$(call install_torch,.venv-everywhere)
	.venv-everywhere/bin/python -m pip install --quiet \
		--editable ".[dev,openvino]"
	.venv-everywhere/bin/python benchmarks/everywhere.py

# timm's requirement, torchvision, must be of the same build as PyTorch.
bench-rivals: .venv-rivals/.created
	.venv-rivals/bin/python -m pip install --quiet torch torchvision \
		--index-url $(TORCH_INDEX) \
		|| .venv-rivals/bin/python -m pip install --quiet torch torchvision
	.venv-rivals/bin/python -m pip install --quiet timm onnxscript \
		--editable ".[dev,openvino]"
	.venv-rivals/bin/python benchmarks/rivals.py $(RIVALS)

# The dry run tells whether keras-hub's pins and ours fit.
test-hub: .venv-hub/.created
	.venv-hub/bin/python -m pip install --quiet --dry-run \
		--constraint constraints.txt --editable ".[hub]"
	.venv-hub/bin/python -m pip install --quiet --editable ".[dev,hub]"
	.venv-hub/bin/python -m pytest $(PARALLEL) $(if $(FULL),,-m "not slow") \
		tests/test_hub.py
	.venv-hub/bin/python -m pytest -k hub tests/test_docstrings.py tests/test_docs.py

faults: .venv/.dev
	PYTHONPATH=tests $(BIN)/python -m faults $(KINDS)

define created
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	touch $@
endef
.venvs/%/.created:
	$(created)
.venv-%/.created:
	$(created)

constraints: .venv/.dev
	$(BIN)/python tools/constraints.py > $@.new
	mv $@.new $@.txt

# Strict: without its data, pip-audit skips all and says that it found none.
audit: .venvs/audit/.created
	.venvs/audit/bin/python -m pip install --quiet --upgrade pip-audit
	.venvs/audit/bin/pip-audit --strict --disable-pip --no-deps \
		--requirement constraints.txt

release-check: .venv/.dev
	$(BIN)/python tools/release_check.py $(addprefix --python ,$(PYTHONS))

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.train: .venv/.created setup.cfg pyproject.toml
	$(INSTALL) --editable ".[train,export]"
	touch $@

.venv/.dev: .venv/.created setup.cfg pyproject.toml
	$(INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venvs .venv-* demo build dist site *.egg-info
