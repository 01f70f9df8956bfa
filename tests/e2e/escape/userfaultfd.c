/* Tries: stops the kernel in the middle of a copy, which exploits of races need
 * Must:  EPERM
 * See:   userfaultfd(2) */
#include "attempt.h"

int main(void)
{
    attempt("userfaultfd", syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */));
    reached("a descriptor");
}
