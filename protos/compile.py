"""Compile every .proto file beside this one into tfsrv/_descriptors.binpb.

    python protos/compile.py            # write it
    python protos/compile.py FILE       # write it elsewhere

Needs grpcio-tools. The result holds each file after those that it imports, google/protobuf's
included, and no comments; tfsrv/_proto.py reads it.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS.parent / "tfsrv" / "_descriptors.binpb"


def compile_protos(target: Path) -> None:
    """Write the FileDescriptorSet of all .proto files to `target`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known}",
            "--include_imports",
            f"--descriptor_set_out={target}",
            *sources,
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")


if __name__ == "__main__":
    compile_protos(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
