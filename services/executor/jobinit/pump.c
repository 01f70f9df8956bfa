/* Output: pipe -> log file by splice(2), and the log's index.
 *
 * splice moves bytes out of the pipe only as they arrive in the file, so a kill at any instant loses nothing; a read()
 * would have them in between. init is the only writer, the offset is its own. While the disk is full the bytes wait in
 * the pipe and the job waits with them; the log file has the sticky bit meanwhile, which takes no room and tells the
 * logstore. A job that writes faster than its spec allows waits in the same way. */
#include "stages.h"

#include <asm/ioctls.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>

enum {
    NONBLOCKING = 2, /* SPLICE_F_NONBLOCK, of the pipe */
    CHUNK_BYTES = 256 << 10, /* the pipe is locked while a chunk is written: a slow disk delays kills by this much */
    INDEX_INTERVAL_NS = 10000000,
    RETRY_NS = 100000000,
    BURST_NS = 100000000, /* what a limited job saves up in silence, and the most that one splice takes of its rate */
    OTHER_ERRORS_MAX = 50, /* for a log that cannot be written for other reasons than space: 5 s at the end */
};

static int64_t written;              /* offset in the log file */
static int64_t last_entry_bytes;     /* what the index says */
static int64_t next_entry_ns;        /* earliest time of the next entry, CLOCK_MONOTONIC */
static struct index_entry entry;     /* the entry being written ... */
static size_t entry_left;            /* ... and how much of its end is not on disk: a full disk may take half of it */

static uint64_t rate;                /* bytes per second; 0: as fast as they come */
static int64_t paid_at;              /* when what was written is within the rate again, CLOCK_MONOTONIC */
static int waiting;                  /* for room on the disk */

void pump_limit(uint32_t bytes_per_second)
{
    rate = bytes_per_second;
}

static size_t chunk_bytes(void)
{
    const uint64_t most = rate * BURST_NS / 1000000000;
    if (rate == 0 || most >= CHUNK_BYTES)
        return CHUNK_BYTES;
    return most > 0 ? most : 1;
}

static void charge(uint64_t bytes, int64_t now)
{
    if (rate == 0)
        return;
    if (paid_at < now - BURST_NS)
        paid_at = now - BURST_NS;
    paid_at += (int64_t)(bytes * 1000000000 / rate);
}

/* A mark that cannot be set is no reason to stop writing. */
static void mark_waiting(int now_waiting)
{
    if (now_waiting != waiting)
        sys(SYS_fchmod, FD_DATA, now_waiting ? S_ISVTX | 0600 : 0600);
    waiting = now_waiting;
}

static int is_full(long error)
{
    return error == -ENOSPC || error == -EDQUOT;
}

int64_t pump_output(int64_t now)
{
    if (now < paid_at)
        return paid_at;
    long n = sys(SYS_splice, FD_PIPE_READ, NULL, FD_DATA, &written, chunk_bytes(), NONBLOCKING);
    if (n > 0) {
        mark_waiting(0);
        charge((uint64_t)n, now);
        return paid_at > now ? paid_at : INT64_MAX;
    }
    if (n == 0 || n == -EAGAIN || n == -EINTR)
        return INT64_MAX;
    if (is_full(n))
        mark_waiting(1);
    return now + RETRY_NS;
}

/* Writes what is left of the current entry. */
static long flush(void)
{
    while (entry_left > 0) {
        long n = sys(SYS_write, FD_INDEX, (const char *)(&entry + 1) - entry_left, entry_left);
        if (n <= 0)
            return n == 0 ? -ENOSPC : n;
        entry_left -= (size_t)n;
    }
    return 0;
}

static void compose(uint32_t kind)
{
    entry = (struct index_entry){(uint64_t)written, (uint64_t)clock_ns(CLOCK_REALTIME), kind, 0};
    entry.crc = crc32(&entry, offsetof(struct index_entry, crc));
    entry_left = sizeof entry;
    last_entry_bytes = written;
}

static long append(uint32_t kind)
{
    long result = flush();
    if (result < 0)
        return result;
    compose(kind);
    return flush();
}

int64_t pump_index_due(void)
{
    return written > last_entry_bytes || entry_left > 0 ? next_entry_ns : INT64_MAX;
}

void pump_index(int64_t now)
{
    if (now < pump_index_due())
        return;
    long result = written > last_entry_bytes ? append(INDEX_DATA) : flush();
    next_entry_ns = clock_ns(CLOCK_MONOTONIC) + (result < 0 ? RETRY_NS : INDEX_INTERVAL_NS);
}

/* Waits a little. Space may take forever to come; anything else is given up at last, without an END entry: then the log
 * says by itself that it is not complete. */
static void wait_for_log(long error)
{
    static int others;
    const struct timespec pause = {0, RETRY_NS};
    if (is_full(error))
        mark_waiting(1);
    else if (++others > OTHER_ERRORS_MAX)
        leave(EXIT_LAUNCH);
    sys(SYS_ppoll, NULL, 0, &pause, NULL, 0);
}

/* All of the job is dead: what is in the pipe now is the rest. Measured first, since somebody outside the job who was
 * given the descriptor could go on writing forever. It is no more than a pipe holds, so the rate does not matter. */
void pump_finish(void)
{
    int rest = 0;
    if (sys(SYS_ioctl, FD_PIPE_READ, FIONREAD, &rest) < 0)
        rest = INT_MAX;
    const int64_t end = written + rest;
    while (written < end) {
        long n = sys(SYS_splice, FD_PIPE_READ, NULL, FD_DATA, &written, CHUNK_BYTES, NONBLOCKING);
        if (n == 0 || n == -EAGAIN)
            break;
        if (n < 0 && n != -EINTR)
            wait_for_log(n);
    }
    for (long result = flush(); result < 0; result = flush())
        wait_for_log(result);
    mark_waiting(0);
    compose(INDEX_END);
    for (long result = flush(); result < 0; result = flush())
        wait_for_log(result);
}
