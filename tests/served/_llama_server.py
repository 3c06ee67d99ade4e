"""llama.cpp's own server in a process of its own, by the package xllamacpp.

    with LlamaServer(model, mmproj) as server:
        server.name             # server:http://127.0.0.1:PORT/v1#MODEL

The process ends with its standard input, so it does not outlive the process that started it. A start takes
half a second of the processor and 220 MB (100 MB of them its own) with SmolLM2, 0.1 s and 50 MB with a
narrow decoder.

    python _llama_server.py MODEL MMPROJ EXACT
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
LISTENS = "listens on "
MISSING = None if find_spec("xllamacpp") else "xllamacpp is not installed: pip install 'clipjax[test]'"


class LlamaServer:
    """A running server.

    Args:
        mmproj: the file with tower and projector; None: texts alone.
        exact: attention and its cache in float32, without flash attention.

    Attributes:
        root: http://127.0.0.1:PORT
        log: what the server printed.
    """

    def __init__(self, model: Path, mmproj: Path | None, log: Path, *, exact: bool = False) -> None:
        self.model, self.log = model, log
        command = [sys.executable, str(HERE), str(model), str(mmproj or ""), "exact" if exact else ""]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        found = next((line for line in lines if line.startswith(LISTENS)), None)
        if found is None:
            self.stop()
            raise AssertionError(f"llama.cpp's server did not start: {log.read_text()[-2000:]}")
        self.root = found.removeprefix(LISTENS).strip()
        self.url = f"{self.root}/v1"

    @property
    def name(self) -> str:
        """As --model takes it."""
        return f"server:{self.url}#{self.get('/v1/models')['data'][0]['id']}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.root + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any) -> Any:
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # has no types
    model, mmproj, exact = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = model, mmproj
    params.mmproj_use_gpu = params.warmup = False
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 2, 1
    if exact:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    print(LISTENS + server.listening_address, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on
    sys.stdin.read()
    os._exit(0)  # its threads need not end


if __name__ == "__main__":
    main()
