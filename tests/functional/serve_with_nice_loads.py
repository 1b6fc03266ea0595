"""serve_several with load threads at nice 10, which the manager does not ask for yet."""

from __future__ import annotations

import sys
from typing import Any

from tests.functional.serve_several import main
from tfsrv.core import aspired_versions_manager
from tfsrv.core.executor import SlotExecutor
from tfsrv.server import leave


def make_executor(name: str, slots: int, **options: Any) -> SlotExecutor:
    return SlotExecutor(name, slots, nice=10 if name == "tfsrv-load" else 0, **options)


if __name__ == "__main__":
    vars(aspired_versions_manager)["SlotExecutor"] = make_executor
    leave(main(sys.argv[1:]))
