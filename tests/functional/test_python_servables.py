"""Servables written in Python, in a server's process: tables, and a platform from a package."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy
import pytest
from google.protobuf.message import DecodeError

from tests.conftest import ROOT
from tests.functional.conftest import config_file, serving
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.messages import (
    PredictRequest,
    array,
    floats,
    predict_request,
    scalar,
    strings,
    tensor,
)
from tests.functional.sites import AVAILABLE
from tests.functional.test_predict_errors import good_client, mutated, refusal
from tests.inference import (
    CLASSIFY,
    REGRESS,
    classes,
    classification_request,
    example,
    multi_inference_request,
    regression_request,
    regressions,
    results,
)
from tests.plugging import write_package

# A platform whose servables echo, say which version they are, and wait for files to appear.
ECHO = """
import os, time
import numpy
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.source import SourceAdapter
from tfsrv.servables.version_files import VersionFiles, settle_seconds

class Echo:
    def __init__(self, version):
        self.version = version

    def predict(self, signature_name, inputs, output_filter):
        if "path" in inputs:
            path = inputs["path"].item().decode()
            open(path + ".began", "x").close()
            while not os.path.exists(path):
                time.sleep(0.01)
        if "fail" in inputs:
            raise ValueError("as was asked for")
        if "inputs" in inputs:
            texts = inputs["inputs"]
            sizes = numpy.array([len(text) for text in texts], "float32")
            classes = numpy.array([[signature_name]] * len(texts))
            return {"classes": classes, "scores": sizes[:, None], "outputs": sizes}
        return {**inputs, "version": numpy.int64(self.version)}

class EchoLoader(Loader):
    def __init__(self, version):
        self.version = version
        self.echo = None
    def load(self):
        self.echo = Echo(self.version)
    def servable(self):
        return self.echo
    def unload(self):
        self.echo = None

class Adapter(SourceAdapter):
    def convert(self, version):
        return EchoLoader(version.id.version)

def make(options):
    return Platform(Adapter(), VersionFiles(("echo",), settle_seconds(options)))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, a table and a version of the echo."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "packages").mkdir()
    entry_points = {"tfsrv.platforms": {"echo": "echo_platform:make"}}
    write_package(folder / "packages", "echo_platform", entry_points, ECHO)
    add_table(folder / "legs", 1, "cat\t4\nspider\t8\n")
    add_version(folder / "echo", 1, "echo", "")
    return folder


def add_version(base_path: Path, version: int, file_name: str, content: str) -> None:
    """Put a version into place, whole."""
    staging = base_path.with_name(f"{base_path.name}.staging")
    staging.mkdir()
    (staging / file_name).write_text(content)
    base_path.mkdir(exist_ok=True)
    staging.rename(base_path / str(version))


def add_table(base_path: Path, version: int, lines: str) -> None:
    add_version(base_path, version, "table.tsv", "key:string\tvalue:float\n" + lines)


def environment(site: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(site / "packages")}


@pytest.fixture(scope="module")
def server(site: Path, models: Path, transport: str) -> Iterator[Launched]:
    paths = {
        "legs@lookup_table": site / "legs",
        "echo@echo": site / "echo",
        "half_plus_two": models / "half_plus_two",
    }
    with serving(
        paths,
        f"--grpc_transport={transport}",
        "--max_in_flight_bytes=100000000",
        environment=environment(site),
    ) as server:
        yield server


def legs(ask: Client, *animals: str) -> list[float]:
    outputs = ask.predict(predict_request("legs", {"keys": strings(*animals)})).outputs
    values, found = array(outputs["values"]).tolist(), array(outputs["found"]).tolist()
    return [value if is_there else -1 for value, is_there in zip(values, found, strict=True)]


def test_a_table_answers(ask: Client) -> None:
    assert legs(ask, "spider", "worm", "cat") == [8, -1, 4]
    response = ask.predict(predict_request("legs", {"keys": strings("worm"), "default": floats(9)}))
    assert array(response.outputs["values"]).tolist() == [9]
    assert response.model_spec.name == "legs"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


def test_a_table_filters_its_outputs_and_refuses_what_it_does_not_know(ask: Client) -> None:
    keys = {"keys": strings("cat")}
    response = ask.predict(predict_request("legs", keys, output_filter=["found"]))
    assert list(response.outputs) == ["found"]
    assert refusal(ask, predict_request("legs", keys, output_filter=["nope"])) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: nope"
        " Outputs expected to be in the set {found,values}.",
    )
    assert refusal(ask, predict_request("legs", keys, signature="nope")) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    )
    assert refusal(ask, predict_request("legs", {"keys": floats(1)})) == (
        "INVALID_ARGUMENT",
        '"keys" is of type float32, but the table has string there',
    )


def test_the_log_offers_a_request_for_a_table(site: Path) -> None:
    with serving({"legs@lookup_table": site / "legs"}) as server:
        command = server.line_with("Ask legs with: ").partition("Ask legs with: ")[2]
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=True)
        assert "found" in json.loads(done.stdout)


def test_a_servable_of_another_package_answers(ask: Client) -> None:
    values = numpy.arange(200_000, dtype="float64").reshape(1000, 200)
    inputs = {"x": values, "s": strings("a", "", "ü"), "b": numpy.array([True, False])}
    response = ask.predict(predict_request("echo", inputs))
    assert array(response.outputs["version"]) == 1
    for alias, sent in inputs.items():
        assert array(response.outputs[alias]).tolist() == sent.tolist()


def test_a_servable_of_another_package_classifies_and_regresses(ask: Client) -> None:
    rows = [{"x": 1.0}, {"x": 2.0, "c": 3.0}]
    sizes = [float(example(row).ByteSize()) for row in rows]
    response = ask.infer(classification_request("echo", rows, signature="s"))
    assert classes(response) == [[("s", size)] for size in sizes]
    assert response.model_spec.signature_name == "s"
    response = ask.infer(regression_request("echo", rows, context={"y": 1.0}))
    context = example({"y": 1.0}).ByteSize()
    assert regressions(response) == [size + context for size in sizes]
    tasks = [("t", REGRESS), ("s", CLASSIFY)]
    assert results(ask.infer(multi_inference_request("echo", tasks, rows))) == [
        ("t", sizes),
        ("s", [[("s", size)] for size in sizes]),
    ]


def test_a_table_does_not_classify(ask: Client) -> None:
    requests = [
        classification_request("legs", [{"x": 1.0}]),
        multi_inference_request("legs", [("", CLASSIFY)], [{"x": 1.0}]),
    ]
    for request in requests:
        error = ask.infer_future(request).exception()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        text = "No classification inputs found in SignatureDef: inputs {"
        assert error.details().startswith(text)


def test_a_few_bytes_that_ask_for_gigabytes_are_refused(server: Launched, ask: Client) -> None:
    server.forget_peak_memory()
    before = server.memory_bytes()
    for proto in (tensor(floats(1)), tensor(strings("x"))):
        for elements in (10**8, 2**40, 2**62):
            proto.tensor_shape.dim[0].size = elements
            code, _ = refusal(ask, predict_request("echo", {"x": proto}))
            assert code == "RESOURCE_EXHAUSTED"
    assert server.peak_memory_bytes() - before < 50_000_000


def test_what_hangs_is_answered_at_its_deadline_and_holds_up_nobody(
    ask: Client, tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    requests = [predict_request("echo", {"path": scalar(str(path).encode())}) for path in paths]
    futures = [ask.predict_future(request, 3.0) for request in requests]

    def begun() -> list[Path]:
        return [path for path in paths if path.with_name(f"{path.name}.began").exists()]

    until(lambda: len(begun()) == 8)
    for _ in range(20):
        assert legs(ask, "cat") == [4]
        ask.predict(predict_request("half_plus_two", {"x": floats(1)}))
    for future in futures:
        assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    for path in paths:
        path.touch()
    assert array(ask.predict(predict_request("echo")).outputs["version"]) == 1
    assert len(begun()) == 8  # the others expired in the queue


def test_what_nobody_waits_for_any_more_takes_no_memory_though_the_servable_hangs(
    ask: Client, tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(8)]
    requests = [predict_request("echo", {"path": scalar(str(path).encode())}) for path in paths]
    hung = [ask.predict_future(request, 20.0) for request in requests]
    until(lambda: all(path.with_name(f"{path.name}.began").exists() for path in paths))
    large = predict_request("echo", {"x": strings("a" * 3_000_000)})
    try:
        for _ in range(10):  # 300 MB in all; the server may hold 100
            futures = [ask.predict_future(large, 0.3) for _ in range(10)]
            codes = {future.exception().code() for future in futures}
            assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    finally:
        for path in paths:
            path.touch()
    for future in hung:
        future.exception()
    assert ask.predict(large).outputs["x"].string_val[0] == b"a" * 3_000_000


VALID = {
    "typed": predict_request("echo", {"x": floats(1, 2, 5)}),
    "content": predict_request(
        "echo", {"x": tensor(floats(1, 2), as_content=True)}, output_filter=["x"], version=1
    ),
    "strings": predict_request("echo", {"x": strings("one", "", "three")}),
    "table": predict_request("legs", {"keys": strings("cat", "dog"), "default": floats(3)}),
}
CODES = {
    "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
}  # fmt: skip


@pytest.mark.parametrize("kind", VALID)
def test_mutated_requests_get_an_error_or_an_answer_and_hurt_nobody(
    server: Launched, kind: str
) -> None:
    chance = random.Random(kind)
    valid = VALID[kind].SerializeToString()
    requests = [mutated(chance, valid) for _ in range(700)]
    requests += [valid[:length] for length in range(len(valid))]  # cut anywhere
    counts: Counter[str] = Counter()
    with good_client(server), client(server.address()) as ask:
        for begin in range(0, len(requests), 100):
            some = requests[begin : begin + 100]
            for data, future in [(data, ask.predict_future(data)) for data in some]:
                error = future.exception()
                code = "OK" if error is None else error.code().name
                counts[code] += 1
                assert code == "OK" or code in CODES, (data.hex(), error)
                try:
                    PredictRequest.FromString(data)
                except DecodeError:
                    assert code == "INTERNAL", data.hex()
                    continue
                assert code != "INTERNAL" or "fail" in str(error), (data.hex(), error)
    assert counts["OK"] > 20
    assert counts["INTERNAL"] > 100
    assert counts["INVALID_ARGUMENT"] > 10


def test_a_new_version_serves_while_the_old_one_still_runs(
    site: Path, tmp_path: Path, transport: str
) -> None:
    base_path = tmp_path / "echo"
    add_version(base_path, 1, "echo", "")
    flags = (f"--grpc_transport={transport}",)
    with (
        serving({"echo@echo": base_path}, *flags, environment=environment(site)) as server,
        client(server.address()) as ask,
    ):
        path = tmp_path / "path"
        request = predict_request("echo", {"path": scalar(str(path).encode())})
        old = ask.predict_future(request)
        until((tmp_path / "path.began").exists)
        add_version(base_path, 2, "echo", "")
        until(lambda: array(ask.predict(predict_request("echo")).outputs["version"]) == 2)
        assert len(ask.states("echo")) == 2
        path.touch()
        assert array(old.result().outputs["version"]) == 1
        until(lambda: ask.states("echo")[0] == AVAILABLE and unloaded(ask.states("echo")[1:]))


def unloaded(states: list[int]) -> bool:
    """END, if it is told at all."""
    return states in ([], [50])


def test_a_table_that_is_wrong_is_told_by_its_line_and_the_old_one_goes_on_serving(
    tmp_path: Path, transport: str
) -> None:
    base_path = tmp_path / "legs"
    add_table(base_path, 1, "cat\t4\n")
    with (
        serving(
            {"legs@lookup_table": base_path},
            f"--grpc_transport={transport}",
            errors_are_meant=True,
        ) as server,
        client(server.address()) as ask,
    ):
        add_table(base_path, 2, "cat\t4\nspider eight\n")

        def message() -> str:
            return "".join(str(v.status.error_message) for v in ask.model_status("legs"))

        until(lambda: bool(message()))
        assert f"{base_path}/2/table.tsv:3: a key, one tab and a value are expected" in message()
        assert legs(ask, "cat") == [4]
        add_table(base_path, 3, "cat\t5\n")
        until(lambda: legs(ask, "cat") == [5])


@contextmanager
def echo_server(site: Path, *flags: str) -> Iterator[Launched]:
    """A server that the test stops itself."""
    arguments = ("--port=0", "--bind_address=127.0.0.1", *flags)
    with (
        config_file({"echo@echo": site / "echo"}) as config,
        launched(config, *arguments, environment=environment(site)) as server,
        client(server.address()) as ask,
    ):
        until(lambda: AVAILABLE in ask.states("echo"))
        yield server


def test_an_exception_is_internal_and_its_traceback_is_logged_once(
    site: Path, transport: str
) -> None:
    with (
        echo_server(site, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        for _ in range(5):
            assert refusal(ask, predict_request("echo", {"fail": floats(1)})) == (
                "INTERNAL",
                "ValueError: as was asked for",
            )
        assert ask.predict(predict_request("echo", {"x": floats(1)}))
        assert server.stop() == 0
        assert sum("Traceback" in line for line in server.log) == 1
        told = [line for line in server.log if "ERROR Predict on echo version 1 raised" in line]
        assert len(told) == 3  # the first one, the second and the fourth


def test_sigterm_lets_what_runs_end(site: Path, tmp_path: Path, transport: str) -> None:
    with (
        echo_server(site, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        path = tmp_path / "path"
        inputs = {"path": scalar(str(path).encode()), "x": floats(1)}
        future = ask.predict_future(predict_request("echo", inputs))
        until((tmp_path / "path.began").exists)
        server.process.send_signal(signal.SIGTERM)
        server.line_with("SIGTERM")
        path.touch()
        assert array(future.result().outputs["x"]).tolist() == [1]
        assert server.wait() == 0
        assert server.log[-1].endswith("Stopped.")


def test_sigterm_ends_a_server_whose_servable_hangs(
    site: Path, tmp_path: Path, transport: str
) -> None:
    flags = (f"--grpc_transport={transport}", "--shutdown_grace_seconds=0.2")
    with echo_server(site, *flags) as server, client(server.address()) as ask:
        path = tmp_path / "path"
        request = predict_request("echo", {"path": scalar(str(path).encode())})
        future = ask.predict_future(request)
        until((tmp_path / "path.began").exists)
        assert server.stop() == 0
        assert server.log[-1].endswith("Stopped.")
        assert future.exception() is not None


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ("nope", "Model m requests unsupported platform nope"),
        ("broken", "Platform 'broken' of broken_platform (broken_platform:make) cannot be loaded:"),
    ],
)
def test_a_platform_that_is_not_there_or_is_broken_fails_the_start_in_one_sentence(
    tmp_path: Path, platform: str, text: str
) -> None:
    entry_points = {"tfsrv.platforms": {"broken": "broken_platform:make"}}
    write_package(tmp_path, "broken_platform", entry_points, "import nothing_like_this")
    environment = {"PYTHONPATH": str(tmp_path)}
    with (
        config_file({f"m@{platform}": tmp_path}) as config,
        launched(config, "--port=0", environment=environment) as server,
    ):
        assert server.wait() == 1
        assert text in server.log[-1]
        assert "Traceback" not in "".join(server.log)
