"""`rnx job`, and where each of its verbs is found. Each is also a verb of rnx itself; a module per verb."""

from rnx.cli import Entry, Noun

VERBS = {
    "run": Entry("rnx.commands.run", "run", "Create and start a new job with optional resource limits"),
    "status": Entry("rnx.commands.status", "status", "Get detailed information about a job"),
    "list": Entry("rnx.commands.listing", "list_jobs", "List all jobs with their current status"),
    "log": Entry("rnx.commands.log", "log", "Stream job output in real-time or view historical logs"),
    "wait": Entry("rnx.commands.wait", "wait", "Wait until jobs have ended; exit as they did"),
    "stop": Entry("rnx.commands.stop", "stop", "Stop a running job"),
    "cancel": Entry("rnx.commands.cancel", "cancel", "Take a waiting job out of the queue or the schedule"),
    "delete": Entry("rnx.commands.delete", "delete", "Delete jobs that have ended, with everything of them"),
    "delete-all": Entry("rnx.commands.delete", "delete_all", "Delete every job that has ended"),
    "get": Entry("rnx.commands.get", "get", "Fetch what was kept of a job's /work"),
}

job = Noun("job", entries=VERBS, help="Run jobs and look after them. Every verb works without the word job, too.")
