"""TensorFlow's library, opened in a thread while the rest of the server is imported.

dlopen takes a third of a second, without the GIL: started first and awaited last, it costs
the start of the server next to nothing.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading

from tfsrv import _tf
from tfsrv.errors import Code, ServingError

logger = logging.getLogger("tfsrv")

# Of tensorflow/compiler/jit/flags.h. It has no counterpart in the C API, and no ConfigProto or
# TF_XLA_FLAGS forbids a model to compile itself.
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"


class Opening:
    """Opens the library once, beginning at once."""

    def __init__(self, *, xla_enabled: bool = False) -> None:
        self._xla_enabled = xla_enabled
        self.error: ServingError | None = None  # set by the thread, at its end
        self._version = ""
        self._thread = threading.Thread(target=self._open, name="open-tensorflow", daemon=True)
        self._thread.start()

    def wait(self) -> str:
        """Wait until it is open; TensorFlow's version. Raises ServingError."""
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self._version

    def _open(self) -> None:
        try:
            self._version = _tf.open_library()
            if not self._xla_enabled:
                disable_xla_compilation()
        except ServingError as error:
            self.error = error
        except Exception as error:
            self.error = ServingError(Code.INTERNAL, f"TensorFlow cannot be opened: {error}")


def disable_xla_compilation() -> None:
    """Let no model compile itself with XLA: such a run is an error, as in TensorFlow Serving."""
    # By its soname, since it is open: this only finds it.
    library = ctypes.CDLL(_tf.LIBRARY, mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    try:
        disable = library[_DISABLE_XLA]
    except AttributeError:
        logger.warning("This TensorFlow does not let XLA be turned off: models may use it.")
        return
    disable.restype = None
    disable()
