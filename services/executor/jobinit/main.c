/* jobinit: PID 1 of every job.
 *
 * It begins with the descriptors of jobinit.h at their places, forked off by nursery.c or executed. Three processes come
 * of it, in this order:
 *
 *  outer    1. blocks all signals, once and for all: a SIGTERM that comes before init can handle it stays pending. Resets
 *              dispositions, for whoever spawned us may ignore SIGCHLD or SIGPIPE.
 *           2. reads the spec. Nothing is done for a spec that makes no sense.
 *           3. v1: writes itself into init's cgroup leaf, for init to inherit (v2: clone3 puts init there). Not into the
 *              job's: a fork bomb or OOM of the job must not take init.
 *           4. enters the template mount namespace; from here on no path leads to the host's tree.
 *           5. clone3: init, in new pid, mount, ipc, uts (and net) namespaces. Outer's work is done; it exits.
 *  init     6. sends its own pidfd: the executor can stop the job from the first moment, and never by pid.
 *           7. takes the space of the exit record, since at the end the disk may be full.
 *           8. mounts /proc (only possible inside the pid namespace), masks it, mounts what the job may write to.
 *           9. lo, host name, resource limits (raising them needs privileges that the command will not have).
 *          10. makes the output pipe; prepared ahead, it waits here for its job (order.c), does 7 after that and gives
 *              /dev/shm its size. Forks the command, closes everything the loop does not use, keeps only CAP_KILL.
 *          11. supervises: output, children, timeout, OOM, TERM; see supervise.c for the end.
 *  command 12. joins the job's cgroup before anything of the job costs memory; then its own cgroup namespace, so that
 *              the job's leaf is what it sees as root.
 *          13. session, oom score (needs /proc/self while still its owner), output pipe onto 1 and 2.
 *          14. enters the user namespace with all capabilities in it, uses them to forbid nested ones (which would give
 *              all capabilities back) and to drop groups; then ids, capabilities, no_new_privs. Every later step runs
 *              as the job's user: an upload or workdir that plays tricks plays them against itself.
 *          15. uploads; closes every descriptor but the control socket's and 0, 1, 2; workdir, search of the executable.
 *          16. Landlock (needs no_new_privs), seccomp last, for it forbids much of the above.
 *          17. PARKED. The executor inspects the process from outside and says GO; anything else, or its death: exit.
 *          18. unblocks signals and execs. The control socket closes by CLOEXEC: end of file means success.
 *
 * Every failure is (stage, errno, detail), sent to the executor and kept in the exit record. */
#include "stages.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>

/* struct sigaction of the kernel, zero: SIG_DFL. */
static const struct {
    uint64_t handler, flags, restorer, mask;
} default_action;

static void reset_signals(void)
{
    const uint64_t all = UINT64_MAX;
    need(STAGE_SPEC, sys(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all), "block signals");
    for (int signal = 1; signal <= 64; signal++)
        if (signal != SIGKILL && signal != SIGSTOP)
            need(STAGE_SPEC, sys(SYS_rt_sigaction, signal, &default_action, NULL, sizeof all), "reset signals");
}

static long clone_init(const struct spec_header *header)
{
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
    };
    if (header->flags & LAUNCH_NEW_NETWORK)
        args.flags |= CLONE_NEWNET;
    if (header->cgroup_version == 2) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = FD_CGROUP;
    }
    return need(STAGE_CLONE, sys(SYS_clone3, &args, sizeof args), "clone3 of init");
}

_Noreturn void outer(void)
{
    static struct spec spec;
    reset_signals();
    need(STAGE_SPEC, sys(SYS_fcntl, FD_CONTROL, F_SETFD, FD_CLOEXEC), "control socket");
    spec_load(&spec);
    const struct spec_header *header = &spec.header;
    uint32_t end = FD_CGROUP + header->init_fds + header->payload_fds + header->contents;
    need(STAGE_SPEC, sys(SYS_close_range, end, ~0U, 0), "close_range");
    if (header->cgroup_version == 1)
        for (uint32_t i = 0; i < header->init_fds; i++)
            need(STAGE_CGROUP_INIT, sys(SYS_write, FD_CGROUP + i, "0", 1), "write to tasks of init's leaf");
    need(STAGE_TEMPLATE, sys(SYS_setns, FD_TEMPLATE, CLONE_NEWNS), "setns to the template");
    if (clone_init(header) == 0)
        init(&spec);
    leave(0);
}
