"""The tests, read: every source file has the test file that mirrors it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for package in ("surgery", "pruning", "recipes")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}

# What has no test file of its own, and the tests that reach it. Nothing is to be added here.
ELSEWHERE = {
    "pruning/dead/tally.py": "pruning/dead/test_meter.py",
    "recipes/data/dataset.py": "recipes/data/test_opening.py",
    "recipes/data/preprocessing.py": "recipes/models/test_preprocessing.py",
    "recipes/format/recipe.py": "recipes/format/test_parse.py",  # a record
    "recipes/format/settings.py": "recipes/format/test_parse.py",
    "recipes/runs/folder.py": "recipes/runs/test_run.py",
    "recipes/runs/stages.py": "recipes/runs/test_run.py",
    "surgery/activations/functions/piecewise.py": "surgery/activations/functions/test_pwlu.py",
    "surgery/activations/kernels/triton_code.py": "surgery/activations/kernels/test_triton_kernels.py",
    "surgery/dataflow/trace.py": "surgery/dataflow/test_flow.py",  # records
    "surgery/deploy/runtimes/coreml.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/executorch.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/litert.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/ncnn.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/onnxruntime.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/openvino.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/deploy/runtimes/tvm.py": "surgery/deploy/runtimes/test_runtimes.py",
    "surgery/edit/write.py": "surgery/isolation/test_snapshot.py",
    "surgery/isolation/meta_copy.py": "surgery/isolation/test_own_hooks.py",
    "surgery/look/call_site.py": "surgery/look/test_references.py",
    "surgery/look/classifier_output.py": "surgery/dataflow/test_flow.py",
    "surgery/look/context.py": "surgery/look/test_finder.py",
    "surgery/look/listen.py": "surgery/look/test_observe.py",
    "surgery/look/look.py": "surgery/edit/test_same_traces.py",  # a record
}


def mirror(source: str) -> Path:
    folder, _, name = source.rpartition("/")
    return ROOT / "tests" / folder / f"test_{name}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_its_test_file(source: str) -> None:
    if source in ELSEWHERE:
        assert not mirror(source).exists(), f"{source} has a test file by now: take it off the list"
        assert (ROOT / "tests" / ELSEWHERE[source]).is_file()
    else:
        assert mirror(source).is_file(), f"{source} has no {mirror(source).relative_to(ROOT)}"


def test_the_list_names_sources() -> None:
    assert set(ELSEWHERE) <= set(SOURCES)
