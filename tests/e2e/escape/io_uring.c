/* Tries: submits calls through a ring, past every seccomp filter
 * Must:  EPERM
 * See:   io_uring_setup(2); CVE-2022-29582 and others */
#include "attempt.h"

int main(void)
{
    char parameters[120] = {0};
    attempt("io_uring_setup", syscall(SYS_io_uring_setup, 1, parameters));
    reached("a ring");
}
