"""An S3 server of the tests' own on loopback (moto), which s3fs finds by the environment, as it finds MinIO or AWS."""

from __future__ import annotations

import itertools

import pytest

_buckets = itertools.count(1)
#: What every client of S3 takes its address and its credentials from.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class S3:
    """A running server; buckets are the tests' own. Tests are skipped where moto and s3fs are not installed."""

    def __init__(self) -> None:
        pytest.importorskip("s3fs")
        server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        host, port = server.get_host_and_port()
        self._server = server
        self.environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}

    def bucket(self) -> str:
        """URL of a new bucket. The environment must be set by then."""
        import s3fs

        name = f"bucket-{next(_buckets)}"
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
        return f"s3://{name}"

    def stop(self) -> None:
        """End it."""
        self._server.stop()
