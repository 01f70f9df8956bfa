/* The mounts that differ per job, on top of a copy of the template mount namespace. */
#include "stages.h"

#include <fcntl.h>
#include <sys/mount.h>

enum { TTY_GROUP = 5 }; /* of Debian, Fedora and everybody else; owner of pseudo terminals */

/* World-readable files that tell about the machine or about other jobs, and root's most dangerous ones once more. */
static const char *const masked_files[] = {
    "/proc/interrupts", "/proc/kallsyms",     "/proc/kcore",      "/proc/key-users",   "/proc/keys",
    "/proc/kmsg",       "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list",
};
static const char *const masked_directories[] = {"/proc/acpi", "/proc/asound", "/proc/scsi"};
static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/* A kernel without the file has nothing to hide there. */
static int bound(const char *from, const char *to)
{
    long result = sys(SYS_mount, from, to, NULL, MS_BIND, NULL);
    if (result != -ENOENT)
        need(STAGE_PROC, result, to);
    return result == 0;
}

static void mount_proc(void)
{
    need(STAGE_PROC, sys(SYS_mount, "proc", "/proc", "proc", quiet, NULL), "mount /proc");
    /* For the command to forbid nested user namespaces, once /proc/sys is read-only. */
    long fd = need(STAGE_PROC, sys(SYS_openat, AT_FDCWD, "/proc/sys", O_PATH | O_DIRECTORY | O_CLOEXEC), "/proc/sys");
    need(STAGE_PROC, sys(SYS_dup3, fd, FD_PROC_SYS, O_CLOEXEC), "dup3");
    need(STAGE_PROC, sys(SYS_close, fd), "close");
    for (size_t i = 0; i < COUNT(masked_files); i++)
        bound("/dev/null", masked_files[i]);
    for (size_t i = 0; i < COUNT(masked_directories); i++)
        bound("/run", masked_directories[i]); /* empty in the template, and read-only like it */
    for (size_t i = 0; i < COUNT(read_only); i++)
        if (bound(read_only[i], read_only[i]))
            need(STAGE_PROC, sys(SYS_mount, NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | quiet, NULL),
                 read_only[i]);
}

static void mount_tmpfs(const char *where, uint64_t bytes, uint64_t inodes, const char *rest)
{
    char options[128], *at = options;
    const char *end = options + sizeof options - 1;
    at = text_append(at, end, "size=");
    at = number_append(at, end, bytes);
    at = text_append(at, end, ",nr_inodes=");
    at = number_append(at, end, inodes);
    text_append(at, end, rest);
    need(STAGE_MOUNT, sys(SYS_mount, "tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV, options), where);
}

static void mount_work(const struct spec_header *header)
{
    char owner[64], *at = owner;
    const char *end = owner + sizeof owner - 1;
    at = text_append(at, end, ",mode=0700,uid=");
    at = number_append(at, end, header->host_uid);
    at = text_append(at, end, ",gid=");
    number_append(at, end, header->host_gid);
    mount_tmpfs("/work", header->work_bytes, header->tmpfs_inodes, owner);
}

/* An instance of its own: no terminal of the host is in sight. gid: glibc's grantpt is content with the tty group. */
static void mount_devpts(const struct spec_header *header)
{
    char options[96], *at = options;
    const char *end = options + sizeof options - 1;
    at = text_append(at, end, "newinstance,ptmxmode=0666,mode=0620,max=256,gid=");
    number_append(at, end, header->host_gid - header->gid + TTY_GROUP);
    need(STAGE_MOUNT, sys(SYS_mount, "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options), "/dev/pts");
}

void rootfs_mount(const struct spec *spec)
{
    const struct spec_header *header = &spec->header;
    need(STAGE_MOUNT, sys(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    mount_proc();
    mount_devpts(header);
    mount_tmpfs("/tmp", header->tmp_bytes, header->tmpfs_inodes, ",mode=1777");
    mount_work(header);
    mount_tmpfs("/dev/shm", spec->header.shm_bytes, spec->header.tmpfs_inodes, ",mode=1777");
    need(STAGE_MOUNT, sys(SYS_chdir, "/"), "chdir /");
}

/* /dev/shm is as large as the job's memory, which an init prepared ahead learns with its order. */
void rootfs_resize_memory(const struct spec *spec)
{
    char options[64], *at = options;
    const char *end = options + sizeof options - 1;
    at = text_append(at, end, "size=");
    number_append(at, end, spec->header.shm_bytes);
    const unsigned long flags = MS_REMOUNT | MS_NOSUID | MS_NODEV;
    need(STAGE_MOUNT, sys(SYS_mount, NULL, "/dev/shm", NULL, flags, options), "size of /dev/shm");
}
