/* The exit record. Space is taken before the job starts, so a disk that is full at the end cannot lose it.
 *
 * A state directory that served an earlier job has the space already, with that job's record in it, which is written
 * over. Not by way of O_TRUNC: giving the block back and taking it again can wait for the disk (ext4 with discard and
 * without a journal, 0.3 ms). */
#include "stages.h"

#include <fcntl.h>
#include <sys/stat.h>

static int prepared;

uint32_t crc32(const void *data, size_t size)
{
    const unsigned char *at = data;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (UINT32_C(0xedb88320) & -(crc & 1));
    }
    return ~crc;
}

long record_prepare(void)
{
    static const struct record empty;
    struct stat status;
    long fd = sys(SYS_openat, FD_STATE, "exit.tmp", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fd;
    long result = fd == FD_RECORD ? fd : sys(SYS_dup3, fd, FD_RECORD, O_CLOEXEC);
    if (result >= 0 && fd != FD_RECORD)
        result = sys(SYS_close, fd);
    if (result >= 0)
        result = sys(SYS_fstat, FD_RECORD, &status);
    if (result >= 0 && status.st_size > (off_t)sizeof empty)
        result = sys(SYS_ftruncate, FD_RECORD, sizeof empty);
    if (result >= 0)
        result = sys(SYS_pwrite64, FD_RECORD, &empty, sizeof empty, 0);
    prepared = result == (long)sizeof empty;
    return prepared ? 0 : result < 0 ? result : -ENOSPC;
}

long record_write(struct record *record)
{
    long result = prepared ? 0 : record_prepare();
    if (result < 0)
        return result;
    record->magic = RECORD_MAGIC;
    record->version = RECORD_VERSION;
    record->crc = crc32(record, offsetof(struct record, crc));
    result = sys(SYS_pwrite64, FD_RECORD, record, sizeof *record, 0);
    if (result != (long)sizeof *record)
        return result < 0 ? result : -ENOSPC;
    return sys(SYS_renameat2, FD_STATE, "exit.tmp", FD_STATE, "exit", 0);
}
