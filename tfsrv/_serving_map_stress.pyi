from tfsrv._servable import NativeServable
from tfsrv._serving_map import ServingMap

class CanaryServable(NativeServable):
    def __new__(cls, version: int) -> CanaryServable: ...

def stress(
    serving_map: ServingMap, name: str, label: str, readers: int, lookups: int
) -> dict[str, int]: ...
