"""A Joblet of its own on one machine, in one directory: `rnx local up|down|status`.

    DIR/certs                       CA, gateway, node, admin, viewer
    DIR/config/joblet-config.yml    of all four services; ports, once chosen, stay
    DIR/state                       the gateway's store, the executor's journal, job output, runtimes
    DIR/logs                        what the services and their supervisor log
    DIR/run                         lock, pid files, socket; empty but for the lock when down
    DIR/rnx-config.yml              how rnx gets there: node default (admin) and viewer

`up` prepares the directory and turns into (or starts) the supervisor, which needs nothing but the standard library and
keeps the services running. `down` and `status` find them by their pid files. This file imports nothing: the supervisor
pays for every import with memory.
"""
