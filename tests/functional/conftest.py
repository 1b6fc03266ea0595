"""Servers and clients that the functional tests share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import Management, reload
from tests.functional.serving_api import ServingApi
from tests.functional.sites import AVAILABLE, Site
from tfsrv.frontends._http2 import available

Serve = Callable[..., Launched]


@pytest.fixture(scope="module", params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each of the gRPC transports."""
    name: str = request.param
    if name == "native" and not available():
        pytest.skip("needs libnghttp2")
    return name


@contextmanager
def serving(
    models: dict[str, Path],
    *flags: str,
    ready: bool = True,
    errors_are_meant: bool = False,
    environment: dict[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Iterator[Launched]:
    """A server of several models on a port of its own. It must end well, and leave nothing.

    A name may be "name@platform". `ready` waits until each model has answered that it is
    available; `texts` has further fields of the configuration by the name of the model.
    """
    where = ("--port=0", "--bind_address=127.0.0.1")
    with (
        config_file(models, texts) as config,
        launched(config, *where, *flags, environment=environment) as server,
    ):
        if ready:
            with client(server.address()) as ask:
                for name in (key.partition("@")[0] for key in models):
                    until(lambda name=name: AVAILABLE in ask.states(name))  # type: ignore[misc]
        yield server
        ends_well(server, errors_are_meant=errors_are_meant)


@contextmanager
def config_file(models: dict[str, Path], texts: Mapping[str, str] | None = None) -> Iterator[str]:
    """The flag that names a file with a configuration of these models; `texts` as above."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.config"
        path.write_text(config_text(models, **(texts or {})))
        yield f"--model_config_file={path}"


def config_text(models: dict[str, Path], **more: str) -> str:
    """A ModelServerConfig; `more` has further fields by the name of the model.

    A model's key may be "name@platform".
    """
    configs = []
    for key, path in models.items():
        name, _, platform = key.partition("@")
        configs.append(
            f'config {{ name: "{name}" base_path: "{path}" '
            f'model_platform: "{platform or "tensorflow"}" {more.get(name, "")} }}'
        )
    return f"model_config_list {{ {' '.join(configs)} }}"


def ends_well(server: Launched, *, errors_are_meant: bool = False) -> None:
    """SIGTERM ends the server with status 0, no child process, and no complaint in its log."""
    assert server.process.poll() is None, "\n".join(server.log[-50:])
    assert server.children() == []
    assert server.stop() == 0, "\n".join(server.log[-50:])
    assert server.log[-1].endswith("Stopped."), server.log[-1]
    complaints = (
        ["Traceback", "CRITICAL"] if errors_are_meant else ["Traceback", "CRITICAL", "ERROR"]
    )
    assert not [line for line in server.log if any(text in line for text in complaints)]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server for one test: `serve({"m": path}, "--flag=value", ready=False)`."""
    with ExitStack() as stack:

        def start(models: dict[str, Path], *flags: str, **options: Any) -> Launched:
            return stack.enter_context(serving(models, *flags, **options))

        yield start


@pytest.fixture
def site(tmp_path: Path, models: Path) -> Site:
    """An empty folder for models."""
    return Site(tmp_path, models)


@pytest.fixture(scope="module")
def managed_server() -> Iterator[Launched]:
    """One server, which begins without models, for tests that set them by calls.

    They take names that no other test of their module takes: END of a name's versions is
    remembered for ever.
    """
    # Loads that are stuck leave threads to others at once: it takes 5 s if there is only one.
    flags = ("--enable_model_management", "--num_load_threads=4")
    with serving({}, *flags, errors_are_meant=True) as server:
        yield server


@pytest.fixture
def managed(managed_server: Launched) -> Iterator[Client]:
    """A client of `managed_server`, which has no models again afterwards."""
    with client(managed_server.address()) as ask:
        yield ask
        reload(ask)


@pytest.fixture
def management(managed: Client) -> Management:
    """The same, for calls that change and list single models."""
    return Management(managed)


@pytest.fixture(scope="module")
def server(models: Path, transport: str) -> Iterator[Launched]:
    """One server of every model of tests/models.py."""
    paths = {path.name: path for path in sorted(models.iterdir())}
    with serving(paths, f"--grpc_transport={transport}") as server:
        yield server


@pytest.fixture
def ask(server: Launched) -> Iterator[Client]:
    """A client with a connection of its own to `server`."""
    with client(server.address()) as ask:
        yield ask


@pytest.fixture(scope="session")
def serving_api() -> Iterator[ServingApi]:
    """tensorflow-serving-api's own clients."""
    with ServingApi() as api:
        yield api
