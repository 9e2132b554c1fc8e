# SPDX-License-Identifier: Apache-2.0
"""What `make proto` wrote is what it would write now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLACE = "antiphon/cluster/_gen"


def test_the_generated_messages_are_those_of_the_proto_files(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "grpc_tools.protoc",
        f"--proto_path={PLACE}=proto/antiphon/v1", f"--proto_path={PLACE}=proto/etcd",
        f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
        f"{PLACE}/control.proto", f"{PLACE}/etcd.proto",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    made = tmp_path / PLACE
    there = ROOT / "python" / PLACE
    for file in made.iterdir():
        assert file.read_text() == (there / file.name).read_text(), f"{file.name}: `make proto`"
