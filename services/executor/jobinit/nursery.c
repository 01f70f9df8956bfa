/* From the nursery come all jobinits of one executor, each by a fork instead of by an exec of its own: that costs less
 * (0.18 instead of 0.25 ms of CPU time), and the executor, whose event loop would stand still meanwhile, does not wait.
 *
 * One message for each: a byte for every descriptor that comes with it, its place. All other places are /dev/null, but
 * for FD_TEMPLATE, which is the same for every job. What is forked off goes on as `outer`, as if it had been executed.
 * It is nobody's memory but the nursery's own few pages that it gets, and those never held anything of a job.
 *
 * The nursery waits for nobody: it ignores SIGCHLD, so that outer, and init, whose parent it becomes when outer has left,
 * are gone when they have ended (wait(2), NOTES; prctl(2), PR_SET_CHILD_SUBREAPER). It leaves when the executor closes
 * its end of the socket or dies, which no init notices. */
#include "stages.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    OWN_SOCKET = 64, /* above all places, as is what arrives */
    MOST_FDS = FD_NETNS - FD_SPEC + FD_CGROUP_MAX,
};
_Static_assert((int)OWN_SOCKET > (int)FD_OWN_END && (int)OWN_SOCKET >= (int)FD_CGROUP + (int)FD_CGROUP_MAX, "places");

static const struct {
    uint64_t handler, flags, restorer, mask;
} ignore = {.handler = 1};

/* How many descriptors came, and which; their places. */
static uint32_t receive(uint8_t *at, int *fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control = {0};
    struct iovec part = {at, MOST_FDS};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    const long n = sys(SYS_recvmsg, OWN_SOCKET, &header, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        leave(n == 0 ? 0 : EXIT_LAUNCH);
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || control.header.cmsg_level != SOL_SOCKET ||
        control.header.cmsg_type != SCM_RIGHTS || control.header.cmsg_len != CMSG_LEN((size_t)n * sizeof(int)))
        leave(EXIT_LAUNCH); /* not the executor's words */
    __builtin_memcpy(fds, CMSG_DATA(&control.header), (size_t)n * sizeof(int));
    return (uint32_t)n;
}

/* In the child. The descriptors are all above the places, so none is overwritten before its turn; outer closes them. */
static _Noreturn void born(const uint8_t *places, const int *fds, uint32_t count)
{
    need(STAGE_SPEC, sys(SYS_setsid), "setsid");
    for (uint32_t i = 0; i < count; i++)
        need(STAGE_SPEC, sys(SYS_dup3, fds[i], places[i], 0), "dup3");
    outer();
}

/* The executor hears of it as of every other failure: by the job's control socket. */
static void tell(const uint8_t *places, const int *fds, uint32_t count, long error)
{
    struct msg message;
    message_make(&message, MSG_ERROR, STAGE_CLONE, error, "fork of jobinit");
    for (uint32_t i = 0; i < count; i++)
        if (places[i] == FD_CONTROL && sys(SYS_dup3, fds[i], FD_CONTROL, 0) >= 0) {
            message_send(&message, -1);
            sys(SYS_dup3, 0, FD_CONTROL, 0);
        }
}

_Noreturn void nursery(void)
{
    if (sys(SYS_dup3, FD_CONTROL, OWN_SOCKET, O_CLOEXEC) < 0 || sys(SYS_close_range, OWN_SOCKET + 1, ~0U, 0) < 0 ||
        sys(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ||
        sys(SYS_rt_sigaction, SIGCHLD, &ignore, NULL, sizeof ignore.mask) < 0)
        leave(EXIT_LAUNCH);
    for (int place = FD_SPEC; place < OWN_SOCKET; place++)
        if (place != FD_TEMPLATE && sys(SYS_dup3, 0, place, 0) < 0)
            leave(EXIT_LAUNCH);
    for (;;) {
        uint8_t places[MOST_FDS];
        int fds[MOST_FDS];
        const uint32_t count = receive(places, fds);
        const long pid = sys(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (pid == 0)
            born(places, fds, count);
        if (pid < 0)
            tell(places, fds, count, -pid);
        for (uint32_t i = 0; i < count; i++)
            sys(SYS_close, fds[i]);
    }
}
