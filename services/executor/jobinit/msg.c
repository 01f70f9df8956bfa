/* Messages to the executor, and the one way a launch fails. */
#include "stages.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

enum role role = ROLE_INIT;

void message_make(struct msg *message, uint32_t type, uint32_t stage, long error, const char *detail)
{
    *message = (struct msg){.type = type, .stage = stage, .error = (int32_t)error};
    text_append(message->detail, message->detail + sizeof message->detail - 1, detail);
}

/* SEQPACKET: all or nothing. A dead executor is -EPIPE, not SIGPIPE. */
long message_send(const struct msg *message, int pass_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msg copy = *message;
    struct iovec part = {&copy, sizeof copy};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (pass_fd >= 0) {
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        __builtin_memcpy(CMSG_DATA(&control.header), &pass_fd, sizeof pass_fd);
        header.msg_control = &control;
        header.msg_controllen = sizeof control;
    }
    return sys(SYS_sendmsg, FD_CONTROL, &header, MSG_NOSIGNAL);
}

/* The executor may be gone and the disk may be full: this is already the error path, its own errors have no reader. */
static void leave_record(const struct msg *message)
{
    struct record record = {
        .exit_code = EXIT_LAUNCH,
        .reason = REASON_LAUNCH_FAILED,
        .stage = message->stage,
        .error = message->error,
        .start_ns = clock_ns(CLOCK_REALTIME),
    };
    record.end_ns = record.start_ns;
    text_append(record.detail, record.detail + sizeof record.detail - 1, message->detail);
    if (message->stage != STAGE_SUPERVISE) {
        record_write(&record); /* the log stays open: see the end of supervise.c */
        return;
    }
    /* A running job whose init cannot go on: the same end as in supervise.c, without its decisions. */
    sys(SYS_kill, -1, SIGKILL);
    while (sys(SYS_wait4, -1, NULL, __WALL, NULL) > 0)
        continue;
    record_write(&record);
    pump_finish();
}

static int status_for(uint32_t stage, long error)
{
    if (stage != STAGE_RESOLVE && stage != STAGE_EXEC)
        return EXIT_LAUNCH;
    return error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}

_Noreturn void fail(uint32_t stage, long error, const char *detail)
{
    struct msg message;
    if (role == ROLE_COLLECTOR)
        leave(EXIT_LAUNCH); /* init sees it, and the executor says that outputs are not complete */
    message_make(&message, MSG_ERROR, stage, error, detail);
    if (role == ROLE_COMMAND)
        sys(SYS_write, FD_LAUNCH_WRITE, &message, sizeof message); /* init turns it into the record */
    else
        leave_record(&message);
    message_send(&message, -1);
    leave(status_for(stage, error));
}
