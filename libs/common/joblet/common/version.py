"""The version of every Joblet component: they are released together."""

VERSION = "0.1.0"
