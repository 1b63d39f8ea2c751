"""One file for each runtime; a runtime is imported by its own file alone, inside its functions."""

from surgery.deploy.runtimes import coreml, executorch, litert, ncnn, onnxruntime, openvino, tvm

TARGETS = {
    target.name: target
    for target in (
        onnxruntime.TARGET,
        openvino.TARGET,
        ncnn.TARGET,
        litert.TARGET,
        coreml.TARGET,
        executorch.TARGET,
        tvm.TARGET,
    )
}
