"""Core ML: an `.mlpackage` folder with an ML program, for Apple devices."""

from __future__ import annotations

import logging
import warnings

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._tracing import trace

LARGEST_BATCH = 1024  # an ML program must have a limit


def export(request: Request) -> Written:
    """Convert the model, traced on the example; the batch is between 1 and `LARGEST_BATCH`."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about the versions of torch and scikit-learn, and about tracing
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        import coremltools as ct

        traced, frozen = trace(request.model, request.example)
        precisions = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
        batch = ct.RangeDim(lower_bound=1, upper_bound=LARGEST_BATCH, default=1)
        shape = ct.Shape((batch, *request.example.shape[1:]))
        package = ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[ct.TensorType(name="input", shape=shape, dtype=np.float32)],
            outputs=[ct.TensorType(name="logits", dtype=np.float32)],
            compute_precision=precisions[request.precision],
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,  # loading means compiling, which only macOS can do
        )
        package.user_defined_metadata.update(request.metadata)
        package.save(str(request.path))
    return Written(warnings=frozen)
