"""Artifacts: put, look for, fetch. Also the checkpoints of trials under a lease, and the code of studies.

Where a file lies is the service's business: nothing that a caller sends becomes a path, but a digest and a plain name.
A file appears whole or not at all, and only after its content was found to be what it was said to be.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Request
from fastapi import Path as InPath
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from automl.client.work import LEASE
from automl.core import Artifact
from automl.errors import ArtifactCorrupt, NotFound, TooLarge
from automl.service.callers import Caller, CodeSubmitter, Reader, Worker
from automl.service.formats import check_content, check_name
from automl.service.leases import prefixed
from automl.service.limits import Body, takes
from automl.storage.artifacts import ArtifactStore
from automl.trainers import package as packages

router = APIRouter(tags=["files"])

#: The largest file that is taken.
MAX_BYTES = 2 << 30
_CHUNK = 1 << 20
_OCTETS = "application/octet-stream"
_FILE = Body(media=_OCTETS, max_bytes=MAX_BYTES, streamed=True)
#: The JSON of 4 MiB of code may have a little more bytes than the code.
_PACKAGE = Body(max_bytes=8 << 20, max_text=packages.MAX_FILE_BYTES)

Digest = Annotated[str, InPath(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, InPath(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. +=@-]*$")]
Step = Annotated[int, InPath(ge=0, le=2**31 - 1)]
LeaseToken = Annotated[str, Header(alias=LEASE, pattern=r"^[0-9a-f-]{32,64}$")]


# -- artifacts ------------------------------------------------------------------------------------------------------


@router.put("/files/{sha256}/{name}", status_code=204)
@takes(_FILE)
async def put(sha256: Digest, name: FileName, request: Request, caller: Worker) -> None:
    """Keep a file of a model: safetensors, ONNX or JSON. What may be a pickle is not kept."""
    check_name(name)
    store = caller.engine.artifacts
    await _receive(request, store, sha256, store.path(Artifact(name, sha256, 0)), model=True)


@router.head("/files/{sha256}/{name}", status_code=200)
def is_there(sha256: Digest, name: FileName, caller: Reader) -> Response:
    """Whether the file is here."""
    return _of_file(caller.engine.artifacts.path(Artifact(name, sha256, 0)), sha256)


@router.get("/files/{sha256}/{name}", response_class=StreamingResponse)
def get(sha256: Digest, name: FileName, caller: Reader) -> Response:
    """A file of a trial or of a model's version, after its content was compared with its digest."""
    return _answer(caller.engine.artifacts.path(Artifact(name, sha256, 0)), sha256)


# -- checkpoints ----------------------------------------------------------------------------------------------------


@router.put("/work/checkpoints/{step}/{sha256}", status_code=204)
@takes(_FILE)
async def put_checkpoint(step: Step, sha256: Digest, request: Request, caller: Worker, lease: LeaseToken) -> None:
    """Keep a checkpoint of the trial that the lease is for; `/work/checkpoint` then acknowledges it."""
    place = await run_in_threadpool(_checkpoint, caller, lease, step, sha256)
    await _receive(request, caller.engine.artifacts, sha256, place, model=False)


@router.head("/work/checkpoints/{step}/{sha256}", status_code=200)
def has_checkpoint(step: Step, sha256: Digest, caller: Worker, lease: LeaseToken) -> Response:
    """Whether the file of this checkpoint is here."""
    return _of_file(_checkpoint(caller, lease, step, sha256), sha256)


@router.get("/work/checkpoints", response_class=StreamingResponse)
def get_checkpoint(caller: Worker, lease: LeaseToken) -> Response:
    """The last checkpoint of the trial that the lease is for."""
    last = caller.engine.lease(prefixed(caller, lease)).checkpoint
    root = caller.engine.artifacts.root
    if last is None or not (root / last.path).resolve().is_relative_to(root.resolve()):
        raise NotFound("checkpoint: the trial has none", field="checkpoint")
    return _answer(root / last.path, last.sha256)


def _checkpoint(caller: Caller, token: str, step: int, sha256: str) -> Path:
    """Raises `LeaseLost`."""
    lease = caller.engine.lease(prefixed(caller, token))
    return caller.engine.artifacts.checkpoint(lease.trial_id, lease.attempt, step, sha256)


# -- packages -------------------------------------------------------------------------------------------------------


@router.put("/packages/{sha256}", status_code=204)
@takes(_PACKAGE)
async def put_package(sha256: Digest, request: Request, caller: CodeSubmitter) -> None:
    """Keep the code of a study: JSON of environment, files and main, its keys sorted, without spaces."""
    await run_in_threadpool(_keep_package, caller, sha256, await request.body())


def _keep_package(caller: Caller, sha256: str, body: bytes) -> None:
    if hashlib.sha256(body).hexdigest() != sha256:
        raise ArtifactCorrupt(f"the package is not what its digest says ({sha256[:12]}); send it again")
    text = body.decode()
    packages.from_text(text)
    caller.engine.packages.put(text, caller.identity.who)


@router.get("/packages/{sha256}")
def get_package(sha256: Digest, caller: Worker) -> Response:
    """The code of a study, for workers that accept code."""
    return Response(caller.engine.packages.get(sha256), media_type="application/json")


# -- bytes ----------------------------------------------------------------------------------------------------------


class _Incoming:
    """A file that is being received; digests and sizes are known when it is closed."""

    def __init__(self, path: Path):
        self.size = 0
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > MAX_BYTES:
            raise TooLarge(f"body: has more than {MAX_BYTES} bytes", field="body")
        self._digest.update(chunk)
        self._file.write(chunk)

    def sync(self) -> str:
        """The sha256 of what is on the disk now."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


async def _receive(request: Request, store: ArtifactStore, sha256: str, place: Path, *, model: bool) -> None:
    with store.incoming() as temporary:
        incoming = _Incoming(temporary)
        try:
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _CHUNK:
                    await run_in_threadpool(incoming.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(incoming.write, bytes(waiting))
            found = await run_in_threadpool(incoming.sync)
        finally:
            incoming.close()
        if found != sha256:
            raise ArtifactCorrupt(f"the file has sha256 {found}, and was said to have {sha256}; send it again")
        if model:
            await run_in_threadpool(check_content, temporary, place.name)
        await run_in_threadpool(store.adopt, temporary, place)


def _of_file(path: Path, sha256: str) -> Response:
    if not path.is_file():
        raise NotFound("the file is not here", field="file")
    return Response(headers={"ETag": f'"{sha256}"'})


def _answer(path: Path, sha256: str) -> Response:
    """The file as it was when it was compared: it is open from then on."""
    try:
        file = path.open("rb")
    except OSError:
        raise NotFound("the file is not here", field="file") from None
    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
        file.close()
        raise ArtifactCorrupt(f"{path.name} is damaged here; restore it, or train the trial again")
    size = file.tell()
    file.seek(0)
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{path.name}"',
        "ETag": f'"{sha256}"',
    }
    return StreamingResponse(_pieces(file, size), media_type=_OCTETS, headers=headers)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            size -= len(chunk)
            yield chunk
