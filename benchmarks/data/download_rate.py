"""Downloading a large file from a server on this machine, against `curl URL | tee FILE | sha256sum`.

    python benchmarks/data/download_rate.py                 # a server that sends 200 MB/s
    python benchmarks/data/download_rate.py --rate 0        # one that sends as fast as it can

The sides take turns. Ours returns when the file is on the disk (fsync); its time is that of `download`
in a process of its own. Needs curl, tee and sha256sum.
"""

from __future__ import annotations

import json as jsons
import multiprocessing
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common

_BLOCK = 2**20
_CHILD = "import sys; from benchmarks.data.download_rate import ours; ours(sys.argv[1], sys.argv[2])"


def main(
    rate: Annotated[float, typer.Option(help="MB/s that the server sends; 0: no limit.")] = 200,
    megabytes: Annotated[int, typer.Option(help="Size of the file in MB.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Downloads of each side.")] = 3,
    json: common.Json = None,
) -> None:
    """Rates of a download and of a pipe of curl, tee and sha256sum, their ratio, and our peak memory."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    address, process = started(rate * 1e6, megabytes * 10**6)
    with common.reported("download_rate", json) as results, tempfile.TemporaryDirectory() as folder:
        file, memory = Path(folder) / "file.bin", list[dict[str, float]]()
        digests = set[str]()

        def pipe() -> None:
            command = f"curl -sS --fail {address} | tee {file} | sha256sum"
            done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
            digests.add(done.stdout.split()[0])

        times: dict[str, list[float]] = {"clipjax": [], "pipe": []}
        for _ in range(rounds):
            times["pipe"].append(common.seconds(pipe))
            file.unlink()
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, address, str(file)], check=True, stdout=subprocess.PIPE
            )
            memory.append(jsons.loads(done.stdout))
            digests.add(str(memory[-1]["sha256"]))
            times["clipjax"].append(memory[-1]["seconds"])
            file.unlink()
        process.terminate()
        assert len(digests) == 1, digests
        results |= {"seconds": times, "memory": memory}
        rates = {side: f"{megabytes / common.median(each):.0f} MB/s" for side, each in times.items()}
        found = common.ratio(times["pipe"], times["clipjax"])
        grown = max(each["peak_mb"] - each["start_mb"] for each in memory)
        common.table(
            [
                ("curl | tee | sha256sum", rates["pipe"]),
                ("clipjax", rates["clipjax"]),
                (
                    "ratio",
                    f"{found['ratio']:.2f}x [{found['lowest']:.2f}-{found['highest']:.2f}]; wanted: >= 0.9x",
                ),
                ("processor", f"{common.median([each['processor_s'] for each in memory]):.1f} s of ours"),
                (
                    "memory",
                    f"{grown:.0f} MB above the start, peak {max(each['peak_mb'] for each in memory):.0f} MB",
                ),
            ]
        )


def ours(address: str, target: str) -> None:
    """One download, and what it took, as JSON."""
    from clipjax.data.card_files import CardFile
    from clipjax.downloads.transfer import Reports, download

    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    path = Path(target)
    found = download(CardFile(path.name, "plain", (address,)), path, Reports(lambda _: None))
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = {"start_mb": before.ru_maxrss / 1000, "peak_mb": after.ru_maxrss / 1000}
    print(jsons.dumps({"seconds": seconds, "processor_s": used, "sha256": found.sha256, **memory}))


def started(rate: float, size: int) -> tuple[str, multiprocessing.Process]:
    """A server's address and process; `rate` in bytes a second."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(there, rate, size), daemon=True)
    process.start()
    return f"http://127.0.0.1:{here.recv()}/file.bin", process


def serve(pipe: Connection, rate: float, size: int) -> None:
    """Answer every request with the same bytes, one after the other."""
    block = random.Random(0).randbytes(_BLOCK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        while True:
            client = server.accept()[0]
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
                start = time.perf_counter()
                for sent in range(0, size, _BLOCK):
                    client.sendall(block[: size - sent])
                    if rate and (early := start + sent / rate - time.perf_counter()) > 0:
                        time.sleep(early)


if __name__ == "__main__":
    typer.run(main)
