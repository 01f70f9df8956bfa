/* Output: pipe -> log file by splice(2), and the log's index.
 *
 * splice moves bytes out of the pipe only as they arrive in the file, so a kill at any instant loses nothing; a read()
 * would have them in between. init is the only writer, the offset is its own. While the disk is full the bytes wait in
 * the pipe and the job waits with them. */
#include "stages.h"

#include <asm/ioctls.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>

enum {
    NONBLOCKING = 2, /* SPLICE_F_NONBLOCK, of the pipe */
    CHUNK_BYTES = 256 << 10, /* the pipe is locked while a chunk is written: a slow disk delays kills by this much */
    INDEX_INTERVAL_NS = 10000000,
    RETRY_NS = 100000000,
    OTHER_ERRORS_MAX = 50, /* for a log that cannot be written for other reasons than space: 5 s at the end */
};

static int64_t written;              /* offset in the log file */
static int64_t last_entry_bytes;     /* what the index says */
static int64_t next_entry_ns;        /* earliest time of the next entry, CLOCK_MONOTONIC */
static struct index_entry entry;     /* the entry being written ... */
static size_t entry_left;            /* ... and how much of its end is not on disk: a full disk may take half of it */

enum pump pump_output(void)
{
    long n = sys(SYS_splice, FD_PIPE_READ, NULL, FD_DATA, &written, CHUNK_BYTES, NONBLOCKING);
    if (n > 0)
        return PUMP_MORE;
    return n == 0 || n == -EAGAIN || n == -EINTR ? PUMP_IDLE : PUMP_BLOCKED;
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

long pump_index_end(void)
{
    return append(INDEX_END);
}

/* Waits a little. Space may take forever to come; anything else is given up at last, without an END entry: then the log
 * says by itself that it is not complete. */
static void wait_for_log(long error)
{
    static int others;
    const struct timespec pause = {0, RETRY_NS};
    if (error != -ENOSPC && error != -EDQUOT && ++others > OTHER_ERRORS_MAX)
        leave(EXIT_LAUNCH);
    sys(SYS_ppoll, NULL, 0, &pause, NULL, 0);
}

/* All of the job is dead: what is in the pipe now is the rest. Measured first, since somebody outside the job who was
 * given the descriptor could go on writing forever. */
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
    compose(INDEX_END);
    for (long result = flush(); result < 0; result = flush())
        wait_for_log(result);
}
