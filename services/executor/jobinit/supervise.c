/* init's loop: the command's end, TERM, timeout, OOM, output. It never waits for anything but poll, so none of them can
 * hold up another.
 *
 * The end, whatever its cause, is the same: kill(-1, SIGKILL) reaches every process of the pid namespace at once, forks
 * in progress included (the kernel does not complete a fork with a signal pending), and is repeated until wait says that
 * nothing is left. Then the exit record, then the rest of the output, then the END entry of the index. */
#include "stages.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum {
    REAPS_PER_TURN = 256, /* a storm of zombies must not keep the loop from its other duties */
    KILL_AGAIN_NS = 50000000,
    LARGER_KB = 1024, /* a fork is as large as the process it comes from, and soon a few pages larger */
};

struct supervision {
    long command;
    int gone, status; /* the command has ended, and how */
    int empty;        /* no process is left */
    int more;         /* zombies may be left over from the last turn */
    int killing;
    uint32_t cause; /* REASON_STOPPED or REASON_TIMEOUT when asked for before the command ended */
    int64_t command_kb; /* the most memory the command had, or when measured by wait(2), children it waited for, too */
    int64_t timeout_at, grace_ns, forced_at, kill_again_at, retry_at; /* CLOCK_MONOTONIC; INT64_MAX: never */
    struct record record;
};

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Takes what the command has told of its launch so far. */
static void read_launch(struct record *record)
{
    struct msg message;
    while (sys(SYS_read, FD_LAUNCH_READ, &message, sizeof message) == (long)sizeof message) {
        if (message.type == MSG_GO) {
            record->flags |= RECORD_STARTED;
            __builtin_memcpy(&record->start_ns, message.detail, sizeof record->start_ns);
            continue;
        }
        record->stage = message.stage;
        record->error = message.error;
        text_append(record->detail, record->detail + sizeof record->detail - 1, message.detail);
    }
}

static void kill_all(struct supervision *job, int64_t now)
{
    long result = sys(SYS_kill, -1, SIGKILL);
    if (result != -ESRCH)
        need(STAGE_SUPERVISE, result, "kill(-1)");
    job->killing = 1;
    job->forced_at = INT64_MAX;
    job->kill_again_at = now + KILL_AGAIN_NS;
}

static void command_ended(struct supervision *job, int status, const struct rusage *usage, int64_t now)
{
    job->gone = 1;
    job->status = status;
    if (job->command_kb == 0)
        job->command_kb = usage->ru_maxrss;
    job->timeout_at = INT64_MAX;
    job->record.end_ns = clock_ns(CLOCK_REALTIME);
    kill_all(job, now);
}

/* The command first, so that its own end is known before anything else is decided. __WALL: children cloned with another
 * signal than SIGCHLD are children too. */
static void reap(struct supervision *job, int64_t now)
{
    int status;
    struct rusage usage;
    if (!job->gone && sys(SYS_wait4, job->command, &status, WNOHANG | __WALL, &usage) == job->command)
        command_ended(job, status, &usage, now);
    job->more = 0;
    for (int i = 0; i < REAPS_PER_TURN; i++) {
        long pid = sys(SYS_wait4, -1, &status, WNOHANG | __WALL, &usage);
        if (pid == job->command)
            command_ended(job, status, &usage, now);
        if (pid == -ECHILD)
            job->empty = 1;
        else if (pid != -EINTR)
            need(STAGE_SUPERVISE, pid, "wait4");
        if (pid <= 0)
            return;
    }
    job->more = 1;
}

/* First step of the ladder. A command that has not been told GO yet gets no grace: nothing of the job runs. */
static void stop(struct supervision *job, uint32_t cause, int64_t now)
{
    reap(job, now);
    if (job->killing)
        return;
    job->timeout_at = INT64_MAX;
    job->cause = cause;
    read_launch(&job->record);
    if (!(job->record.flags & RECORD_STARTED) || job->grace_ns == 0) {
        kill_all(job, now);
        return;
    }
    long result = sys(SYS_kill, -job->command, SIGTERM);
    if (result != -ESRCH)
        need(STAGE_SUPERVISE, result, "kill(TERM)");
    job->forced_at = now + job->grace_ns;
}

static void read_signals(struct supervision *job, int64_t now)
{
    struct signalfd_siginfo signals[4];
    long n = sys(SYS_read, FD_SIGNALS, signals, sizeof signals);
    if (n < 0 && n != -EAGAIN && n != -EINTR)
        need(STAGE_SUPERVISE, n, "read signals");
    job->more = 1;
    for (long i = 0; i < n / (long)sizeof signals[0]; i++)
        if (signals[i].ssi_signo == SIGTERM && job->cause == 0)
            stop(job, REASON_STOPPED, now);
}

/* The number behind `name` at the beginning of a line; 0 when there is none. */
static uint64_t number_in(const char *text, const char *name)
{
    const char *at = text;
    uint64_t number = 0;
    while (*at != 0 && !(text_begins(at, name) && (at == text || at[-1] == '\n')))
        at++;
    if (*at == 0)
        return 0;
    for (at += text_length(name); *at == ' ' || *at == '\t'; at++)
        ;
    for (; *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (uint64_t)(*at - '0');
    return number;
}

/* memory.oom_control and memory.events have it alike. */
static uint64_t read_oom_kills(void)
{
    char text[512];
    long size = sys(SYS_pread64, FD_OOM_COUNTER, text, sizeof text - 1, 0);
    if (size <= 0)
        return 0; /* /dev/null, or a cgroup that is gone */
    text[size] = 0;
    return number_in(text, "oom_kill ");
}

/* The most memory a process alone ever had; 0 when it is ending. */
static int64_t peak_kb(long pid)
{
    char path[32], text[2048];
    const char *const end = path + sizeof path - 1;
    char *at = text_append(path, end, "/proc/");
    text_append(number_append(at, end, (uint64_t)pid), end, "/status");
    long fd = sys(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    long size = sys(SYS_read, fd, text, sizeof text - 1);
    need(STAGE_SUPERVISE, sys(SYS_close, fd), "close");
    text[size > 0 ? size : 0] = 0;
    return (int64_t)number_in(text, "VmHWM:");
}

/* v1 kills one process of the job; we make it the whole. The command may wait for that one before it is its turn, and
 * then wait(2) would count the two as one, so it is measured now. */
static void oom(struct supervision *job, int64_t now)
{
    uint64_t count;
    if (sys(SYS_read, FD_OOM_EVENT, &count, sizeof count) < 0)
        return; /* nonblocking and taken already */
    reap(job, now);
    if (job->gone)
        return;
    job->record.flags |= RECORD_OOM_EVENT;
    job->command_kb = peak_kb(job->command);
    kill_all(job, now);
}

static void expire(struct supervision *job, int64_t now)
{
    if (now >= job->timeout_at)
        stop(job, REASON_TIMEOUT, now);
    if (now >= job->forced_at) {
        job->record.flags |= RECORD_FORCED;
        kill_all(job, now);
    }
    if (now >= job->kill_again_at)
        kill_all(job, now);
}

static void pump(struct supervision *job, int64_t now)
{
    if (now >= job->retry_at)
        job->retry_at = pump_output(now);
    pump_index(now);
}

static void turn(struct supervision *job, struct pollfd *fds)
{
    int64_t until = earlier(earlier(job->timeout_at, job->forced_at), earlier(job->kill_again_at, pump_index_due()));
    until = earlier(until, job->retry_at);
    int64_t left = job->more ? 0 : until - clock_ns(CLOCK_MONOTONIC);
    if (left < 0)
        left = 0;
    const struct timespec pause = {left / 1000000000, left % 1000000000};
    fds[1].fd = job->retry_at == INT64_MAX ? FD_PIPE_READ : -1;
    long result = sys(SYS_ppoll, fds, 3, until == INT64_MAX && !job->more ? NULL : &pause, NULL, 0);
    if (result < 0 && result != -EINTR)
        need(STAGE_SUPERVISE, result, "ppoll");
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    if (result > 0 && fds[0].revents != 0)
        read_signals(job, now);
    if (job->more)
        reap(job, now);
    if (result > 0 && fds[2].revents != 0)
        oom(job, now);
    expire(job, now);
    if (result > 0 && fds[1].revents != 0)
        job->retry_at = now;
    pump(job, now);
}

/* The kernel kills the largest process, and all of the job goes with it. Where a child was killed and the command ended
 * by itself before that (cgroup v1), its own end stays, with the reason why it failed. */
static uint32_t reason_without_memory(const struct supervision *job, const struct record *record)
{
    if (record->signal == SIGKILL && (record->oom_kills > 0 || record->flags & RECORD_OOM_EVENT))
        return (int64_t)record->maxrss_bytes / 1024 > job->command_kb + LARGER_KB ? REASON_OOM_CHILD : REASON_OOM;
    return record->oom_kills > 0 && record->exit_code != 0 ? REASON_OOM_CHILD : 0;
}

static void judge(const struct supervision *job, struct record *record)
{
    const int killed = WIFSIGNALED(job->status);
    record->signal = killed ? WTERMSIG(job->status) : 0;
    record->exit_code = killed ? 128 + record->signal : WEXITSTATUS(job->status);
    const uint32_t no_memory = reason_without_memory(job, record);
    if (job->cause != 0) {
        record->reason = job->cause;
        record->exit_code = -1;
    } else if (no_memory != 0) {
        record->reason = no_memory;
    } else if (record->stage != 0) {
        record->reason = REASON_LAUNCH_FAILED;
    } else if (!(record->flags & RECORD_STARTED)) {
        record->reason = REASON_LAUNCH_FAILED; /* killed from outside while parked */
        record->stage = STAGE_PARK;
    } else {
        record->reason = killed ? REASON_SIGNAL : REASON_EXIT;
    }
}

static void fill_usage(struct record *record)
{
    struct rusage usage;
    need(STAGE_SUPERVISE, sys(SYS_getrusage, RUSAGE_CHILDREN, &usage), "getrusage");
    record->user_us = (uint64_t)usage.ru_utime.tv_sec * 1000000 + (uint64_t)usage.ru_utime.tv_usec;
    record->system_us = (uint64_t)usage.ru_stime.tv_sec * 1000000 + (uint64_t)usage.ru_stime.tv_usec;
    record->maxrss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    record->voluntary_switches = (uint64_t)usage.ru_nvcsw;
    record->involuntary_switches = (uint64_t)usage.ru_nivcsw;
}

_Noreturn void supervise(const struct spec *spec, long command_pid)
{
    static struct supervision job;
    const struct spec_header *header = &spec->header;
    const int64_t now = clock_ns(CLOCK_MONOTONIC);
    struct pollfd fds[3] = {
        {FD_SIGNALS, POLLIN, 0},
        {FD_PIPE_READ, POLLIN, 0},
        {header->flags & LAUNCH_OOM_EVENT ? FD_OOM_EVENT : -1, POLLIN, 0},
    };
    job.command = command_pid;
    job.timeout_at = header->timeout_ms ? now + (int64_t)header->timeout_ms * 1000000 : INT64_MAX;
    job.grace_ns = (int64_t)header->grace_ms * 1000000;
    job.forced_at = job.kill_again_at = job.retry_at = INT64_MAX;
    job.record.start_ns = clock_ns(CLOCK_REALTIME);
    pump_limit(header->log_rate);
    while (!job.empty)
        turn(&job, fds);
    read_launch(&job.record);
    job.record.oom_kills = read_oom_kills();
    fill_usage(&job.record);
    judge(&job, &job.record);
    long result = record_write(&job.record);
    /* Never told GO, there is no output, and the executor ends the log. If it is gone, the next one may be ordered to
     * start the job again, and then this is its log. */
    if (job.record.flags & RECORD_STARTED)
        pump_finish(); /* the output is worth having even without the record */
    if (header->outputs > 0 && job.record.flags & RECORD_STARTED)
        collect_outputs(spec);
    leave(result < 0 ? EXIT_LAUNCH : 0);
}
