"""Joblet's only public door: roles, validation, the store of jobs and nodes, and the way to each node."""

import joblet.common  # noqa: F401 - sets what grpc reads at its first import, so it comes before every module here
