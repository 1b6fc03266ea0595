class Form:
    kind: type | None
    names: tuple[str, ...]
    def __init__(self, kind: type | None, names: tuple[str, ...] = ()) -> None: ...
