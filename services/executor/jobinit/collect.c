/* What is kept of /work after the end: files that match the job's patterns, as a tree in the state directory.
 *
 * Everything of the job is dead by now; what it left may be anything. init itself only starts a process for this, waits
 * for it as long as it may take, and puts the result in place. That process is the job's user in the job's user
 * namespace, with one capability there, to read what that user may not; it has two descriptors, the result and /work,
 * opens nothing but plain files and directories below it and follows no link. What cannot be kept is counted and the
 * first few are named: never silently less. No daemon is needed. */
#include "stages.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
    FD_RESULT = 3,
    FD_WORK = 4,
    PATH_BYTES = 4096,
    NAMES_BYTES = 16384, /* of getdents64, a buffer for each level */
    MOST_DEPTH = 128,
    MOST_VISITED = 1 << 20,
    REPORT_BYTES = 4096,
};

struct dent {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

static const struct spec_header *limits;
static char *const *patterns;
static char path[PATH_BYTES];
static size_t path_size;
static uint64_t kept_files, kept_bytes, visited, left_out; /* bytes: of the result, names included */
static int64_t result_bytes;
static char report[REPORT_BYTES];
static size_t report_size;

static void leave_out(const char *why)
{
    const size_t why_size = text_length(why) + 1;
    left_out++;
    if (report_size + why_size + path_size + 1 > sizeof report)
        return;
    __builtin_memcpy(report + report_size, why, why_size);
    __builtin_memcpy(report + report_size + why_size, path, path_size + 1);
    report_size += why_size + path_size + 1;
}

static long write_all(const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        const long n = sys(SYS_write, FD_RESULT, (const char *)data + done, size - done);
        if (n < 0)
            return n;
        done += (size_t)n;
    }
    return 0;
}

static long write_header(uint32_t kind, const struct stat *status, uint64_t size, int64_t mtime_ns)
{
    static char bytes[sizeof(struct tree_entry) + PATH_BYTES];
    const struct tree_entry entry = {
        .mode = status->st_mode & 0777,
        .kind = kind,
        .size = size,
        .mtime_ns = mtime_ns,
        .path_length = (uint32_t)path_size,
    };
    __builtin_memcpy(bytes, &entry, sizeof entry);
    __builtin_memcpy(bytes + sizeof entry, path, path_size + 1);
    return write_all(bytes, sizeof entry + path_size + 1);
}

/* A job may give its files any time; the nearest that there is in nanoseconds. */
static int64_t mtime_of(const struct stat *status)
{
    const int64_t second = 1000000000, most = INT64_MAX / second - 1;
    int64_t seconds = status->st_mtim.tv_sec;
    seconds = seconds > most ? most : seconds < -most ? -most : seconds;
    return seconds * second + status->st_mtim.tv_nsec;
}

/* The result ends at `size` again: half an entry is none. */
static void cut(int64_t size)
{
    need(STAGE_SUPERVISE, sys(SYS_ftruncate, FD_RESULT, size), "ftruncate");
    need(STAGE_SUPERVISE, sys(SYS_lseek, FD_RESULT, size, SEEK_SET), "lseek");
}

/* A directory stands in the result twice. */
static uint64_t bytes_of(uint32_t kind, uint64_t size)
{
    const uint64_t name = sizeof(struct tree_entry) + path_size + 1;
    return kind == UPLOAD_DIRECTORY ? 2 * name : name + size;
}

static int has_room(uint64_t bytes)
{
    if (kept_files >= limits->output_files)
        leave_out("too many files");
    else if (bytes > limits->output_bytes || kept_bytes > limits->output_bytes - bytes)
        leave_out("too large");
    else
        return 1;
    return 0;
}

/* An entry with the content that `copy` writes. */
static int add(uint32_t kind, const struct stat *status, uint64_t size, long (*copy)(long from, uint64_t size), long from)
{
    long result = write_header(kind, status, size, mtime_of(status));
    if (result >= 0 && size > 0)
        result = copy(from, size);
    if (result < 0) {
        cut(result_bytes);
        leave_out(result == -ENOSPC ? "the node's disk is full" : "it cannot be copied");
        return 0;
    }
    result_bytes += (int64_t)(sizeof(struct tree_entry) + path_size + 1 + size);
    return 1;
}

static int keep(uint32_t kind, const struct stat *status, uint64_t size, long (*copy)(long from, uint64_t size), long from)
{
    const uint64_t bytes = bytes_of(kind, size);
    if (!has_room(bytes) || !add(kind, status, size, copy, from))
        return 0;
    kept_bytes += bytes;
    kept_files++;
    return 1;
}

static long copy_file(long from, uint64_t size)
{
    while (size > 0) {
        const long n = sys(SYS_sendfile, FD_RESULT, from, NULL, size);
        if (n <= 0)
            return n < 0 ? n : -EIO;
        size -= (uint64_t)n;
    }
    return 0;
}

static char target[PATH_BYTES];

static long copy_target(long from, uint64_t size)
{
    (void)from;
    return write_all(target, size);
}

static long open_plain(long directory, const char *name, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    return sys(SYS_openat2, directory, name, &how, sizeof how);
}

static void keep_file(long directory, const char *name, const struct stat *status)
{
    if (!has_room(bytes_of(UPLOAD_FILE, (uint64_t)status->st_size)))
        return; /* before a huge file is even opened */
    const long fd = open_plain(directory, name, 0);
    if (fd < 0) {
        leave_out("it cannot be opened");
        return;
    }
    keep(UPLOAD_FILE, status, (uint64_t)status->st_size, copy_file, fd);
    sys(SYS_close, fd);
}

static void keep_link(long directory, const char *name, const struct stat *status)
{
    const long size = sys(SYS_readlinkat, directory, name, target, sizeof target);
    if (size < 0)
        leave_out("it cannot be read");
    else
        keep(UPLOAD_LINK, status, (uint64_t)size, copy_target, -1);
}

static int matches(void)
{
    for (uint32_t i = 0; i < limits->outputs; i++)
        if (glob_matches(patterns[i], path))
            return 1;
    return 0;
}

static void walk(long directory, int depth, int inside);

static void enter(long directory, const char *name, const struct stat *status, int depth, int inside)
{
    const size_t size = path_size;
    if (depth == MOST_DEPTH) {
        leave_out("too deep");
        return;
    }
    const long fd = open_plain(directory, name, O_DIRECTORY);
    if (fd < 0) {
        leave_out("it cannot be opened");
        return;
    }
    if (!inside || keep(UPLOAD_DIRECTORY, status, 0, NULL, -1)) {
        walk(fd, depth + 1, inside);
        path_size = size;
        path[size] = 0;
        if (inside)
            add(UPLOAD_LEAVE, status, 0, NULL, -1);
    }
    sys(SYS_close, fd);
}

static void visit(long directory, const char *name, int depth, int inside)
{
    struct stat status;
    if (sys(SYS_newfstatat, directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        leave_out("it cannot be looked at");
        return;
    }
    inside = inside || matches();
    if (S_ISDIR(status.st_mode))
        enter(directory, name, &status, depth, inside);
    else if (!inside)
        return;
    else if (S_ISREG(status.st_mode))
        keep_file(directory, name, &status);
    else if (S_ISLNK(status.st_mode))
        keep_link(directory, name, &status);
    else
        leave_out("it is no file, directory or link");
}

/* Each name is `path` while it is visited. */
static void walk(long directory, int depth, int inside)
{
    _Alignas(8) char names[NAMES_BYTES];
    const size_t before = path_size;
    long size;
    while ((size = sys(SYS_getdents64, directory, names, sizeof names)) > 0)
        for (long at = 0; at < size;) {
            const struct dent *entry = (const struct dent *)(const void *)(names + at);
            const char *name = entry->name;
            const size_t length = text_length(name);
            at += entry->size;
            if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)))
                continue;
            if (++visited > MOST_VISITED) {
                if (visited == MOST_VISITED + 1)
                    leave_out("too many files to look through");
                return;
            }
            path_size = before;
            if (before + length + 2 > sizeof path) {
                leave_out("a path below it is too long");
                continue;
            }
            if (before > 0)
                path[path_size++] = '/';
            __builtin_memcpy(path + path_size, name, length + 1);
            path_size += length;
            visit(directory, name, depth, inside);
            path_size = before;
            path[before] = 0;
        }
    if (size < 0)
        leave_out("it cannot be listed");
}

/* END: its time is how many were left out, its content says why and which. */
static void finish(void)
{
    const struct stat nothing = {0};
    path_size = 0;
    path[0] = 0;
    const int64_t begins = result_bytes;
    long result = write_header(TREE_END, &nothing, report_size, (int64_t)left_out);
    if (result >= 0)
        result = write_all(report, report_size);
    if (result >= 0)
        result = write_all(&begins, sizeof begins);
    leave(result < 0);
}

/* As command.c, but without init's privileges: as its owner, whom init has kept, it enters the job's user namespace with
 * all capabilities in it, and keeps one. */
static void become_user(const struct spec_header *header)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    const uint32_t keep_one = 1U << CAP_DAC_READ_SEARCH;
    const struct __user_cap_data_struct data[2] = {{keep_one, keep_one, 0}};
    uid_t real, effective, owner;
    need(STAGE_USERNS, sys(SYS_getresuid, &real, &effective, &owner), "getresuid");
    need(STAGE_USERNS, sys(SYS_setresuid, -1, owner, -1), "setresuid to the owner");
    need(STAGE_USERNS, sys(SYS_setns, FD_USERNS, CLONE_NEWUSER), "setns to the user namespace");
    need(STAGE_CREDENTIALS, sys(SYS_setgroups, 0, NULL), "setgroups");
    need(STAGE_CREDENTIALS, sys(SYS_setresgid, header->gid, header->gid, header->gid), "setresgid");
    need(STAGE_CREDENTIALS, sys(SYS_setresuid, header->uid, header->uid, header->uid), "setresuid");
    need(STAGE_CREDENTIALS, sys(SYS_capset, &version, data), "capset");
}

static _Noreturn void collector(const struct spec *spec, long result)
{
    role = ROLE_COLLECTOR;
    limits = &spec->header;
    patterns = spec->outputs;
    become_user(limits);
    const long work = need(STAGE_SUPERVISE, sys(SYS_openat, AT_FDCWD, "/work", O_RDONLY | O_DIRECTORY), "/work");
    /* Above both places first: either may have arrived at the other's. */
    const long high = need(STAGE_SUPERVISE, sys(SYS_fcntl, result, F_DUPFD, 64), "dup");
    const long higher = need(STAGE_SUPERVISE, sys(SYS_fcntl, work, F_DUPFD, 64), "dup");
    need(STAGE_SUPERVISE, sys(SYS_dup3, high, FD_RESULT, 0), "dup3");
    need(STAGE_SUPERVISE, sys(SYS_dup3, higher, FD_WORK, 0), "dup3");
    need(STAGE_SUPERVISE, sys(SYS_close_range, FD_WORK + 1, ~0U, 0), "close_range");
    seccomp_load(PROFILE_DEFAULT);
    result_bytes = sizeof TREE_MAGIC - 1;
    need(STAGE_SUPERVISE, write_all(TREE_MAGIC, sizeof TREE_MAGIC - 1), "write");
    walk(FD_WORK, 0, 0);
    finish();
    __builtin_unreachable();
}

/* Whether it ended by itself and said that it had all. */
static int wait_for(long pid, uint64_t most_ms)
{
    const int64_t end = clock_ns(CLOCK_MONOTONIC) + (int64_t)most_ms * 1000000;
    for (;;) {
        int status = 0;
        if (sys(SYS_wait4, pid, &status, WNOHANG | __WALL, NULL) == pid)
            return status == 0;
        const int64_t left = end - clock_ns(CLOCK_MONOTONIC);
        if (left <= 0)
            break;
        struct pollfd signals = {FD_SIGNALS, POLLIN, 0};
        struct signalfd_siginfo taken;
        const struct timespec pause = {left / 1000000000, left % 1000000000};
        sys(SYS_ppoll, &signals, 1, &pause, NULL, 0);
        sys(SYS_read, FD_SIGNALS, &taken, sizeof taken); /* a TERM as well: the job has ended, this has its own limit */
    }
    sys(SYS_kill, -1, SIGKILL);
    while (sys(SYS_wait4, -1, NULL, __WALL, NULL) > 0)
        continue;
    return 0;
}

/* What is not complete stays outputs.tmp; the executor says so. */
void collect_outputs(const struct spec *spec)
{
    struct clone_args args = {.exit_signal = SIGCHLD};
    const long result = sys(SYS_openat, FD_STATE, "outputs.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (result < 0)
        return;
    const long pid = sys(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        collector(spec, result);
    if (pid > 0 && wait_for(pid, spec->header.output_ms))
        sys(SYS_renameat2, FD_STATE, "outputs.tmp", FD_STATE, "outputs", 0);
}
