"""Servables written in Python that answer Predict, and what is like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@runtime_checkable
class PredictServable(Protocol):
    """What a servable needs to answer Predict, Classify, Regress and MultiInference.

        class Doubler:
            def predict(self, signature_name, inputs, output_filter):
                return {"y": inputs["x"] * 2}

    Classify and Regress ask for `inputs`, a vector of serialized tf.Examples (bytes), without an
    output filter, and MultiInference once for each of its tasks. They take `classes` (strings) and
    `scores` (float32), both [examples, classes], or one of them; or `outputs` (float32), [examples]
    or [examples, 1].

    It may also have `signature_defs`, a mapping from names to tensorflow.SignatureDef messages:
    then other signatures and other outputs are refused before predict() is called, and by Classify
    and Regress those that do not classify or regress; requests are counted by signature, and
    clients can ask for it. Whether the inputs fit is for predict() to say in any case. Both
    attributes are looked up for each request, on the thread that calls predict().
    """

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, NDArray[Any]],
        output_filter: Sequence[str],
    ) -> Mapping[str, NDArray[Any] | numpy.generic]:
        """Answer one request.

        Strings are arrays of objects, which are bytes. An output may also hold `str`. The arrays
        in `inputs` belong to the callee. `output_filter` names the outputs that the client wants,
        all if it is empty; others that are returned are left out.

        Arrays that are returned must not change from then on: they are read after predict() has
        returned, and not copied before. Who keeps one and writes to it sends a mixture of old and
        new values, though always a well-formed answer. Masked arrays are refused.

        Called on several threads at a time: two, and up to eight where predict() mostly waits, for
        a file, say, or for another server. It may wait as long as it likes: only requests for the
        same servable wait with it. What it computes in Python takes the GIL from everybody else,
        the loop that answers all requests among them, in turns of 0.1 ms: that slows the server
        down, so let numpy or other native code compute, which lets the GIL go. The servable stays
        loaded until the answer is written. ServingError is the answer's status; every other
        exception is an INTERNAL one.
        """
