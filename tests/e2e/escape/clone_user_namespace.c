/* Tries: makes one by clone(2) with CLONE_NEWUSER
 * Must:  EPERM
 * See:   clone(2) */
#include "attempt.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/wait.h>

int main(void)
{
    long pid = attempt("clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0)
        _exit(0);
    waitpid((pid_t)pid, NULL, 0);
    reached("a process in another user namespace");
}
