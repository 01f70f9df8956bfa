/* An init prepared ahead gets its job: one message with the spec and the descriptors that the job alone has.
 *
 * Until then it holds nothing of any job. It serves one job and never another; when the executor closes the socket, or
 * dies, it leaves. What was prepared must be what the job's spec asks for: a difference ends the launch. */
#include "stages.h"

#include <sys/socket.h>
#include <sys/uio.h>

enum { ORDER_MOST_FDS = ORDER_FIXED_FDS + FD_CGROUP_MAX };

static const int places[ORDER_FIXED_FDS] = {
    FD_SPEC, FD_STATE, FD_DATA, FD_INDEX, FD_UPLOADS, FD_OOM_EVENT, FD_OOM_COUNTER,
};

/* How many descriptors came, and which. */
static uint32_t receive_order(int *fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(ORDER_MOST_FDS * sizeof(int))];
    } control = {0};
    struct msg message;
    struct iovec part = {&message, sizeof message};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    const long n = need(STAGE_CONTROL, sys(SYS_recvmsg, FD_CONTROL, &header, 0), "receive the order");
    if (n == 0)
        leave(0); /* no job will come */
    if (n != (long)sizeof message || message.type != MSG_ORDER || header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        header.msg_controllen < sizeof(struct cmsghdr) || control.header.cmsg_level != SOL_SOCKET ||
        control.header.cmsg_type != SCM_RIGHTS)
        fail(STAGE_CONTROL, 0, "what came is not an order");
    const size_t bytes = control.header.cmsg_len - CMSG_LEN(0);
    __builtin_memcpy(fds, CMSG_DATA(&control.header), bytes);
    return (uint32_t)(bytes / sizeof(int));
}

/* They arrive at the lowest free numbers, all above FD_NETNS, in ascending order: so each goes down, onto a place whose
 * own descriptor, if one arrived there, has gone already. */
static void move(const int *fds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const int to = i < ORDER_FIXED_FDS ? places[i] : FD_CGROUP + (int)(i - ORDER_FIXED_FDS);
        if (fds[i] < FD_CGROUP + (int)i)
            fail(STAGE_CONTROL, 0, "a descriptor arrived at a place that must be taken");
        need(STAGE_CONTROL, sys(SYS_dup3, fds[i], to, 0), "dup3");
        need(STAGE_CONTROL, sys(SYS_close, fds[i]), "close");
    }
}

static int equal(const char *a, const char *b)
{
    return text_length(a) == text_length(b) && text_begins(a, b);
}

void order_await(struct spec *spec)
{
    const struct spec_header was = spec->header;
    const char *const hostname = spec->hostname; /* stays mapped */
    int fds[ORDER_MOST_FDS];
    const uint32_t count = receive_order(fds);
    if (count < ORDER_FIXED_FDS)
        fail(STAGE_CONTROL, 0, "too few descriptors came with the order");
    move(fds, count);
    spec_load(spec);
    const struct spec_header *is = &spec->header;
    if (count != ORDER_FIXED_FDS + is->init_fds + is->payload_fds + is->contents || is->init_fds != 0)
        fail(STAGE_SPEC, 0, "spec: another number of descriptors came");
    if (is->flags & LAUNCH_PREPARED || (is->flags & LAUNCH_NEW_NETWORK) != (was.flags & LAUNCH_NEW_NETWORK) ||
        is->cgroup_version != was.cgroup_version || is->uid != was.uid || is->gid != was.gid ||
        is->host_uid != was.host_uid || is->host_gid != was.host_gid || is->tmp_bytes != was.tmp_bytes ||
        is->work_bytes != was.work_bytes || is->tmpfs_inodes != was.tmpfs_inodes || is->nofile != was.nofile ||
        !equal(spec->hostname, hostname))
        fail(STAGE_SPEC, 0, "spec: init was prepared for another kind of job");
}
