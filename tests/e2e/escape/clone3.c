/* Tries: makes one by clone3(2), whose flags lie in memory where no filter can look
 * Must:  ENOSYS
 * See:   clone3(2); seccomp(2): filters cannot follow pointers */
#include "attempt.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/wait.h>

int main(void)
{
    struct clone_args arguments = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    long pid = attempt("clone3", syscall(SYS_clone3, &arguments, sizeof arguments));
    if (pid == 0)
        _exit(0);
    waitpid((pid_t)pid, NULL, 0);
    reached("a process in another user namespace");
}
