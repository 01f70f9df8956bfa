/* The seccomp programs, constant from compile time on.
 *
 * Answers: another architecture's system call kills (its numbers mean other things); numbers this file does not know
 * and clone3, whose flags a filter cannot see, are ENOSYS, for which libc falls back, as is io_setup, for whose contexts
 * there is one number for the whole machine (fs.aio-max-nr) and no cgroup; dangerous calls are EPERM whatever their
 * arguments. Only what the kernel's cache of always-allowed calls understands is used (loads, JEQ, JGE, JSET,
 * RET, no arithmetic): for most calls the program then costs nothing (Linux 5.11, kernel/seccomp.c).
 *
 * Deliberately allowed: ptrace and process_vm_readv/writev (the pid namespace and init's non-dumpability confine them,
 * seccomp has been applied after ptrace since Linux 4.8; debuggers and strace are ordinary jobs), seccomp and Landlock
 * (programs sandboxing themselves further), mknod (the kernel leaves only pipes and sockets).
 * Profile build differs by name_to_handle_at, which systemd's tools in package scripts call to recognise mount points;
 * opening by handle stays forbidden. chroot needs a capability that build does not have, so it is refused there too. */
#include "stages.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/socket.h>

/* The last call of Linux 5.17. Not the headers' last one: a call becomes known by being thought about here. */
enum { LAST_KNOWN = 450 };

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

enum { NEW_NAMESPACES = 0x7e020000 /* every CLONE_NEW* that clone(2) takes; CLONE_NEWTIME is none of them */ };
enum { IOCTL_TIOCSTI = 0x5412, IOCTL_TIOCLINUX = 0x541c };

#define LOW_WORD(n) (offsetof(struct seccomp_data, args) + 8 * (n)) /* little endian */
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define LOAD_NUMBER LOAD(offsetof(struct seccomp_data, nr))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define ERROR(value) (SECCOMP_RET_ERRNO | (value))
#define WHEN_EQUAL(value, result) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, 1), RETURN(result)
#define WHEN_AT_LEAST(value, result) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (value), 0, 1), RETURN(result)
#define WHEN_ANY_BIT(value, result) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (value), 0, 1), RETURN(result)
#define DENY(call) WHEN_EQUAL(SYS_##call, ERROR(EPERM))
/* The following `length` instructions are for this call only; they end in a RETURN. */
#define IF_CALL(call, length) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, (length))
#define CHECK_FAMILY(call) \
    IF_CALL(call, 10), LOAD(LOW_WORD(0)), WHEN_EQUAL(AF_UNIX, SECCOMP_RET_ALLOW), \
        WHEN_EQUAL(AF_INET, SECCOMP_RET_ALLOW), WHEN_EQUAL(AF_INET6, SECCOMP_RET_ALLOW), \
        WHEN_EQUAL(AF_NETLINK, SECCOMP_RET_ALLOW), RETURN(ERROR(EAFNOSUPPORT))

#define PROLOGUE \
    LOAD(offsetof(struct seccomp_data, arch)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0), \
        RETURN(SECCOMP_RET_KILL_PROCESS), LOAD_NUMBER, \
        WHEN_AT_LEAST(LAST_KNOWN + 1, ERROR(ENOSYS)) /* x32 is 0x40000000 and above */

/* On loading, the kernel walks the program once for every number (for the cache above): short ways out are worth it, a
 * quarter of the time that loading takes. */
#define ALLOW_FROM(first, end) \
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_##first, 0, 2), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_##end, 1, 0), \
        RETURN(SECCOMP_RET_ALLOW)
#if defined(__x86_64__)
#define SHORT_CUTS \
    , ALLOW_FROM(read, syslog), ALLOW_FROM(set_robust_list, perf_event_open), ALLOW_FROM(getpmsg, lookup_dcookie), \
    ALLOW_FROM(getgid, uselib), ALLOW_FROM(ioprio_set, unshare), ALLOW_FROM(clock_gettime, kexec_load), \
    ALLOW_FROM(epoll_create, clock_settime), /* nothing to deny in these */ \
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_pidfd_send_signal, 2, 0), WHEN_AT_LEAST(335, ERROR(ENOSYS)) /* a gap */
#else
#define SHORT_CUTS
#endif

/* Calls whose arguments decide. */
#define CONDITIONAL \
    IF_CALL(clone, 4), LOAD(LOW_WORD(0)), WHEN_ANY_BIT(NEW_NAMESPACES, ERROR(EPERM)), RETURN(SECCOMP_RET_ALLOW), \
    IF_CALL(ioctl, 6), LOAD(LOW_WORD(1)), WHEN_EQUAL(IOCTL_TIOCSTI, ERROR(EPERM)), \
        WHEN_EQUAL(IOCTL_TIOCLINUX, ERROR(EPERM)), RETURN(SECCOMP_RET_ALLOW), \
    CHECK_FAMILY(socket), CHECK_FAMILY(socketpair), \
    WHEN_EQUAL(SYS_io_setup, ERROR(ENOSYS)) SHORT_CUTS, WHEN_EQUAL(SYS_clone3, ERROR(ENOSYS)), \
    /* 0 Linux, 8 PER_LINUX32 (of no effect here but harmless), with UNAME26; all ones asks for the current one */ \
    IF_CALL(personality, 7), LOAD(LOW_WORD(0)), WHEN_EQUAL(0xffffffff, SECCOMP_RET_ALLOW), \
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(uint32_t)0x20008), WHEN_EQUAL(0, SECCOMP_RET_ALLOW), \
        RETURN(ERROR(EPERM))

#define MOUNTS_AND_NAMESPACES \
    DENY(mount), DENY(umount2), DENY(pivot_root), DENY(chroot), DENY(setns), DENY(unshare), DENY(move_mount), \
    DENY(open_tree), DENY(fsopen), DENY(fsconfig), DENY(fsmount), DENY(fspick), DENY(mount_setattr), \
    DENY(open_by_handle_at), DENY(quotactl), DENY(quotactl_fd), DENY(fanotify_init), DENY(fanotify_mark)
#define KERNEL_INTERFACES \
    DENY(bpf), DENY(perf_event_open), DENY(userfaultfd), DENY(io_uring_setup), DENY(io_uring_enter), \
    DENY(io_uring_register), DENY(add_key), DENY(request_key), DENY(keyctl), DENY(kexec_load), \
    DENY(kexec_file_load), DENY(init_module), DENY(finit_module), DENY(delete_module), DENY(syslog), \
    DENY(lookup_dcookie), DENY(nfsservctl), DENY(kcmp), DENY(pidfd_getfd), DENY(process_madvise)
#define MACHINE \
    DENY(reboot), DENY(swapon), DENY(swapoff), DENY(acct), DENY(settimeofday), DENY(clock_settime), \
    DENY(clock_adjtime), DENY(adjtimex), DENY(sethostname), DENY(setdomainname), DENY(vhangup)
#if defined(__x86_64__)
#define OLD_CALLS \
    , DENY(iopl), DENY(ioperm), DENY(modify_ldt), DENY(uselib), DENY(ustat), DENY(sysfs), DENY(_sysctl), \
    DENY(create_module), DENY(get_kernel_syms), DENY(query_module)
#else
#define OLD_CALLS
#endif

static const struct sock_filter default_program[] = {
    PROLOGUE, CONDITIONAL, MOUNTS_AND_NAMESPACES, KERNEL_INTERFACES, MACHINE OLD_CALLS,
    DENY(name_to_handle_at), RETURN(SECCOMP_RET_ALLOW),
};
static const struct sock_filter build_program[] = {
    PROLOGUE, CONDITIONAL, MOUNTS_AND_NAMESPACES, KERNEL_INTERFACES, MACHINE OLD_CALLS, RETURN(SECCOMP_RET_ALLOW),
};

void seccomp_load(uint32_t profile)
{
    const int build = profile == PROFILE_BUILD;
    const size_t size = build ? sizeof build_program : sizeof default_program;
    const struct {
        unsigned short length;
        const struct sock_filter *program;
    } filter = {(unsigned short)(size / sizeof(struct sock_filter)), build ? build_program : default_program};
    need(STAGE_SECCOMP, sys(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter), "load the filter");
}
