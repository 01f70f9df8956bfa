"""No trick but the other job: has a file, and passes it to whoever connects to its abstract socket."""

import array
import socket
import sys
from pathlib import Path

name, address = sys.argv[1:]
for directory in ("/work", "/tmp"):
    Path(directory, name).write_text("the neighbour's\n")
with socket.socket(socket.AF_UNIX) as server:
    server.bind("\0" + address)
    server.listen()
    print("ready", flush=True)
    while True:
        client, _ = server.accept()
        with client, Path("/work", name).open("rb") as file:
            client.sendmsg([b"file"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])
