/* init: the namespaces' first process, up to the fork of the command (steps 6 to 10 of main.c). */
#include "stages.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum { PIPE_BYTES = 1 << 20 };

/* Moves fd to its fixed place. */
static void place(uint32_t stage, long fd, int at)
{
    if (fd == at)
        return;
    need(stage, sys(SYS_dup3, fd, at, O_CLOEXEC), "dup3");
    need(stage, sys(SYS_close, fd), "close");
}

static void announce(void)
{
    struct msg message;
    long self = need(STAGE_CONTROL, sys(SYS_pidfd_open, 1, 0), "pidfd_open");
    message_make(&message, MSG_INIT, 0, 0, "");
    need(STAGE_CONTROL, message_send(&message, (int)self), "send INIT");
    need(STAGE_CONTROL, sys(SYS_close, self), "close");
}

static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    long fd = need(STAGE_LOOPBACK, sys(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    request.ifr_flags = IFF_UP;
    need(STAGE_LOOPBACK, sys(SYS_ioctl, fd, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS lo");
    need(STAGE_LOOPBACK, sys(SYS_close, fd), "close");
}

/* Also for init itself: a file size limit inherited from the executor's shell would cut logs. */
static void set_limits(uint64_t nofile)
{
    const uint64_t none = RLIM_INFINITY;
    const struct {
        int resource;
        uint64_t soft, hard;
    } limits[] = {
        {RLIMIT_CPU, none, none},
        {RLIMIT_FSIZE, none, none},
        {RLIMIT_DATA, none, none},
        {RLIMIT_STACK, 8 << 20, none},
        {RLIMIT_CORE, 0, 0},
        {RLIMIT_RSS, none, none},
        {RLIMIT_NPROC, none, none}, /* the pids cgroup limits processes */
        {RLIMIT_NOFILE, nofile, nofile},
        {RLIMIT_MEMLOCK, 64 << 10, 64 << 10},
        {RLIMIT_AS, none, none},
        {RLIMIT_LOCKS, none, none},
        {RLIMIT_SIGPENDING, 4096, 4096},
        {RLIMIT_MSGQUEUE, 819200, 819200},
        {RLIMIT_NICE, 0, 0},
        {RLIMIT_RTPRIO, 0, 0},
        {RLIMIT_RTTIME, none, none},
    };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        const uint64_t wanted[2] = {limits[i].soft, limits[i].hard};
        const long result = sys(SYS_prlimit64, 0, limits[i].resource, wanted, NULL);
        if (result != -EPERM) {
            need(STAGE_RLIMIT, result, "prlimit64");
            continue;
        }
        /* Raising needs CAP_SYS_RESOURCE; without it the executor's own ceiling, lower than ours, stays. */
        uint64_t pair[2];
        need(STAGE_RLIMIT, sys(SYS_prlimit64, 0, limits[i].resource, NULL, pair), "prlimit64");
        pair[0] = limits[i].soft < pair[1] ? limits[i].soft : pair[1];
        need(STAGE_RLIMIT, sys(SYS_prlimit64, 0, limits[i].resource, pair, NULL), "prlimit64");
    }
}

/* The job can write to the pipe by any name (/dev/stdout opens it anew) but not read back what others wrote: mode 0222,
 * owner root. init keeps a write end: without one, a job that closed its output would make poll spin on POLLHUP. */
static void make_pipes(void)
{
    int ends[2];
    need(STAGE_PIPE, sys(SYS_pipe2, ends, O_CLOEXEC), "pipe2");
    place(STAGE_PIPE, ends[0], FD_PIPE_READ);
    place(STAGE_PIPE, ends[1], FD_PIPE_WRITE);
    need(STAGE_PIPE, sys(SYS_fchmod, FD_PIPE_READ, 0222), "fchmod of the output pipe");
    long result = sys(SYS_fcntl, FD_PIPE_READ, F_SETPIPE_SZ, PIPE_BYTES);
    if (result != -EPERM && result != -ENOMEM) /* 64 KiB do as well, only slower */
        need(STAGE_PIPE, result, "F_SETPIPE_SZ");
    need(STAGE_PIPE, sys(SYS_pipe2, ends, O_CLOEXEC | O_NONBLOCK), "pipe2");
    place(STAGE_PIPE, ends[0], FD_LAUNCH_READ);
    place(STAGE_PIPE, ends[1], FD_LAUNCH_WRITE);
    const uint64_t signals = UINT64_C(1) << (SIGTERM - 1) | UINT64_C(1) << (SIGCHLD - 1);
    const long fd = sys(SYS_signalfd4, -1, &signals, sizeof signals, SFD_CLOEXEC | SFD_NONBLOCK);
    place(STAGE_PIPE, need(STAGE_PIPE, fd, "signalfd"), FD_SIGNALS);
}

static long fork_command(const struct spec_header *header)
{
    struct clone_args args = {.exit_signal = SIGCHLD};
    if (header->cgroup_version == 2) {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = FD_CGROUP + header->init_fds;
    }
    return need(STAGE_FORK, sys(SYS_clone3, &args, sizeof args), "clone3 of the command");
}

static void close_all(uint32_t first, uint32_t last)
{
    need(STAGE_PRIVILEGES, sys(SYS_close_range, first, last, 0), "close_range");
}

/* As the saved user: with that one collect.c may enter the job's user namespace, for it is its owner. */
static void keep_owner(void)
{
    uid_t owner;
    need(STAGE_PRIVILEGES, sys(SYS_ioctl, FD_USERNS, NS_GET_OWNER_UID, &owner), "owner of the user namespace");
    need(STAGE_PRIVILEGES, sys(SYS_setresuid, -1, -1, owner), "setresuid");
}

/* The last close of the control socket comes when nothing can fail any more but supervision itself. */
static void give_up_privileges(const struct spec_header *spec_header)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    const struct __user_cap_data_struct only_kill[2] = {{1U << CAP_KILL, 1U << CAP_KILL, 0}};
    if (spec_header->outputs)
        keep_owner();
    close_all(FD_SPEC, FD_SPEC);
    close_all(FD_TEMPLATE, spec_header->outputs ? FD_TEMPLATE : FD_USERNS); /* for collect.c to enter */
    close_all(FD_UPLOADS, FD_UPLOADS);
    close_all(FD_NETNS, FD_PIPE_READ - 1);
    close_all(FD_LAUNCH_WRITE, FD_LAUNCH_WRITE);
    close_all(FD_PROC_SYS, ~0U);
    need(STAGE_PRIVILEGES, sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    need(STAGE_PRIVILEGES, sys(SYS_capset, &header, only_kill), "capset of init");
    close_all(FD_CONTROL, FD_CONTROL);
}

_Noreturn void init(struct spec *spec)
{
    const struct spec_header *header = &spec->header;
    announce();
    need(STAGE_CONTROL, sys(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE");
    need(STAGE_CONTROL, sys(SYS_setsid), "setsid"); /* no terminal's ^C, no kill of the executor's group */
    need(STAGE_CONTROL, sys(SYS_setgroups, 0, NULL), "setgroups");
    if (!(header->flags & LAUNCH_PREPARED))
        need(STAGE_RECORD, record_prepare(), "preallocate exit.tmp");
    rootfs_mount(spec);
    if (header->flags & LAUNCH_NEW_NETWORK)
        loopback_up();
    need(STAGE_HOSTNAME, sys(SYS_sethostname, spec->hostname, text_length(spec->hostname)), "sethostname");
    need(STAGE_HOSTNAME, sys(SYS_setdomainname, "(none)", 6), "setdomainname");
    set_limits(header->nofile);
    make_pipes();
    if (header->flags & LAUNCH_PREPARED) {
        order_await(spec);
        need(STAGE_RECORD, record_prepare(), "preallocate exit.tmp");
        rootfs_resize_memory(spec);
    }
    long pid = fork_command(header);
    if (pid == 0)
        command(spec);
    give_up_privileges(header);
    supervise(spec, pid);
}
