"""An S3 server as a process: moto over HTTP, which checks the signature of every request.

It keeps everything in memory. A user with a key and a bucket are made before it begins to ask for credentials.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from local_system import free_port, wait_for

BUCKET = "joblet-logs"
REGION = "us-east-1"
_ALLOWED = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
_FREE_REQUESTS = 4  # user, key, policy, bucket


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str
    key_id: str
    secret: str

    def write_credentials(self, path: Path) -> Path:
        """As `aws configure` writes them."""
        path.touch(mode=0o600)
        path.write_text(f"[default]\naws_access_key_id = {self.key_id}\naws_secret_access_key = {self.secret}\n")
        return path

    def objects(self) -> list[str]:
        """What is in the bucket, asked with the user's own signature."""
        found = _client("s3", self.endpoint, self.key_id, self.secret).list_objects_v2(Bucket=BUCKET)
        return [item["Key"] for item in found.get("Contents", [])]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={"PATH": os.environ["PATH"], "INITIAL_NO_AUTH_ACTION_COUNT": str(_FREE_REQUESTS)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the S3 server", lambda: _listens(port))
        iam = _client("iam", endpoint, "nobody", "nothing")
        iam.create_user(UserName="joblet")
        key = iam.create_access_key(UserName="joblet")["AccessKey"]
        iam.put_user_policy(UserName="joblet", PolicyName="logs", PolicyDocument=_ALLOWED)
        _client("s3", endpoint, "nobody", "nothing").create_bucket(Bucket=BUCKET)
        yield S3Server(endpoint, key["AccessKeyId"], key["SecretAccessKey"])
    finally:
        process.kill()
        process.wait()


def _client(service: str, endpoint: str, key_id: str, secret: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
