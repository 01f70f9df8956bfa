/* The command: from the fork to execve (steps 12 to 18 of main.c). */
#include "stages.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET /* Linux 6.12 */
#define LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET 1
#define LANDLOCK_SCOPE_SIGNAL 2
#endif
enum { LANDLOCK_ABI_SCOPES = 6 };

/* What package managers use as root; all of it is about the job's own ids and files. No SYS_ADMIN: no mount. */
static const uint64_t build_capabilities = 1U << CAP_CHOWN | 1U << CAP_DAC_OVERRIDE | 1U << CAP_FOWNER |
                                           1U << CAP_FSETID | 1U << CAP_SETGID | 1U << CAP_SETUID |
                                           1U << CAP_SETFCAP;

static char executable[4096];

static void write_text(uint32_t stage, int directory, const char *path, const char *text)
{
    long fd = need(stage, sys(SYS_openat, directory, path, O_WRONLY | O_CLOEXEC), path);
    need(stage, sys(SYS_write, fd, text, text_length(text)), path);
    need(stage, sys(SYS_close, fd), path);
}

static void join_cgroup(const struct spec_header *header)
{
    const uint32_t first = FD_CGROUP + header->init_fds;
    if (header->cgroup_version == 1) /* v2: clone3 did it */
        for (uint32_t fd = first; fd < first + header->payload_fds; fd++)
            need(STAGE_CGROUP, sys(SYS_write, fd, "0", 1), "write to tasks of the payload's leaf");
    need(STAGE_CGROUP, sys(SYS_unshare, CLONE_NEWCGROUP), "unshare the cgroup namespace");
}

static void set_up_session(void)
{
    need(STAGE_SESSION, sys(SYS_setsid), "setsid");
    sys(SYS_umask, 022); /* cannot fail */
    write_text(STAGE_SESSION, AT_FDCWD, "/proc/self/oom_score_adj", "500");
    need(STAGE_SESSION, sys(SYS_personality, 0), "personality");
    need(STAGE_SESSION, sys(SYS_dup3, FD_PIPE_WRITE, 1, 0), "dup3 to stdout");
    need(STAGE_SESSION, sys(SYS_dup3, FD_PIPE_WRITE, 2, 0), "dup3 to stderr");
}

static void enter_user_namespace(void)
{
    need(STAGE_USERNS, sys(SYS_setns, FD_USERNS, CLONE_NEWUSER), "setns to the user namespace");
    write_text(STAGE_USERNS, FD_PROC_SYS, "user/max_user_namespaces", "0");
}

static void set_credentials(const struct spec_header *header)
{
    const uint64_t keep = header->profile == PROFILE_BUILD ? build_capabilities : 0;
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    const struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, 0}};
    const uint32_t stage = STAGE_CREDENTIALS;

    need(stage, sys(SYS_setgroups, 0, NULL), "setgroups");
    for (int capability = 0; capability < 64; capability++) {
        if (keep >> capability & 1)
            continue;
        long result = sys(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
        if (result == -EINVAL && capability > CAP_CHECKPOINT_RESTORE)
            break; /* one more than this kernel has */
        need(stage, result, "PR_CAPBSET_DROP");
    }
    need(stage, sys(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities");
    need(stage, sys(SYS_setresgid, header->gid, header->gid, header->gid), "setresgid");
    need(stage, sys(SYS_setresuid, header->uid, header->uid, header->uid), "setresuid");
    /* Not implied by setresuid: the kernel drops capabilities only on leaving uid 0 of this namespace. */
    need(stage, sys(SYS_capset, &version, data), "capset");
    need(stage, sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    long result = sys(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    if (result != -ENOSYS) /* a kernel without keys has none to leak */
        need(stage, result, "new session keyring");
}

/* Also what nobody has told us of. Before any path of the job's is followed: /proc/self/fd/N is one, and leads to where
 * the descriptor is from, which may be the host's tree. Nothing but 0, 1, 2 outlives execve. */
static void close_descriptors(void)
{
    need(STAGE_SESSION, sys(SYS_close_range, FD_CONTROL + 1, FD_LAUNCH_WRITE - 1, 0), "close_range");
    need(STAGE_SESSION, sys(SYS_close_range, FD_LAUNCH_WRITE + 1, ~0U, 0), "close_range");
    need(STAGE_SESSION, sys(SYS_close, FD_SPEC), "close");
}

/* A link of /proc's own kind leads to an object, not to a path: none of them is a place inside the job. */
static void enter_directory(const char *path)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    long fd = need(STAGE_WORKDIR, sys(SYS_openat2, AT_FDCWD, path, &how, sizeof how), path);
    need(STAGE_WORKDIR, sys(SYS_fchdir, fd), path);
    need(STAGE_WORKDIR, sys(SYS_close, fd), path);
}

static const char *search_path(char **envp)
{
    for (; *envp != NULL; envp++)
        if (text_begins(*envp, "PATH="))
            return *envp + 5;
    return "/usr/local/bin:/usr/bin:/bin";
}

/* 0, or why `executable` cannot be executed. */
static long check_executable(void)
{
    struct stat status;
    long result = sys(SYS_newfstatat, AT_FDCWD, executable, &status, 0);
    if (result == 0 && !S_ISREG(status.st_mode))
        return -EACCES;
    return result != 0 ? result : sys(SYS_faccessat, AT_FDCWD, executable, 1 /* X_OK */);
}

/* As execvp(3) searches, but before the executor is told that the job can start. */
static void resolve(const char *name, const char *path)
{
    const char *end = executable + sizeof executable - 1;
    long error = -ENOENT;
    int has_slash = 0;
    for (const char *c = name; *c != 0; c++)
        has_slash |= *c == '/';
    if (text_length(name) >= sizeof executable - 1)
        fail(STAGE_RESOLVE, ENAMETOOLONG, name);
    if (has_slash) {
        text_append(executable, end, name);
        need(STAGE_RESOLVE, check_executable(), name);
        return;
    }
    for (;;) {
        size_t n = 0;
        while (path[n] != ':' && path[n] != 0)
            n++;
        if (n + 1 + text_length(name) < sizeof executable) {
            __builtin_memcpy(executable, path, n);
            char *at = executable + n;
            at = text_append(at, end, n > 0 ? "/" : "");
            text_append(at, end, name);
            long result = check_executable();
            if (result == 0)
                return;
            if (result == -EACCES)
                error = result;
        }
        if (path[n] == 0)
            fail(STAGE_RESOLVE, -error, name);
        path += n + 1;
    }
}

/* The errno with which optional scoping is not available, else 0. */
static long restrict_by_landlock(uint32_t flags)
{
    const struct {
        uint64_t handled_access_fs, handled_access_net, scoped;
    } attributes = {0, 0, LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL};
    if (!(flags & LAUNCH_LANDLOCK))
        return 0;
    long abi = sys(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < LANDLOCK_ABI_SCOPES) {
        long error = abi < 0 ? -abi : EOPNOTSUPP;
        if (!(flags & LAUNCH_LANDLOCK_OPTIONAL))
            fail(STAGE_LANDLOCK, error, "this kernel's Landlock cannot scope sockets and signals (ABI 6, Linux 6.12)");
        return error;
    }
    long fd = sys(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    need(STAGE_LANDLOCK, fd, "landlock_create_ruleset");
    need(STAGE_LANDLOCK, sys(SYS_landlock_restrict_self, fd, 0), "landlock_restrict_self");
    need(STAGE_LANDLOCK, sys(SYS_close, fd), "close");
    return 0;
}

static void park(long landlock_error)
{
    struct msg message;
    message_make(&message, MSG_PARKED, landlock_error ? STAGE_LANDLOCK : 0, landlock_error, "");
    need(STAGE_PARK, message_send(&message, -1), "send PARKED");
    long n = need(STAGE_PARK, sys(SYS_recvfrom, FD_CONTROL, &message, sizeof message, 0, NULL, NULL), "receive GO");
    if (n == 0)
        fail(STAGE_PARK, 0, "the executor went away");
    if (n != (long)sizeof message || message.type != MSG_GO)
        fail(STAGE_PARK, 0, "the executor did not say GO");
    message_make(&message, MSG_GO, 0, 0, "");
    int64_t started = clock_ns(CLOCK_REALTIME);
    __builtin_memcpy(message.detail, &started, sizeof started);
    need(STAGE_PARK, sys(SYS_write, FD_LAUNCH_WRITE, &message, sizeof message), "tell init of GO");
}

_Noreturn void command(const struct spec *spec)
{
    const struct spec_header *header = &spec->header;
    const uint64_t no_signals = 0;
    role = ROLE_COMMAND;
    join_cgroup(header);
    set_up_session();
    enter_user_namespace();
    set_credentials(header);
    uploads_write(spec);
    close_descriptors();
    enter_directory(spec->workdir);
    resolve(spec->argv[0], search_path(spec->envp));
    long landlock_error = restrict_by_landlock(header->flags);
    seccomp_load(header->profile);
    park(landlock_error);
    need(STAGE_EXEC, sys(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, sizeof no_signals), "unblock signals");
    need(STAGE_EXEC, sys(SYS_execve, executable, spec->argv, spec->envp), spec->argv[0]);
    leave(EXIT_LAUNCH);
}
