/* Tries: takes the log's descriptor out of the job's init
 * Must:  EPERM
 * See:   pidfd_getfd(2) */
#include "attempt.h"

int main(void)
{
    int init = (int)attempt("pidfd_open", syscall(SYS_pidfd_open, 1, 0));
    attempt("pidfd_getfd", syscall(SYS_pidfd_getfd, init, 8, 0));
    reached("the log of init");
}
