"""TensorFlow's library, opened in a thread while the server already listens.

dlopen of the library takes a third of a second. It needs no GIL, but it holds the dynamic
loader's lock: an `import` of any other extension module waits for it, and holds the GIL while it
waits. So this is to be started when everything else has been imported.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec

from tfsrv import _tf
from tfsrv._op_libraries import find_op_libraries, load_op_libraries
from tfsrv._run_pools import prime_pools
from tfsrv.errors import Code, ServingError

logger = logging.getLogger("tfsrv")

# Of tensorflow/compiler/jit/flags.h. It has no counterpart in the C API, and no ConfigProto or
# TF_XLA_FLAGS forbids a model to compile itself.
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"


class Opening:
    """Opens the library once, beginning at once, and makes it ready for models.

    Whoever loads a model meanwhile waits for that, the making of the thread pools included, which
    `session_config`, a serialized ConfigProto, describes. With `op_libraries`, words of the flag
    of that name, the constructor waits too: a library that does not load ends the server, and
    that is to be known before anybody could connect.
    """

    def __init__(
        self,
        *,
        xla_enabled: bool = False,
        op_libraries: Sequence[str] = (),
        session_config: bytes = b"",
    ) -> None:
        self._xla_enabled = xla_enabled
        self._op_libraries = op_libraries
        self._session_config = session_config
        self.error: ServingError | None = None  # final once the thread has ended
        self.devices: list[str] = []  # known once it is open
        self._version = ""
        _tf.hold_sessions()
        self._thread = threading.Thread(target=self._open, name="open-tensorflow", daemon=True)
        self._thread.start()
        if op_libraries or not _is_installed():  # then it fails at once, and says why
            self._thread.join()

    def wait(self) -> str:
        """Wait until it is open; TensorFlow's version. Raises ServingError."""
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self._version

    def _open(self) -> None:
        try:
            libraries = find_op_libraries(self._op_libraries)
            self._version = _tf.open_library()
            if not self._xla_enabled:
                disable_xla_compilation()
            load_op_libraries(libraries)
            prime_pools(self._session_config, self.devices)
        except ServingError as error:
            self.error = error
        except Exception as error:
            self.error = ServingError(Code.INTERNAL, f"TensorFlow cannot be opened: {error}")
        finally:
            _tf.release_sessions(self.error)


def _is_installed() -> bool:
    try:
        spec = find_spec("tensorflow")
    except (ImportError, ValueError):
        return False
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return any(os.path.exists(os.path.join(folder, _tf.LIBRARY)) for folder in folders)


def disable_xla_compilation() -> None:
    """Let no model compile itself with XLA: such a run is an error, as in TensorFlow Serving."""
    import ctypes  # in this thread, since it is slow to import

    # RTLD_NOLOAD: it is open, this only finds it.
    library = ctypes.CDLL(_tf.library_path(), mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    try:
        disable = library[_DISABLE_XLA]
    except AttributeError:
        logger.warning("This TensorFlow does not let XLA be turned off: models may use it.")
        return
    disable.restype = None
    disable()
